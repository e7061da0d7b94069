"""One job of the in-memory twin, and what the scripts decide of it and do to its journal, in Python."""

from __future__ import annotations

from typing import Any

from taskora_celery.encoding import unpack
from taskora_celery.records import AttemptRecord, Outcome
from taskora_celery.store.announcements import unpacked
from taskora_celery.store.journal import STALLED, STATE
from taskora_celery.store.protocol import Begin, Begun, CancelRequest, Ended, Loss, Report, Verdict

__all__ = [
    "MemoryJob", "add_entry", "append", "begins_again", "created_ms", "failed_by_loss", "is_anew", "is_gentle", "is_late",
    "losing", "lost_attempt", "may_end", "not_begun", "reason_of", "runs_already", "trim", "trim_one", "verdict_on",
]  # fmt: skip

#: So many batches beyond the log limit may the journal of a job have that retries for ever without a word.
_OTHER_BATCHES = 1_000


class MemoryJob:
    """One job's record, journal and attempts."""

    __slots__ = ("attempts", "fields", "journal")

    def __init__(self, fence: int = 0) -> None:
        self.fields: dict[str, Any] = {"f": fence}
        self.journal: list[tuple[int, int, bytes]] = []
        self.attempts: list[AttemptRecord] = []


def not_begun(verdict: Verdict, begin: Begin, fields: dict[str, Any]) -> Begun:
    """Return the answer to a delivery that does not begin; a cancelled job is ended by it."""
    created, stalls = fields.get("c", created_ms(begin)), fields.get("x", 0)
    if verdict is not Verdict.CANCELLED:
        return Begun(verdict, 0, created, stalls=stalls)
    if fields["s"] != Outcome.REVOKED:
        fields.update(r=reason_of(fields["j"]), z="JobCancelledError")
    fields.update(s=Outcome.REVOKED, l=begin.tag, a=begin.attempt, n=begin.name, c=created)
    fields.setdefault("e", begin.now_ms)
    return Begun(verdict, 0, created, stalls=stalls, cancel=fields.get("j"))


def reason_of(request: bytes) -> str:
    """Return the reason in a packed request to cancel."""
    found = unpacked(request)
    return (found.reason if isinstance(found, CancelRequest) else None) or ""


def is_gentle(request: bytes) -> bool:
    """Say whether a packed request to cancel only fires the signal."""
    found = unpacked(request)
    return isinstance(found, CancelRequest) and found.gently


def may_end(ended: Ended, request: bytes) -> bool:
    """Say whether a job that is to be cancelled may end so."""
    return ended.stands or ended.state == Outcome.REVOKED or (ended.unaware and is_gentle(request))


def runs_already(begin: Begin, fields: dict[str, Any]) -> bool:
    """Say whether this is a job that was cancelled as one that had not begun, while it began unregistered."""
    return "j" in fields and begin.fence > 0 and ("l" not in fields or begin.over)


def begins_again(begin: Begin, fields: dict[str, Any]) -> bool:
    """Say whether this is the beginning that the record is of: its answer was lost on the way."""
    held = (fields.get("s"), fields.get("a"), fields.get("l"), fields.get("o"), fields.get("w"), fields.get("b"))
    same = held == ("STARTED", begin.attempt, begin.tag, begin.token, begin.worker, begin.now_ms)
    return same and (begin.token != 0 or begin.fence > fields["f"])


def created_ms(begin: Begin) -> int:
    """Return when the job was created, as far as this delivery can say."""
    return begin.created_ms or begin.now_ms


def verdict_on(begin: Begin, fields: dict[str, Any]) -> Verdict | None:
    """Return why a delivery does not begin, None where it does; the order of the questions is that of ``begin.lua``."""
    state, attempt = fields.get("s"), fields.get("a", 0)
    if begins_again(begin, fields):
        return Verdict.FENCE_TAKEN if 0 < begin.fence < fields["f"] else None
    if state == Outcome.IGNORED:
        return Verdict.FENCE_TAKEN if 0 < begin.fence <= fields["f"] else None
    anew = state in Outcome.FINAL and is_anew(begin, fields)
    if begin.redelivered and not anew and attempt > begin.attempt:
        return Verdict.RETRIED
    if "j" in fields and state in {Outcome.REVOKED, "STARTED", Outcome.LOST}:
        if runs_already(begin, fields):
            return Verdict.SUPERSEDED if begin.fence < fields["f"] else None
        if not ("l" in fields and fields["l"] != begin.tag and begin.attempt <= attempt):
            return Verdict.CANCELLED
    if state in Outcome.FINAL:
        if is_late(begin, fields):
            return Verdict.SUPERSEDED
        if begin.tag and fields.get("l") == begin.tag and attempt == begin.attempt and not begin.anyway:
            return Verdict.ENDED if begin.redelivered else Verdict.SUPERSEDED
        return Verdict.FENCE_TAKEN if anew and 0 < begin.fence <= fields["f"] else None
    return Verdict.SUPERSEDED if 0 < begin.fence < fields["f"] else None


def is_late(begin: Begin, fields: dict[str, Any]) -> bool:
    """Say whether an earlier attempt of the job that has ended was begun in an outage, and is told of only now."""
    if begin.attempt >= fields.get("a", 0):
        return False
    if begin.fence <= 0 and begin.now_ms >= int(fields.get("e", 0)):
        return False
    if begin.created_ms:
        return begin.created_ms <= int(fields.get("c", 0))
    return begin.now_ms < int(fields.get("b", 0))


def is_anew(begin: Begin, fields: dict[str, Any]) -> bool:
    """Say whether a delivery is of another job than the one that has ended under its id."""
    if begin.created_ms > fields.get("c", 0):
        return True
    if begin.attempt == fields.get("a") and begin.tag and fields.get("l") and begin.tag != fields["l"]:
        return True
    return not begin.redelivered and begin.attempt <= fields.get("a", 0)


def losing(loss: Loss, job: MemoryJob) -> MemoryJob | None:
    """Return the record that a loss is written to; None where that delivery is over or superseded. See ``lose.lua``."""
    fields, state, same = job.fields, job.fields.get("s"), job.fields.get("l") == loss.tag
    if same and loss.token in {None, fields.get("o")}:
        return job if state == "STARTED" else None
    if loss.token is None or fields["f"] >= loss.token:
        return None
    attempt = fields.get("a", 0)
    if state == Outcome.IGNORED:
        attempt = 0
    elif state in Outcome.FINAL and not ("j" in fields and not fields.get("l")):
        if same or loss.created_ms <= fields.get("c", 0):
            return None
        job, attempt = MemoryJob(fields["f"]), 0
    elif attempt > loss.attempt:
        return None
    delivery = fields.get("d", 0) + 1 if attempt == loss.attempt else 1
    job.fields.update(a=loss.attempt, d=delivery, w=loss.worker, b=loss.token // 1000)
    return job


def append(job: MemoryJob, report: Report, counter: str) -> None:
    """Append the batches of a report, less those that were taken before; a jump in their numbers counts as dropped entries."""
    fields, number = job.fields, report.first
    for batch in report.batches:
        gap = number - fields.get(counter, 0)
        if gap + batch.entries > 0:
            gap = max(gap, 0)
            first = fields.get("q", 0) + gap
            job.journal.append((first, batch.entries, batch.data))
            fields["q"] = first + batch.entries
            fields["m"] = fields.get("m", 0) + batch.logs
            fields["t"] = fields.get("t", 0) + gap + batch.logs
            fields[counter] = number + batch.entries
        number += batch.entries


def add_entry(job: MemoryJob, entry: bytes) -> None:
    """Append an entry that the store writes by itself; nothing where it is empty."""
    if entry:
        seq = job.fields.get("q", 0)
        job.journal.append((seq, 1, entry))
        job.fields["q"] = seq + 1


def trim(job: MemoryJob, log_limit: int) -> None:
    """Remove whole batches from the journal's head while enough log entries remain."""
    most = log_limit + _OTHER_BATCHES
    while job.journal and (job.fields.get("m", 0) > log_limit or len(job.journal) > most):
        logs = _logs_in(job.journal[0][2])
        if job.fields.get("m", 0) - logs < log_limit and len(job.journal) <= most:
            break
        _drop_oldest(job)


def trim_one(job: MemoryJob, log_limit: int) -> None:
    """Remove a batch from the journal's head where it has too many: one was added that is no execution's."""
    if len(job.journal) > log_limit + _OTHER_BATCHES:
        _drop_oldest(job)


def _drop_oldest(job: MemoryJob) -> None:
    logs = _logs_in(job.journal.pop(0)[2])
    job.fields["m"] = job.fields.get("m", 0) - logs
    job.fields["i"] = job.fields.get("i", 0) + 1


def lost_attempt(fields: dict[str, Any], now_ms: int) -> AttemptRecord:
    """Return the record of a delivery that was never heard of again, or whose loss had ended the job."""
    worker, started_ms, reason = fields["w"], fields["b"], f"no outcome from {fields['w']}"
    if failed_by_loss(fields):
        now_ms, reason = fields.get("e", now_ms), fields.get("r", "")
    duration = round((now_ms - started_ms) / 1000, 3)
    return AttemptRecord(fields["a"], fields["d"], worker, started_ms, Outcome.LOST, duration, reason)


def failed_by_loss(fields: dict[str, Any]) -> bool:
    """Say whether a loss too many has ended the job: where its message comes all the same, that delivery was lost, too."""
    return fields.get("s") == Outcome.FAILURE and fields.get("z") == STALLED


def _logs_in(data: bytes) -> int:
    """Count the log entries of a batch."""
    return sum(1 for item in unpack(data)[2] if item[0] < STATE)
