"""Time that passes only where the kit says so."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable

__all__ = ["VirtualClock"]


class VirtualClock:
    """Both clocks of :class:`taskora_celery.clock.Clock`; it stands still until :meth:`advance`.

    It starts at a whole second, so that instants in milliseconds are exact. Safe to use from several threads.
    """

    def __init__(self, start: float | None = None) -> None:
        """``start`` is in seconds since the epoch, by default the present."""
        self._start = float(int(time.time())) if start is None else start
        self._elapsed = 0.0
        self._lock = threading.Lock()
        self._alarms: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        """Seconds since the epoch."""
        return self._start + self._elapsed

    def monotonic(self) -> float:
        """Seconds since the clock's start."""
        return self._elapsed

    def call_in(self, seconds: float, action: Callable[[], object]) -> None:
        """Call ``action`` when so many seconds have passed, in the thread that lets them pass."""
        with self._lock:
            heapq.heappush(self._alarms, (self._elapsed + max(seconds, 0.0), next(self._numbers), action))

    def advance(self, seconds: float, until: Callable[[], object] | None = None) -> None:
        """Let time pass, and do what is due meanwhile; stop where ``until()`` is true after something that was done."""
        target = self._elapsed + seconds
        while (action := self._next(target)) is not None:
            action()
            if until is not None and until():
                return

    def wait(self, until: Callable[[], object], at_most: float) -> bool:
        """Let time pass until ``until()`` is true, for ``at_most`` seconds; say whether it is."""
        if not until():
            self.advance(at_most, until)
        return bool(until())

    def _next(self, target: float) -> Callable[[], object] | None:
        with self._lock:
            if self._alarms and self._alarms[0][0] <= target:
                when, _, action = heapq.heappop(self._alarms)
                self._elapsed = max(self._elapsed, when)
                return action
            self._elapsed = max(self._elapsed, target)
            return None
