"""What one execution of a job says to a store, in few words: for tests that have no worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskora_celery.encoding import pack
from taskora_celery.records import AttemptRecord, Outcome
from taskora_celery.store.journal import STATE, encode
from taskora_celery.store.protocol import Begin, Begun, Ended, Reply, Report

if TYPE_CHECKING:
    from taskora_celery.store.protocol import JobStore

#: A moment in 2026, in milliseconds.
NOW_MS = 1_790_000_000_000
_INFO = 2


class ScriptedExecution:
    """One delivery of a job, as the reporter would tell it to the store, with its own numbering of entries."""

    def __init__(
        self,
        store: JobStore,
        job_id: str = "job-1",
        *,
        attempt: int = 1,
        worker: str = "w1@host",
        now_ms: int = NOW_MS,
        redelivered: bool = False,
        created_ms: int = NOW_MS - 500,
        name: str = "shop.work",
        **more: Any,
    ) -> None:
        self.store = store
        self.id = job_id
        self.attempt = attempt
        self.worker = worker
        self.now_ms = now_ms
        self.number = 0
        begin = Begin(job_id, name, attempt, worker, created_ms, now_ms, redelivered=redelivered, **more)
        self.begun: Begun = store.begin(begin)

    @property
    def fence(self) -> int:
        """What this execution holds, or held."""
        return self.begun.fence

    def made(self, *messages: str, first: int | None = None, limit: int = 10_000, **fields: Any) -> Report:
        """Return a report with log entries of these messages, numbered on from the last, and with these fields."""
        start = self.number if first is None else first
        entries = [(_INFO, self.now_ms + n, message, None, None) for n, message in enumerate(messages)]
        self.number = start + len(entries)
        return Report(
            self.id, self.fence, self.now_ms, first=start, batches=encode(self.attempt, entries, limit), **fields
        )  # fmt: skip

    def send(self, report: Report) -> Reply:
        """Send one report."""
        return self.store.report([report])[0]

    def logs(self, *messages: str, first: int | None = None, limit: int = 10_000) -> Reply:
        """Write log entries as one batch (or several, where they are more than `limit`)."""
        return self.send(self.made(*messages, first=first, limit=limit))

    def stated(self, **data: Any) -> Report:
        """Return a report with an entry that is no log entry."""
        batches = encode(self.attempt, [(STATE, self.now_ms, data, None, None)], 1)
        report = Report(self.id, self.fence, self.now_ms, first=self.number, batches=batches)
        self.number += 1
        return report

    def progress(self, value: Any) -> Reply:
        """Report progress."""
        return self.send(Report(self.id, self.fence, self.now_ms, progress=pack((value, self.now_ms, None))))

    def checkpoint(self, value: Any) -> Reply:
        """Keep a checkpoint."""
        return self.send(Report(self.id, self.fence, self.now_ms, checkpoint=pack(value)))

    def end(self, state: str = Outcome.SUCCESS, reason: str | None = None, error: str | None = None) -> Reply:
        """End the attempt."""
        ended = Ended(state, self.now_ms + 2_000, reason, error)
        return self.send(Report(self.id, self.fence, self.now_ms + 2_000, ended=ended))

    def end_in_retry(self, reason: str = "later", delay: float = 5.0, error: str = "OSError") -> Reply:
        """End the attempt in a retry, and keep its record."""
        keep = AttemptRecord(
            self.attempt, self.begun.delivery, self.worker, self.now_ms, Outcome.RETRY, 2.0, reason, error, delay,
            self.now_ms + 2_000 + int(delay * 1000),
        )  # fmt: skip
        ended = Ended(Outcome.RETRY, self.now_ms + 2_000, reason, error, keep)
        return self.send(Report(self.id, self.fence, self.now_ms + 2_000, ended=ended))
