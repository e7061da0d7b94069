"""``ctx.signal`` in virtual time."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Protocol

from taskora_celery.clock import in_seconds
from taskora_celery.signal import Signal
from taskora_celery.testing.clock import VirtualClock

__all__ = ["VirtualSignal"]

#: Behind so many virtual seconds (a day) a wait without a timeout is taken for endless.
_FOR_EVER = 86_400.0


class Sleeper(Protocol):
    """A context that sleeps in virtual time."""

    @property
    def clock(self) -> VirtualClock:
        """Its clock."""

    def pass_time(self, duration: float) -> None:
        """Let virtual time pass, until the job should stop."""

    def arrive(self) -> None:
        """Raise in the handler what is to interrupt it."""


class VirtualSignal(Signal):
    """A signal whose waiting takes virtual time, in the handler's thread."""

    __slots__ = ("_sleeper", "_thread")

    def __init__(self, sleeper: Sleeper) -> None:
        super().__init__()
        self._sleeper = sleeper
        self._thread = threading.get_ident()

    def wait(self, timeout: float | timedelta | None = None) -> bool:
        """Let virtual time pass until the abort, or for ``timeout`` seconds; return ``aborted``.

        In other threads than the handler's, which wait for its work to go on, it is real time.

        :raises RuntimeError: without a timeout, where nothing fires the signal within a virtual day.
        """
        if threading.get_ident() != self._thread:
            return super().wait(timeout)
        if timeout is not None:
            self._sleeper.pass_time(in_seconds(timeout))
        elif not self._sleeper.clock.wait(lambda: self.aborted, _FOR_EVER):
            raise RuntimeError("ctx.signal.wait() would never return: nothing fires the signal within a virtual day")
        self._sleeper.arrive()
        return self.aborted
