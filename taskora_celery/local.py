"""A context that needs no broker and no Redis: for direct calls, ``task.apply()`` and ``task_always_eager`` (rule A5)."""

from __future__ import annotations

import time
from collections import deque
from typing import Any
from uuid import uuid4

from taskora_celery.context import Context, JobInfo
from taskora_celery.encoding import to_plain
from taskora_celery.progress import progress_value
from taskora_celery.records import AttemptRecord, LogEntry, Outcome, level_name
from taskora_celery.redaction import Redactor
from taskora_celery.reporter.report import UNSET

__all__ = ["LocalContext", "local_context"]

#: Progress values kept, the newest.
_VALUES_KEPT = 10_000


class LocalContext(Context):
    """A context whose reports stay in memory, and can be read from it under the names that a handle has."""

    __slots__ = ("progressed", "retries", "started", "values")

    def __init__(self, job_id: str, name: str, attempt: int = 1, *, info: JobInfo | None = None) -> None:
        super().__init__(job_id, name, attempt, info=info)
        #: The progress values in call order, the newest 10 000.
        self.values: deque[Any] = deque(maxlen=_VALUES_KEPT)
        #: When the last of them came, in seconds since the epoch.
        self.progressed = 0.0
        #: The attempts that ended in a retry, this one among them once it has.
        self.retries = self.history
        self.started = time.time()

    def touch(self) -> None:
        """Keep what was reported: ``dirty`` is never set here, so each report comes through this."""
        if self.said is not UNSET:
            self.values.append(progress_value(self.said, self.said_total, self.said_message))
            self.progressed = self.time()
            self.said = UNSET

    def retried(self, reason: str | None, error: str | None, delay: float) -> None:
        """Keep that this attempt ended in a retry; ``delay`` is in seconds and is not waited for."""
        now = time.time()
        record = AttemptRecord(
            self.attempt, 1, "", int(self.started * 1000), Outcome.RETRY, round(now - self.started, 3), reason, error, delay,
            int((now + delay) * 1000),
        )  # fmt: skip
        self.retries = (*self.history, record)

    def get_progress(self) -> Any:
        """Return the last progress value, or None."""
        return self.values[-1] if self.values else None

    def get_logs(self) -> list[LogEntry]:
        """Return the log entries in call order."""
        redactor = Redactor()
        return [
            LogEntry(level_name(code), str(message), int(at * 1000), self.attempt, seq, _plain(meta, redactor), logger)
            for seq, (code, at, message, meta, logger) in enumerate(self.entries())
        ]


def local_context(
    name: str = "local",
    job_id: str | None = None,
    *,
    attempt: int = 1,
    max_attempts: int | None = None,
    before: LocalContext | None = None,
) -> LocalContext:
    """Return a context that keeps what is reported in memory; pass it to a direct call as ``task(data, ctx=…)``.

    ``before`` is that of the attempt before: its creation time, its checkpoint and its history are taken over.
    """
    if before is None:
        info = JobInfo(max_attempts, timestamp=int(time.time() * 1000))
    else:
        saved = before.said_checkpoint or before._info.checkpoint  # noqa: SLF001 - this class's own
        info = JobInfo(max_attempts, timestamp=before.timestamp, checkpoint=saved, history=before.retries)
    return LocalContext(job_id or str(uuid4()), name, attempt, info=info)


def _plain(meta: Any, redactor: Redactor) -> dict[str, Any] | None:
    return to_plain(meta, redactor, 65_536).value if meta else None
