"""When something is due: pure functions of the time and of what is known. The reporter's thread calls them."""

from __future__ import annotations

from dataclasses import dataclass

from taskora_celery.backoff import outage_pause

__all__ = ["Outage", "Throttle", "lease_interval"]

#: A lease is renewed at least so often, in seconds, however long the visibility timeout is.
LEASE_INTERVAL_MAX = 60.0


def lease_interval(configured: float | None, visibility_timeout: float | None) -> float:
    """Return the seconds between two renewals: as configured, else a third of the timeout, so that two may fail."""
    if configured is not None:
        return configured
    if visibility_timeout is None:
        return LEASE_INTERVAL_MAX
    return min(visibility_timeout / 3, LEASE_INTERVAL_MAX)


@dataclass(slots=True)
class Throttle:
    """At most one in ``interval`` seconds. ``lead`` is the wait before the first, 0 for at once."""

    interval: float
    lead: float = 0.0
    _next: float | None = None

    def due_at(self, now: float) -> float:
        """Return the instant (monotonic seconds) of the next turn of something that is wanted now."""
        if self._next is None:
            self._next = now + self.lead
        return self._next

    def done(self, now: float) -> None:
        """Note that it was done."""
        self._next = now + self.interval

    def postpone(self, until: float) -> None:
        """Note that it could not be done, and is wanted again at ``until``."""
        self._next = until


@dataclass(slots=True)
class Outage:
    """A store that does not answer, and when it is asked again.

    The first failure is told in the log, the next only after ``tell_every`` seconds: an outage is news once.
    """

    tell_every: float = 60.0
    failures: int = 0
    ask_at: float = 0.0
    tell_at: float = 0.0

    def failed(self, now: float) -> bool:
        """Note a failure; say whether to tell it in the log."""
        self.failures += 1
        self.ask_at = now + outage_pause(self.failures)
        if now < self.tell_at:
            return False
        self.tell_at = now + self.tell_every
        return True

    def succeeded(self) -> bool:
        """Note an answer; say whether an outage ends with it."""
        ended = self.failures > 0
        self.failures = 0
        return ended

    def closed_at(self, now: float) -> bool:
        """Say whether the store is left alone for now."""
        return self.failures > 0 and now < self.ask_at
