"""Jobs as JSON: what ``-j`` prints and the board lets download, one object per line.

These classes are the list of its keys; each key is always there. Instants are RFC 3339 in UTC, durations float seconds; what
is not known is null.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from taskora_celery.encoding import as_json
from taskora_celery.listing import JobDetail
from taskora_celery.records import AttemptRecord, CancelReceipt, LogEntry
from taskora_celery.times import moment
from taskora_celery.views import JobView

__all__ = [
    "AttemptDocument", "DetailDocument", "JobDocument", "LogDocument", "ReceiptDocument", "detail_document", "encoded",
    "job_document", "log_document", "receipt_document",
]  # fmt: skip

#: JSON writes out C0 itself; these reach a terminal as well, and may be written out in any text of JSON.
_STEERING = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


class JobDocument(msgspec.Struct, frozen=True):
    """One job: a line of ``jobs list``, ``jobs watch``."""

    id: str
    task: str
    #: running, retrying, stalled, queued, rejected; done, failed, cancelled, ignored.
    state: str
    #: As the record has it: STARTED, RETRY, LOST, …
    celery_state: str
    attempt: int
    max_attempts: int | None
    delivery: int
    worker: str
    created: str | None
    #: When this delivery began.
    started: str | None
    #: The last sign of life.
    alive: str | None
    #: When the job ended.
    ended: str | None
    #: When the next attempt begins.
    next_attempt: str | None
    #: As it was reported.
    progress: Any
    progress_at: str | None
    #: "repr", "cut": what had to be done to the value to store it.
    progress_mark: str | None
    percent: float | None
    seconds_left: float | None
    reason: str | None
    #: The class of the exception of the last outcome.
    error: str | None
    #: Somebody wants it to stop, and it still runs.
    cancelling: bool
    stalls: int
    refused: int
    logs: int
    dropped_logs: int
    #: The id of its OpenTelemetry trace.
    trace_id: str | None


class AttemptDocument(msgspec.Struct, frozen=True):
    """One attempt, or one delivery of it that was lost."""

    attempt: int
    delivery: int
    worker: str
    started: str | None
    #: A state's name; null while it runs.
    outcome: str | None
    seconds: float | None
    reason: str | None
    error: str | None
    #: Seconds to the next attempt, and its instant.
    delay: float | None
    next_attempt: str | None


class LogDocument(msgspec.Struct, frozen=True):
    """One log entry: a line of ``jobs logs``."""

    id: str
    seq: int
    time: str
    attempt: int
    level: str
    message: str
    meta: dict[str, Any]
    logger: str | None


class DetailDocument(msgspec.Struct, frozen=True):
    """One job with its attempts and its last log entries: ``jobs show``."""

    job: JobDocument
    attempts: list[AttemptDocument]
    last_logs: list[LogDocument]
    #: Null without ``--traceback``, and where there is none.
    traceback: str | None


class ReceiptDocument(msgspec.Struct, frozen=True):
    """What a request to cancel came to: a line of ``jobs cancel``."""

    id: str
    #: cancelled, requested, too_late, unknown; would_cancel with ``--dry-run``.
    outcome: str
    reason: str | None


def encoded(document: msgspec.Struct) -> str:
    """Return a document as one line of JSON that no terminal obeys; NaN and infinities are null."""
    text = as_json(document).decode()
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _moment(ms: int | None) -> str | None:
    return moment(ms) if ms else None


def job_document(view: JobView) -> JobDocument:
    """Return the document of a job."""
    status = view.status
    return JobDocument(
        status.id, status.name, view.state, status.state, status.attempt, view.max_attempts, status.delivery, status.worker,
        _moment(status.created_ms), _moment(status.started_ms), _moment(status.alive_ms),
        _moment(status.ended_ms) if view.over else None, _moment(view.next_ms), status.progress, _moment(status.progress_ms),
        status.progress_mark, view.percent, None if view.left is None else round(view.left, 3), view.reason, status.error,
        view.cancelling, status.stalls, status.refused, status.logs, status.dropped_logs, status.trace_id,
    )  # fmt: skip


def attempt_document(record: AttemptRecord) -> AttemptDocument:
    """Return the document of an attempt."""
    return AttemptDocument(
        record.number, record.delivery, record.worker, _moment(record.started_ms), record.outcome, record.duration,
        record.reason, record.error, record.delay, _moment(record.next_ms),
    )  # fmt: skip


def log_document(job_id: str, entry: LogEntry) -> LogDocument:
    """Return the document of a log entry."""
    return LogDocument(
        job_id, entry.seq, moment(entry.timestamp), entry.attempt, entry.level, entry.message, entry.meta or {}, entry.logger
    )


def detail_document(detail: JobDetail, traceback: str | None) -> DetailDocument:
    """Return the document of a job with its attempts."""
    return DetailDocument(
        job_document(detail.view),
        [attempt_document(record) for record in detail.attempts],
        [log_document(detail.view.id, entry) for entry in detail.logs],
        traceback,
    )


def receipt_document(receipt: CancelReceipt) -> ReceiptDocument:
    """Return the document of a receipt."""
    return ReceiptDocument(receipt.id, receipt.outcome, receipt.reason)
