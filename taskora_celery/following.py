"""Following several jobs at once, over one connection and in the caller's thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from taskora_celery.backoff import outage_pause
from taskora_celery.errors import StoreUnavailableError
from taskora_celery.reading import Follower, Patience
from taskora_celery.records import Event
from taskora_celery.store.protocol import JobStore, Snapshot, Watch

__all__ = ["Absence", "Change", "JobsFollower"]

#: Between two looks pass so many seconds at least: jobs that report all the time are not read all the time.
LOOK_LEAST = 0.05
#: A record that is away for so many seconds has expired: a Redis that lost its data is told of a running job before that.
GONE_AFTER = 5.0


class Change(msgspec.Struct, frozen=True):
    """What is new of one job. ``snapshot`` is its record with its attempts; None where it has expired.

    ``over``: nothing more will come, since the record says so, has expired, or the result backend knows of an end that the record
    does not show.
    """

    id: str
    snapshot: Snapshot | None
    events: list[Event]
    over: bool = False


class Absence:
    """How long the record of a job that is followed has been away."""

    def __init__(self) -> None:
        self._since: float | None = None

    def is_lasting(self, snapshot: Snapshot | None) -> bool:
        """Say whether the record has been away for so long that it must have expired, now that it was read as this."""
        if snapshot is not None:
            self._since = None
            return False
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        return now - self._since > GONE_AFTER


class _Followed:
    """One of the jobs."""

    def __init__(self, job_id: str) -> None:
        self.id = job_id
        self.follower = Follower()
        self.patience = Patience(None)
        self.absence = Absence()
        self.over = False

    def look(self, store: JobStore, is_over: Callable[[str], bool]) -> Change | None:
        """Return what is new; None where nothing is."""
        snapshot = store.read(self.id, self.follower.skip, attempts=True)
        events = self.follower.feed(snapshot)
        self.over = self.absence.is_lasting(snapshot)
        if snapshot is not None:  # some ends (a process that was killed) only the result backend knows of
            self.over = self.follower.over or self.patience.gave_up(lambda: is_over(self.id))
        return Change(self.id, snapshot, events, self.over) if events or self.over else None


class JobsFollower:
    """Follows jobs until all have ended, over retries and lost connections, without gap or repeat. Used by one thread."""

    def __init__(
        self,
        store: JobStore,
        job_ids: Sequence[str],
        *,
        is_over: Callable[[str], bool] = lambda _: False,
        on_outage: Callable[[StoreUnavailableError | None], None] = lambda _: None,
    ) -> None:
        """``is_over`` asks the result backend; ``on_outage`` hears of a store that is away, once, and (None) that it is back."""
        self._store = store
        self._jobs = [_Followed(job_id) for job_id in dict.fromkeys(job_ids)]
        self._is_over = is_over
        self._on_outage = on_outage
        self._news: list[Change] = []

    @property
    def ended(self) -> bool:
        """Whether all jobs are over."""
        return all(job.over for job in self._jobs)

    def rounds(self, tick: float, until: float | None = None) -> Iterator[list[Change]]:
        """Yield what is new, as it comes; and, where nothing comes for ``tick`` seconds, an empty list.

        The first holds the past, and comes also where ``until`` is past. Ends when all jobs are over, or at ``until``, in
        monotonic seconds.

        :raises StoreUnavailableError: the store does not answer at first; later it is waited for.
        """
        failures, looked = 0, False
        while not self.ended and (not looked or _left(tick, until)):
            try:
                with self._store.watch([job.id for job in self._jobs if not job.over]) as watch:
                    for changes in self._watched(watch, tick, until):
                        if failures:
                            failures = 0
                            self._on_outage(None)
                        looked = True
                        yield changes
            except StoreUnavailableError as exc:
                if not looked:
                    raise
                failures += 1
                if failures == 1:
                    self._on_outage(exc)
                yield []
                time.sleep(_left(min(outage_pause(failures), tick), until))

    def _watched(self, watch: Watch, tick: float, until: float | None) -> Iterator[list[Change]]:
        while True:
            for job in self._jobs:
                change = None if job.over else job.look(self._store, self._is_over)
                if change is not None:
                    self._news.append(change)  # kept where the next job cannot be read any more
            news, self._news = self._news, []
            yield news
            looked = time.monotonic()
            if self.ended or not _left(tick, until):
                return
            if watch.wait(_left(tick, until)):
                time.sleep(max(looked + LOOK_LEAST - time.monotonic(), 0.0))


def _left(seconds: float, until: float | None) -> float:
    """Return the seconds to wait, less where the end is nearer; 0 where it has come."""
    return seconds if until is None else max(min(seconds, until - time.monotonic()), 0.0)
