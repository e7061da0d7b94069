"""``ctx.signal``: how a running job learns that it should stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Literal

from taskora_celery.clock import in_seconds
from taskora_celery.errors import JobAbortedError

__all__ = ["AbortReason", "Signal"]

logger = logging.getLogger("taskora_celery.signal")

AbortReason = Literal["cancelled", "timeout", "shutdown", "superseded"]
Listener = Callable[["Signal"], object]


class Signal:
    """Fires once, when the job should stop; can be used like a ``threading.Event``.

    ``aborted`` is False until then. ``reason`` is then ``"cancelled"``, ``"timeout"``, ``"shutdown"`` or ``"superseded"``, and
    ``message`` a text or None. The first abort wins, and it never resets. Safe to use from any thread and from coroutines.
    """

    __slots__ = ("_first", "_listeners", "_lock", "_waiters", "aborted", "message", "reason")

    def __init__(self) -> None:
        self.aborted = False
        self.reason: AbortReason | None = None
        self.message: str | None = None
        #: Whoever takes the one item is the first; no lock, since a signal handler may be.
        self._first = [True]
        self._lock = threading.Lock()
        #: One lock for each thread that waits, which holds it and is woken by its release.
        self._waiters: list[threading.Lock] = []
        self._listeners: list[Listener] = []

    def is_set(self) -> bool:
        """Return ``aborted``, under the name that ``threading.Event`` has for it."""
        return self.aborted

    def wait(self, timeout: float | timedelta | None = None) -> bool:
        """Block until the abort, or for ``timeout`` seconds; return ``aborted``."""
        pause = -1 if timeout is None else max(in_seconds(timeout), 0)
        # Not an event: a time limit that lands where one takes its lock leaves it locked, and who fires would hang in it.
        waiter = threading.Lock()
        waiter.acquire()
        with self._lock:
            if self.aborted:
                return True
            self._waiters.append(waiter)
        try:
            waiter.acquire(timeout=pause)
        finally:
            with self._lock, contextlib.suppress(ValueError):
                self._waiters.remove(waiter)
        return self.aborted

    async def wait_async(self) -> None:
        """Wait for the abort without blocking the event loop."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def settle() -> None:
            if not done.done():
                done.set_result(None)

        def wake(_: Signal) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle)

        self.add_listener(wake)
        try:
            await done
        finally:
            self.remove_listener(wake)

    def add_listener(self, callback: Listener) -> None:
        """Call ``callback(signal)`` at the abort, from the thread that fires it; at once if it has fired.

        That thread is the library's, and serves other jobs: a callback must not block. What takes time belongs into a thread.

        A callback that raises is logged, and neither the job nor the other callbacks notice.

        :raises TypeError: it cannot be called.
        """
        if not callable(callback):
            raise TypeError(f"callback={callback!r} cannot be called: give the function itself, not what it returns")
        with self._lock:
            if not self.aborted:
                self._listeners.append(callback)
                return
        self._call(callback)

    def remove_listener(self, callback: Listener) -> None:
        """Take a callback back; one that is not there is no error."""
        with self._lock, contextlib.suppress(ValueError):
            self._listeners.remove(callback)

    def raise_if_aborted(self) -> None:
        """Do nothing while the job may go on.

        :raises JobAbortedError: the signal has fired; let it leave the handler.
        """
        if self.aborted:
            raise JobAbortedError(self.reason or "cancelled", self.message)

    def abort(self, reason: AbortReason, message: str | None = None) -> bool:
        """Fire. For the library and for tests: a job is stopped through its handle. Return False where it had fired before."""
        if not self.mark(reason, message):
            return False
        self.tell()
        return True

    def mark(self, reason: AbortReason, message: str | None = None) -> bool:
        """Set the fields, and wake nobody: what a signal handler may do. :meth:`tell` must follow, in another thread."""
        try:
            self._first.pop()
        except IndexError:
            return False
        self.reason, self.message = reason, message
        self.aborted = True
        return True

    def tell(self) -> None:
        """Wake who waits, and call the listeners."""
        with self._lock:
            waiters, self._waiters = self._waiters, []
            listeners, self._listeners = self._listeners, []
        for waiter in waiters:
            waiter.release()
        for callback in listeners:
            self._call(callback)

    def _call(self, callback: Listener) -> None:
        try:
            callback(self)
        except BaseException:  # a user's callback, on a thread of ours; the abort must reach the others
            logger.exception("a listener of ctx.signal failed")

    def __repr__(self) -> str:
        return f"<Signal {self.reason}>" if self.aborted else "<Signal not aborted>"
