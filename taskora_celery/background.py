"""The one place that starts threads."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

__all__ = ["Background", "in_background"]

logger = logging.getLogger("taskora_celery")

#: How long :meth:`Background.stop` waits for the thread, in seconds.
JOIN_TIMEOUT = 5.0


class Background:
    """A named daemon thread that takes turns: ``turn()`` does what is due and returns the seconds to the next, None for never.

    Thread contract: started by :meth:`start`, and not again after :meth:`stop`; asleep between two turns until :meth:`wake`; it
    survives any error of a turn, which is logged, and takes the next one after ``pause`` seconds. :meth:`stop` wakes it and
    joins it for at most ``JOIN_TIMEOUT`` seconds, with a warning that names it. Not to be used over a fork: make a new one there.
    """

    def __init__(self, name: str, turn: Callable[[], float | None], *, pause: float = 1.0) -> None:
        self.name = name
        self._turn = turn
        self._pause = pause
        # Not an event: this one may be put to by a signal handler, whatever its thread was doing.
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, once."""
        if self._thread is None and not self._stopping:
            self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
            self._thread.start()

    def wake(self) -> None:
        """Take the next turn now. May be called by a signal handler."""
        self._wakes.put(None)

    def stop(self) -> None:
        """End the thread behind the turn that it is in; bounded, and idempotent."""
        self._stopping = True
        self._wakes.put(None)
        thread, self._thread = self._thread, None
        if thread is None or thread is threading.current_thread():
            return
        thread.join(JOIN_TIMEOUT)
        if thread.is_alive():
            logger.warning("thread %s did not stop within %g s; it is left to end with the process", self.name, JOIN_TIMEOUT)

    def _run(self) -> None:
        while not self._stopping:
            try:
                pause = self._turn()
            except Exception:  # the thread's outer edge: it must outlive whatever a driver does
                logger.exception("thread %s failed in one turn; it goes on", self.name)
                pause = self._pause
            if not self._stopping:
                self._sleep(pause)

    def _sleep(self, pause: float | None) -> None:
        with contextlib.suppress(Empty):
            self._wakes.get(timeout=pause)
            while True:  # several calls of `wake` are one turn
                self._wakes.get_nowait()


def in_background(name: str, action: Callable[[], object]) -> None:
    """Call ``action`` once, in a daemon thread of its own that ends with it; what it raises is logged."""

    def turn() -> None:
        try:
            action()
        except Exception:  # the thread's outer edge
            logger.exception("thread %s failed", name)
        finally:
            thread.stop()

    thread = Background(name, turn)
    thread.start()
