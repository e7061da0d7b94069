"""When something is due: pure functions of the time and of what is known. The reporter's thread calls them."""

from __future__ import annotations

from dataclasses import dataclass

from taskora_celery.backoff import outage_pause

__all__ = ["LeaseTurn", "Outage", "Throttle", "lease_interval", "linger"]

#: A lease is renewed at least so often, in seconds, however long the visibility timeout is.
LEASE_INTERVAL_MAX = 60.0


def lease_interval(configured: float | None, visibility_timeout: float | None, heartbeat_timeout: float | None = None) -> float:
    """Return the seconds between two renewals: as configured, else a third of the visibility timeout, so that two may fail.

    Where a sign of life is wanted within ``heartbeat_timeout``, at least every quarter of that: so late is a silence seen.
    """
    interval = LEASE_INTERVAL_MAX if visibility_timeout is None else min(visibility_timeout / 3, LEASE_INTERVAL_MAX)
    if configured is not None:
        interval = configured
    return interval if heartbeat_timeout is None else min(interval, heartbeat_timeout / 4)


#: The moment that the first report of a young job waits for more, in seconds: it halves the round trips of jobs that are shorter.
LINGER = 0.001
#: A job that has run for so long, in seconds, is none that ends in the moment after its first word.
YOUNG = 0.02


def linger(since_begin: float, flush_interval: float, *, urgent: bool) -> float:
    """Return the seconds between the wake-up and the flush; ``since_begin``: since the newest job of the process began.

    Where there are only the beginnings and ends of silent jobs to tell, more of them may gather. A report goes out at once, but
    for the moment in which a short job may end and take it along.
    """
    if not urgent:
        return flush_interval
    return LINGER if since_begin < YOUNG else 0.0


@dataclass(slots=True)
class LeaseTurn:
    """When one running job's lease is renewed, and whether the job still shows life. All instants are monotonic seconds.

    The first beat is answered at once; else one renewal in each ``interval``. ``timeout`` is the silence that is a stall.
    """

    interval: float
    timeout: float | None
    started: float
    #: The last sign of life that was seen. A beat is seen at the next turn, so this may be an interval late, and is never early.
    life_at: float = 0.0
    renewed: float | None = None
    stalled: bool = False

    def __post_init__(self) -> None:
        """Take the start as the first sign of life."""
        self.life_at = self.started

    def due_at(self, *, beating: bool) -> float:
        """Return the instant of the next renewal."""
        if self.renewed is None:
            return self.started if beating else self.started + self.interval
        return self.renewed + self.interval

    def sees_stall(self, now: float) -> bool:
        """Say, once, that the job has shown no sign of life for too long."""
        if self.stalled or self.timeout is None or now - self.life_at <= self.timeout:
            return False
        self.stalled = True
        return True

    def postpone(self, until: float) -> None:
        """Note that the lease could not be renewed, and is to be at ``until``."""
        self.renewed = until - self.interval


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
