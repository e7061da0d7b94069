"""From jobs to what the pages show of them: pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from taskora_celery.records import AttemptRecord, Event, LogEntry, Outcome
from taskora_celery.texts import cut_line
from taskora_celery.views import STATES, JobView, attempt_text, is_uuid, message_of, named

__all__ = ["AttemptRow", "JobRow", "Line", "attempt_row", "entry_line", "job_row", "line_of", "lines_of", "short_id"]

#: So much of a line of progress, of a reason and of an id fits into a row.
_MESSAGE_CHARS, _REASON_CHARS, _ID_CHARS = 120, 300, 20
#: What stands in a line of the log for a step of a cancel.
_PHASES = {
    "requested": "cancel requested", "delivered": "the handler was told to stop", "interrupted": "the handler was interrupted",
    "killed": "its process was ended", "ended": "the handler ended",
}  # fmt: skip


class JobRow(msgspec.Struct, frozen=True):
    """One job. Instants are in milliseconds since the epoch, None where there is none."""

    id: str
    short: str
    task: str
    state: str
    #: Of those that can be cancelled.
    going: bool
    percent: float | None
    #: Rounded down: what is not done is never shown as 100 %.
    share: str
    message: str
    #: When it will be done, at its speed until now.
    done_ms: int | None
    #: When the next attempt begins.
    next_ms: int | None
    attempt: str
    delivery: int
    reason: str
    #: The last sign of life of a job that runs.
    alive_ms: int | None
    worker: str
    created_ms: int
    started_ms: int
    ended_ms: int | None
    cancelling: bool
    view: JobView


def short_id(job_id: str) -> str:
    """Return what of an id tells one job from others at a glance; the whole of it is never far."""
    return job_id[:8] if is_uuid(job_id) else cut_line(job_id, _ID_CHARS) or "(empty)"


def job_row(view: JobView, now_ms: int) -> JobRow:
    """Return what is shown of a job at ``now_ms``."""
    status = view.status
    return JobRow(
        view.id, short_id(view.id), status.name or "(no name)", view.state, not view.over, view.percent,
        "" if view.percent is None else f"{math.floor(view.percent)}%", cut_line(message_of(status.progress), _MESSAGE_CHARS),
        None if view.left is None else now_ms + math.ceil(view.left * 1000), view.next_ms, attempt_text(view), status.delivery,
        cut_line(view.reason or "", _REASON_CHARS), status.alive_ms if view.state in {"running", "stalled"} else None,
        status.worker, status.created_ms, status.started_ms, status.ended_ms if view.over else None, view.cancelling, view,
    )  # fmt: skip


class AttemptRow(msgspec.Struct, frozen=True):
    """One attempt, or one delivery of it."""

    number: str
    started_ms: int
    #: Seconds; None while it runs, and where it is not known.
    duration: float | None
    running: bool
    worker: str
    #: A state's word.
    outcome: str
    reason: str
    delay: float | None
    #: When the next one begins, where it has not.
    next_ms: int | None


def attempt_row(record: AttemptRecord, *, last: bool, view: JobView) -> AttemptRow:
    """Return what is shown of an attempt of this job; ``last``: it is the newest."""
    word = "lost" if record.outcome == Outcome.LOST else STATES.get(record.outcome or "", (record.outcome or "").lower())
    outcome = ("running" if view.state != "stalled" else "stalled") if record.outcome is None else word
    return AttemptRow(
        f"{record.number}" + (f".{record.delivery}" if record.delivery > 1 else ""), record.started_ms, record.duration,
        record.outcome is None, record.worker, {"retrying": "retry"}.get(outcome, outcome),
        cut_line(named(record.error, record.reason) or "", _REASON_CHARS), record.delay,
        view.next_ms if last and record.outcome is not None else None,
    )  # fmt: skip


class Line(msgspec.Struct, frozen=True):
    """One line of a job's log: an entry (``kind`` is its level), or what happened (``kind`` is ``"event"`` or ``"gap"``)."""

    seq: int
    ms: int
    kind: str
    attempt: int
    text: str
    meta: tuple[tuple[str, str], ...] = ()
    logger: str = ""


def lines_of(events: Iterable[Event]) -> Iterator[Line]:
    """Return the lines of events; progress is none, and neither is the first word of where the job is."""
    return (line for line in map(line_of, events) if line is not None)


def line_of(event: Event) -> Line | None:
    """Return an event as a line; None where it is none."""
    if event.kind == "log":
        return entry_line(event.data)
    if event.kind == "gap":
        return Line(event.seq, event.timestamp, "gap", 0, f"{event.data['count']} entries are not kept")
    if event.kind not in {"state", "cancel"}:
        return None
    text = _happened(event)
    return Line(event.seq, event.timestamp, "event", event.data.get("attempt", 0), text) if text else None


def entry_line(entry: LogEntry) -> Line:
    """Return a log entry as a line."""
    meta = tuple((str(key), _shown(value)) for key, value in (entry.meta or {}).items())
    return Line(entry.seq, entry.timestamp, entry.level, entry.attempt, entry.message, meta, entry.logger or "")


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError):  # an integer of more than 64 bits, say
        return str(value)


def _happened(event: Event) -> str:
    data = event.data
    if event.kind == "cancel":
        by, reason = data.get("by"), data.get("reason")
        text = _PHASES.get(data.get("phase", ""), f"cancel: {data.get('phase', '')}")
        return text + (f" by {by}" if by else "") + (f": {reason}" if reason else "")
    state = data.get("state")
    if state == "STARTED" or state in Outcome.FINAL:  # the head and the attempts say so
        return ""
    word = {"RETRY": "will be tried again", Outcome.LOST: "lost", Outcome.REJECTED: "given back"}.get(state, str(state).lower())
    delay, why = data.get("delay"), named(data.get("error"), data.get("reason"))
    return word + (f" in {delay:g} s" if isinstance(delay, (int, float)) else "") + (f": {why}" if why else "")
