"""An interruption that lands at the worst place: where a lock has just been taken, and before anything would release it."""

from __future__ import annotations

import signal
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


#: What stands for another process, and what Celery's tracer calls behind an execution: that is as its own lines are.
_ELSEWHERE = (
    "taskora_celery.store.memory", "taskora_celery.testing", "taskora_celery.frames", "taskora_celery.entry",
    "taskora_celery.task", "taskora_celery.standin",
)  # fmt: skip


class Landing:
    """Sends the soft limit's signal to this thread before the ``number``-th step that the library takes in an execution.

    ``where`` is the line of that step, None where there are not so many.
    """

    def __init__(self, number: int) -> None:
        self.where: str | None = None
        self._left = number
        self._running = False

    def __enter__(self) -> None:
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: Any, event: str, arg: Any) -> Any:
        module = str(frame.f_globals.get("__name__"))
        if module == "taskora_celery.execution" and frame.f_code.co_name == "run":
            self._running = True
        if frame.f_code.co_name == "at_soft_limit" and frame.f_locals["holds_off"] is None:
            self._running = False  # from here on it is Celery's limit again, in a few last steps
        if not self._running or not module.startswith("taskora_celery") or module.startswith(_ELSEWHERE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: Any, event: str, arg: Any) -> Any:
        if event == "opcode" and self._running:
            self._left -= 1
            if self._left == 0:
                self.where = f"{frame.f_globals['__name__']}:{frame.f_lineno}"
                sys.settrace(None)
                signal.raise_signal(signal.SIGUSR1)
        return self._step


def ends(call: Any, *args: Any) -> bool:
    """Say whether a call returns, in a thread of its own, within five seconds."""
    thread = threading.Thread(target=call, args=args, daemon=True)
    thread.start()
    thread.join(5)
    return not thread.is_alive()
