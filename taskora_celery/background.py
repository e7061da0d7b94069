"""The one place that starts threads."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from weakref import WeakSet

__all__ = ["Background"]

logger = logging.getLogger("taskora_celery")

#: How long :meth:`Background.stop` waits for the thread, in seconds.
JOIN_TIMEOUT = 5.0
#: How long a fork waits for the end of a turn, in seconds: longer than a driver waits for an answer.
FORK_TIMEOUT = 10.0


class Background:
    """A named daemon thread that takes turns: ``turn()`` does what is due and returns the seconds to the next, None for never.

    Thread contract: started by :meth:`start`, and not again after :meth:`stop`; asleep between two turns until :meth:`wake`; it
    survives any error of a turn, which is logged, and takes the next one after ``pause`` seconds. :meth:`stop` wakes it and
    joins it for at most ``JOIN_TIMEOUT`` seconds, with a warning that names it. Not to be used over a fork: make a new one there.

    No process is forked in the middle of a turn (a fork waits for its end for at most ``FORK_TIMEOUT`` seconds): the locks that a
    turn holds, those of a driver's connection pool say, would be held in the child for ever.
    """

    def __init__(self, name: str, turn: Callable[[], float | None], *, pause: float = 1.0) -> None:
        self.name = name
        self._turn = turn
        self._pause = pause
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        #: Held during a turn, and by whoever forks.
        self._turning = threading.RLock()
        _all.add(self)

    def start(self) -> None:
        """Start the thread, once."""
        if self._thread is None and not self._stopping:
            self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
            self._thread.start()

    def wake(self) -> None:
        """Take the next turn now."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread behind the turn that it is in; bounded, and idempotent."""
        self._stopping = True
        self._wake.set()
        thread, self._thread = self._thread, None
        if thread is None or thread is threading.current_thread():
            return
        thread.join(JOIN_TIMEOUT)
        if thread.is_alive():
            logger.warning("thread %s did not stop within %g s; it is left to end with the process", self.name, JOIN_TIMEOUT)

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                with self._turning:
                    pause = self._turn()
            except Exception:  # the thread's outer edge: it must outlive whatever a driver does
                logger.exception("thread %s failed in one turn; it goes on", self.name)
                pause = self._pause
            if not self._stopping:
                self._wake.wait(pause)

    def rest(self) -> bool:
        """Wait for the end of the turn, and let none begin until :meth:`go_on`; False where it took too long."""
        return self._turning.acquire(timeout=FORK_TIMEOUT)

    def go_on(self) -> None:
        """Undo :meth:`rest`."""
        self._turning.release()


_all: WeakSet[Background] = WeakSet()
_resting: list[Background] = []


def _before_fork() -> None:
    _resting[:] = [background for background in list(_all) if background.rest()]


def _after_fork() -> None:
    while _resting:
        _resting.pop().go_on()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
