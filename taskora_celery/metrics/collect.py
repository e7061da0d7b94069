"""Reading what the metrics are made of: one look at the store at a time, and not more often than is useful."""

from __future__ import annotations

import logging
import threading

from taskora_celery.clock import SYSTEM_CLOCK, Clock
from taskora_celery.errors import StoreUnavailableError
from taskora_celery.metrics.families import Sample, family
from taskora_celery.metrics.samples import count_samples, job_samples
from taskora_celery.store.protocol import JobStore

__all__ = ["Collector"]

logger = logging.getLogger("taskora_celery.metrics")

#: So many jobs that go on are looked at for their state in one scrape; the rest is shown as ``unread``.
JOBS_READ = 10_000
#: As many as the index has at most.
JOBS_LISTED = 100_000
#: A look at the store answers all who ask within so many seconds.
FRESH_FOR = 1.0


class Collector:
    """Gives the samples of a store. Safe to use from several threads: who asks meanwhile waits for the look that is under way."""

    def __init__(self, store: JobStore, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._samples: list[Sample] = []
        self._fresh_until = 0.0
        self._told = False

    def samples(self) -> list[Sample]:
        """Return all samples; where the store is away, that alone. Blocks for as long as the store takes to answer."""
        with self._lock:
            if self._clock.monotonic() >= self._fresh_until:
                self._samples = self._look()
                self._fresh_until = self._clock.monotonic() + FRESH_FOR
            return self._samples

    def _look(self) -> list[Sample]:
        up = family("taskora_up")
        try:
            samples = [Sample(up, (), 1), *self._of_jobs(), *count_samples(self._store.counts())]
        except StoreUnavailableError as exc:
            if not self._told:
                logger.warning("the store of job records does not answer: %s", exc)
            self._told = True
            return [Sample(up, (), 0)]
        self._told = False
        return samples

    def _of_jobs(self) -> list[Sample]:
        listed = [job_id for job_id, _ in self._store.listed(JOBS_LISTED, going=True)]
        # Where there are too many: those whose state has not changed for longest, of which a hung job would be one.
        records = self._store.records(listed[-JOBS_READ:], brief=True, going=True)
        return list(job_samples(records, max(len(listed) - JOBS_READ, 0), int(self._clock.time() * 1000)))
