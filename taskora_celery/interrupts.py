"""How a handler that does not stop by itself is interrupted: an exception raised in it, from outside, and never after its end.

Which way there is depends on where the handler runs: in the main thread a signal of our own (it also ends a blocking call), in
another thread Python's asynchronous exception (it waits for a blocking call to return), in a greenlet its hub.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded

from taskora_celery.errors import JobCancelledError

__all__ = ["Interrupt", "interrupt_for"]

#: A signal that nobody else uses: the soft time limit of Celery's pool is SIGUSR1, and is told apart. Where there are no
#: real-time signals (macOS), SIGUSR2.
_SIGNAL: int | None = (signal.SIGRTMIN + 7) if hasattr(signal, "SIGRTMIN") else getattr(signal, "SIGUSR2", None)


class Interrupt:
    """Raises an exception in one handler, while it runs. Any thread may :meth:`fire`; the handler's own does the rest.

    This base cannot interrupt: ``can`` is False, and :meth:`fire` says so. Shielded, an interruption waits for the shield's end.
    """

    can = False
    #: Whether what was fired may arrive late, so that it has to be pressed for.
    may_be_late = False
    #: Whether the handler is a coroutine: nothing is raised in the thread that waits for it.
    on_loop = False
    #: The signal's firing interrupts nothing: a plain revoke never interrupts what runs.
    gently = False

    def __init__(self) -> None:
        # Reentrant: an exception of ours may land in a `with` of it in the handler's thread.
        self._lock = threading.RLock()
        self._open = False
        self._shields = 0
        self._pending: type[BaseException] | None = None

    def open(self) -> None:
        """Begin: the handler is about to be called, in this thread."""
        self._open = True

    def close(self) -> None:
        """End: from here on nothing is raised any more. An interruption that lands in these lines is dropped."""
        while True:
            try:
                with self._lock:
                    self._open = False
                    self._pending = None
                    self._take_back()
                return  # noqa: TRY300 - an exception may land here, too
            except (SoftTimeLimitExceeded, JobCancelledError):
                continue

    def fire(self, exc: type[BaseException]) -> bool:
        """Raise ``exc`` in the handler, at once or after its shield; say whether that can be done here."""
        with self._lock:
            if not self._open or not self.can:
                return False
            if self._shields:
                self._pending = exc
            else:
                self._raise(exc)
            return True

    def end(self) -> bool:
        """End a handler that catches what was fired; false where only its process can be ended."""
        return False

    def press(self) -> bool:
        """Send once more what has not arrived yet; say whether there is such a thing."""
        with self._lock:
            pending = self._pending if self._open and not self._shields else None
            if pending is not None:
                self._raise(pending)
            return pending is not None

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Let nothing interrupt the block; what was to, does after it."""
        with self._lock:
            self._let_in()
            self._shields += 1
        try:
            yield
        finally:
            with self._lock:
                self._shields -= 1
                pending = self._pending if self._open and not self._shields else None
                if pending is not None:
                    self._pending = None
            if pending is not None:
                raise pending

    def _raise(self, exc: type[BaseException]) -> None:
        """Make it arrive in the handler's thread. Called under the lock."""

    def _take_back(self) -> None:
        """Keep what has not arrived yet from arriving. Called under the lock, in the handler's thread."""

    def _let_in(self) -> None:
        """Let what is on its way arrive now, where it could not be told later from what has arrived. Called likewise."""


class _Signals:
    """The process's handler of our signal. It raises in the main thread what is pending for the handler that runs there."""

    def __init__(self) -> None:
        self.current: Interrupt | None = None
        self._installed = False

    def install(self) -> bool:
        if not self._installed and _SIGNAL is not None:
            before = signal.getsignal(_SIGNAL)
            if callable(before) or before is signal.SIG_IGN:
                return False  # somebody else's
            signal.signal(_SIGNAL, self)
            self._installed = True
        return self._installed

    def __call__(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler's
        current = self.current
        # No lock: this runs between any two lines of the main thread, which may hold it.
        if current is None or not current._open or current._shields or current._pending is None:  # noqa: SLF001
            return
        pending, current._pending = current._pending, None  # noqa: SLF001
        raise pending


_signals = _Signals()


class _MainThreadInterrupt(Interrupt):
    """By a signal: it ends sleep, recv and locks at once, and a long call into C when that returns.

    One that comes in the moment before a call begins to wait does not end it: the next one does.
    """

    can = True
    may_be_late = True

    def open(self) -> None:
        _signals.current = self
        super().open()

    def close(self) -> None:
        super().close()
        _signals.current = None

    def _raise(self, exc: type[BaseException]) -> None:
        assert _SIGNAL is not None
        self._pending = exc  # the signal's handler takes it from here
        signal.pthread_kill(threading.main_thread().ident or 0, _SIGNAL)


class _ThreadInterrupt(Interrupt):
    """By Python's asynchronous exception: between two bytecodes, so a blocking call ends first."""

    can = True

    def __init__(self) -> None:
        super().__init__()
        self._thread: int | None = None

    def open(self) -> None:
        self._thread = threading.get_ident()
        super().open()

    def _raise(self, exc: type[BaseException]) -> None:
        import ctypes  # by whoever fires: 0.2 MB, which most processes never need

        assert self._thread is not None
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(exc))

    def _take_back(self) -> None:
        # It arrives here, and is dropped. To unset it would leave CPython before 3.13 looking for it between any two steps of all
        # threads, for as long as the process lives: 3.12 is 1.6 times as slow then, and 3.11 hangs under a profiler.
        self._let_in()

    def _let_in(self) -> None:
        for _ in range(2):  # it is raised at a jump backwards at the latest
            pass


class _GreenletInterrupt(Interrupt):
    """Through the hub: at the handler's next switch. Code that never waits is never reached."""

    can = True

    def __init__(self, library: str) -> None:
        super().__init__()
        self._library = library
        self._greenlet: Any = None

    def open(self) -> None:
        import greenlet

        self._greenlet = greenlet.getcurrent()
        super().open()

    def _raise(self, exc: type[BaseException]) -> None:
        self._pending = exc
        if self._library == "gevent":
            import gevent

            gevent.get_hub().loop.run_callback(self._throw)
        else:
            import eventlet.hubs

            eventlet.hubs.get_hub().schedule_call_global(0, self._throw)

    def _throw(self) -> None:
        # In the hub: the handler waits for something, or has ended meanwhile.
        if self._open and not self._shields and self._pending is not None and not self._greenlet.dead:
            pending, self._pending = self._pending, None
            self._greenlet.throw(pending)


def interrupt_for(environment: str) -> Interrupt:
    """Return the way to interrupt the handler that is about to run in this thread or greenlet.

    ``environment`` is ``"gevent"``, ``"eventlet"`` or ``"default"``.
    """
    if environment in {"gevent", "eventlet"}:
        return _GreenletInterrupt(environment)
    if threading.get_ident() == threading.main_thread().ident:
        return _MainThreadInterrupt() if _signals.install() else Interrupt()
    return _ThreadInterrupt() if sys.implementation.name == "cpython" else Interrupt()
