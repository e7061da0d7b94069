"""A clock that stands still until the test moves it."""

from __future__ import annotations


class ManualClock:
    """Both clocks of `taskora_celery.clock.Clock`; they move together, unless the first is set."""

    def __init__(self, epoch: float = 1_790_000_000.0) -> None:
        self._epoch = epoch
        self._elapsed = 1_000.0

    def time(self) -> float:
        """Seconds since the epoch."""
        return self._epoch + self._elapsed

    def monotonic(self) -> float:
        """Seconds since somewhere."""
        return self._elapsed

    def set(self, seconds: float) -> None:
        """Set the machine's clock forward by so many seconds, or back; no time passes."""
        self._epoch += seconds

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._elapsed += seconds
