"""Our own lines at the beginning and the end of a job, without an exception from outside in the middle of them.

Celery's soft time limit in prefork is SIGUSR1, whose handler raises ``SoftTimeLimitExceeded`` wherever the main thread is:
between the acquisition of a lock and the ``try`` that would release it, or in a round trip. Held back, it arrives right after.
"""

from __future__ import annotations

import signal
import threading
from _signal import getsignal  # type: ignore[import-not-found]  # signal.getsignal turns the number into an enum first: 7 us, for each job
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["at_soft_limit", "undisturbed"]

_SOFT_LIMIT: int | None = int(signal.SIGUSR1) if hasattr(signal, "SIGUSR1") else None


class _Gate:
    """Stands before the process's handler of the soft limit, from the first job on; open, it hands the signal on at once.

    A gate, since a blocked signal would not do (the kernel gives it to another thread, and Python runs the handler in the main
    one at once), and since to swap the handler twice for each job costs 20 us in system calls.
    """

    def __init__(self) -> None:
        self.shut = False
        self.waiting: tuple[int, FrameType | None] | None = None
        self.theirs: Callable[[int, FrameType | None], Any] = _nothing
        #: Asked whether a soft limit that comes is held off.
        self.holds_off: Callable[[], bool] | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.shut:
            self.waiting = (number, frame)
        elif self.holds_off is None or not self.holds_off():
            self.theirs(number, frame)

    def close(self) -> bool:
        """Hold back what comes, until :meth:`open`; say whether that was this call's doing, in the main thread."""
        if self.shut or not self.stands():
            return False
        self.shut = True
        return True

    def open(self) -> None:
        """Hand on what was held back, and what comes from now on."""
        self.shut = False
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            self(*waiting)

    def stands(self) -> bool:
        """Say whether it stands before a handler in this thread; put it there where it does not."""
        if _SOFT_LIMIT is None or threading.get_ident() != threading.main_thread().ident:
            return False  # handlers run in the main thread
        theirs = getsignal(_SOFT_LIMIT)
        if theirs is self:
            return True
        if not callable(theirs):
            return False
        self.theirs = theirs
        signal.signal(_SOFT_LIMIT, self)
        return True


def _nothing(number: int, frame: FrameType | None) -> None:
    """Do nothing."""


_gate = _Gate()


def at_soft_limit(holds_off: Callable[[], bool] | None) -> None:
    """Ask this, in the signal handler, whenever Celery's soft limit comes; it returns whether the limit is held off.

    Called by the thread of a handler, with None at its end; in any thread but the main one it does nothing.
    """
    if threading.get_ident() == threading.main_thread().ident:
        _gate.holds_off = holds_off


class undisturbed:  # noqa: N801 - the name of a block, as those of contextlib
    """Hold back the soft time limit in the main thread until the block ends; of blocks in one another, the outermost counts."""

    # Not a generator: a job has three of these blocks, and each was 2 us more.
    __slots__ = ("_closed",)

    def __init__(self) -> None:
        self._closed = False

    def __enter__(self) -> None:
        self.hold()

    def __exit__(self, *_: object) -> None:
        self.let_through()

    def hold(self) -> None:
        """Hold the limit back from here on, behind :meth:`let_through`."""
        if not self._closed:
            self._closed = _gate.close()

    def let_through(self) -> None:
        """Let the limit through in the middle of the block; one that was held back is raised here."""
        if self._closed:
            self._closed = False
            _gate.open()
