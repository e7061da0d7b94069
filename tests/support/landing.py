"""An interruption that lands at the worst place: where a lock has just been taken, and before anything would release it."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from taskora_celery.errors import JobCancelledError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def landing_in_a_lock() -> Iterator[None]:
    """Raise ``JobCancelledError`` in the block, in the first line of the standard library's ``threading`` that takes a lock.

    A signal handler may raise there: between two steps of an event's own code. It leaves the block quietly; where
    there is no such line, nothing happens.
    """

    def land(frame: Any, event: str, arg: Any) -> None:
        taken = event == "c_return" and getattr(arg, "__name__", "") in {"__enter__", "acquire"}
        if taken and frame.f_globals.get("__name__") == threading.__name__:
            sys.setprofile(None)
            raise JobCancelledError

    sys.setprofile(land)
    try:
        with suppress(JobCancelledError):
            yield
    finally:
        sys.setprofile(None)


def ends(call: Any, *args: Any) -> bool:
    """Say whether a call returns, in a thread of its own, within five seconds."""
    thread = threading.Thread(target=call, args=args, daemon=True)
    thread.start()
    thread.join(5)
    return not thread.is_alive()
