"""The threads of this library, how they are started, and how they are woken."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextvars import Context as Variables
from typing import Any
from weakref import WeakValueDictionary

__all__ = ["Background", "Wakes", "in_background", "start_thread"]

logger = logging.getLogger("taskora_celery")

#: How long :meth:`Background.stop` waits for the thread, in seconds.
JOIN_TIMEOUT = 5.0
#: How long a fork waits for the end of a turn, in seconds: longer than a driver waits for an answer.
FORK_TIMEOUT = 10.0


def start_thread(name: str, run: Callable[..., object], *args: Any) -> threading.Thread:
    """Start a daemon thread that calls ``run(*args)`` in no job's context variables, and return it.

    Tracers (Sentry, OpenTelemetry) give a new thread what its starter was doing. Ours live as long as the process, and would
    work in the name of the job that was there first, and keep its arguments alive.
    """
    thread = threading.Thread(target=run, args=args, name=name, daemon=True)
    Variables().run(thread.start)
    return thread


class Wakes:
    """Wakes one thread, as an event would, but holds no lock of Python's on the way; several calls are one.

    So a signal handler may call it, whatever its thread was doing; and an exception that a signal handler raises in the middle of
    a call (a time limit, an interruption) leaves nothing locked, in which the woken thread, and then the next caller, would
    wait for ever. In a forked child it wakes nobody.
    """

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        # By the module: Python may be patched for greenlets after this one was imported, and the patched one stands there.
        self._calls: queue.SimpleQueue[None] = queue.SimpleQueue()

    def is_set(self) -> bool:
        """Say whether there was a call that nobody has taken."""
        return not self._calls.empty()

    def set(self) -> None:
        """Wake the thread, or keep it from falling asleep."""
        if self._calls.empty():  # else the turn that takes this is still to come
            self._calls.put(None)

    def wait(self, timeout: float | None) -> None:
        """Sleep until a call, for ``timeout`` seconds at most (None: for as long as it takes). For the one thread."""
        with contextlib.suppress(queue.Empty):
            self._calls.get(timeout=timeout)

    def clear(self) -> None:
        """Take all calls: what comes from now on is heard by the next :meth:`wait`. For the one thread."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._calls.get_nowait()


class Background:
    """A named daemon thread that takes turns: ``turn()`` does what is due and returns the seconds to the next, None for never.

    Thread contract: started by :meth:`start`, and not again after :meth:`stop`; asleep between two turns until :meth:`wake`; it
    survives any error of a turn, which is logged, and takes the next one after ``pause`` seconds. :meth:`stop` wakes it and
    joins it for at most ``JOIN_TIMEOUT`` seconds, with a warning that names it. Not to be used over a fork: make a new one there.

    No process is forked in the middle of a turn (a fork waits for its end for at most ``FORK_TIMEOUT`` seconds): the locks that a
    turn holds, those of a driver's connection pool say, would be held in the child for ever. A turn that waits for long, and
    holds nothing meanwhile, does so in :meth:`waiting`.
    """

    def __init__(self, name: str, turn: Callable[[], float | None], *, pause: float = 1.0) -> None:
        self.name = name
        self._turn = turn
        self._pause = pause
        self._wakes = Wakes()
        self._stopping = False
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        #: Held during a turn, and by whoever forks.
        self._turning = threading.RLock()
        _all[id(self)] = self

    def start(self) -> None:
        """Start the thread, once."""
        if self._thread is not None:
            return
        with self._starting:
            if self._thread is None and not self._stopping:
                self._thread = start_thread(self.name, self._run)

    def wake(self) -> None:
        """Take the next turn now. May be called by a signal handler."""
        self._wakes.set()

    def stop(self) -> None:
        """End the thread after the turn that it is in; bounded, and idempotent."""
        self._stopping = True
        self._wakes.set()
        thread, self._thread = self._thread, None
        if thread is None or thread is threading.current_thread():
            return
        thread.join(JOIN_TIMEOUT)
        if thread.is_alive():
            logger.warning("thread %s did not stop within %g s; it is left to end with the process", self.name, JOIN_TIMEOUT)

    def _run(self) -> None:
        while not self._stopping:
            try:
                with self._turning:
                    pause = self._turn()
            except BaseException:  # the thread's outer edge: it must outlive whatever a driver or a user's callback does
                logger.exception("thread %s failed in one turn; it goes on", self.name)
                pause = self._pause
            if not self._stopping:
                self._wakes.wait(pause)
                self._wakes.clear()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """In a turn: let processes be forked during the block."""
        self._turning.release()
        try:
            yield
        finally:
            self._turning.acquire()

    def rest(self) -> bool:
        """Wait for the end of the turn, and let none begin until :meth:`go_on`; False where it took too long."""
        return self._turning.acquire(timeout=FORK_TIMEOUT)

    def go_on(self) -> None:
        """Undo :meth:`rest`."""
        self._turning.release()


_all: WeakValueDictionary[int, Background] = WeakValueDictionary()


class _Resting(threading.local):
    """What rests for the fork of this thread: another's may fork as well."""

    def __init__(self) -> None:
        self.threads: list[Background] = []


_resting = _Resting()


def _before_fork() -> None:
    # Copied in one step: meanwhile another thread may make one more.
    living = [background for reference in _all.valuerefs() if (background := reference()) is not None]
    _resting.threads = [background for background in living if background.rest()]


def _after_fork() -> None:
    resting, _resting.threads = _resting.threads, []
    for background in reversed(resting):
        background.go_on()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def in_background(name: str, action: Callable[[], object]) -> None:
    """Call ``action`` once, in a daemon thread of its own that ends with it; what it raises is logged."""

    def turn() -> None:
        try:
            with thread.waiting():  # it holds nothing of ours, and may take long: no fork waits for it
                action()
        except Exception:  # the thread's outer edge
            logger.exception("thread %s failed", name)
        finally:
            thread.stop()

    thread = Background(name, turn)
    thread.start()
