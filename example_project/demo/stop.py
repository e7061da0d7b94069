"""How the demo ends early: by a signal, or by an error that it can explain."""

from __future__ import annotations

import signal
import time

__all__ = ["DemoError", "Interrupted", "Stop"]

#: Seconds between two looks at whether a signal came.
TICK = 0.05
#: A second signal within so many seconds is the first one's echo: tox sends one of its own on Ctrl-C.
ECHO = 0.7


class DemoError(Exception):
    """The demo cannot go on; the message says why and what to do. ``code`` is the exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class Interrupted(Exception):  # noqa: N818 - no error: somebody wished it
    """A signal asked the demo to end; ``code`` is the exit code that shells expect then."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.code = 128 + signum


class Stop:
    """Remembers that a signal came, and raises only where :meth:`check` is called: so nothing is left half started.

    :attr:`insisted` is true once it came again.
    """

    def __init__(self) -> None:
        self.insisted = False
        self._signum = 0
        self._since = 0.0

    def install(self) -> None:
        """Take over SIGINT, SIGTERM and SIGHUP of this process; the main thread only."""
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, self._note)

    @property
    def name(self) -> str | None:
        """The signal that came first, None before."""
        return signal.Signals(self._signum).name if self._signum else None

    def check(self) -> None:
        """Go on, or end.

        :raises Interrupted: a signal came.
        """
        if self._signum:
            raise Interrupted(self._signum)

    def sleep(self, seconds: float) -> None:
        """Sleep, but no longer than until a signal comes.

        :raises Interrupted: it came.
        """
        end = time.monotonic() + seconds
        self.check()
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(TICK, left))
            self.check()

    def _note(self, signum: int, _frame: object) -> None:
        now = time.monotonic()
        if not self._signum:
            self._signum, self._since = signum, now
        elif signum == signal.SIGINT and now - self._since > ECHO:
            self.insisted = True
