"""Our own lines at the beginning and the end of a job, without an exception from outside in the middle of them.

Celery's soft time limit in prefork is SIGUSR1, whose handler raises ``SoftTimeLimitExceeded`` wherever the main thread is:
between the acquisition of a lock and the ``try`` that would release it, or in a round trip. Held back, it arrives right behind.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["undisturbed"]

_SOFT_LIMIT: int | None = getattr(signal, "SIGUSR1", None)
if _SOFT_LIMIT is not None:
    _SOFT_LIMIT = int(_SOFT_LIMIT)
#: The functions below the standard library's, which turn numbers into enums and back: a tenth of the time, and each job pays it.
_get = getattr(signal.getsignal, "__wrapped__", signal.getsignal)
_set = getattr(signal.signal, "__wrapped__", signal.signal)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold back the soft time limit's handler, which runs in the main thread; it costs two microseconds."""
    # A blocked signal would not do: the kernel gives it to another thread, and Python runs the handler in the main one at once.
    theirs = None
    if _SOFT_LIMIT is not None and threading.get_ident() == threading.main_thread().ident:
        theirs = _get(_SOFT_LIMIT)
    if _SOFT_LIMIT is None or not callable(theirs):
        yield
        return
    held: list[tuple[int, FrameType | None]] = []
    _set(_SOFT_LIMIT, lambda number, frame: held.append((number, frame)))
    try:
        yield
    finally:
        _set(_SOFT_LIMIT, theirs)
        if held:
            theirs(*held[0])
