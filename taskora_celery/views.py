"""A job as people see it: its record, and what follows from it at one moment. Pure functions; every face uses them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from taskora_celery.progress import percent as share_of
from taskora_celery.reading import status_of
from taskora_celery.records import AttemptRecord, JobStatus, Outcome
from taskora_celery.store.announcements import unpacked
from taskora_celery.store.protocol import CancelRequest, Shutdown, Snapshot
from taskora_celery.texts import cut_line

__all__ = [
    "ENDED", "GOING", "LINE_CHARS", "QUEUED", "STATES", "JobFilter", "JobView", "Paces", "TaskFacts", "attempt_text", "is_silent",
    "is_uuid", "message_of", "named", "percent_of", "progress_line", "state_named", "time_left", "view_of",
]  # fmt: skip

#: The word for what no record shows: who sends a job writes none.
QUEUED = "queued"
#: The state's word for each of Celery's states, and of this library's.
STATES = {
    "PENDING": QUEUED,
    "STARTED": "running",
    Outcome.RETRY: "retrying",
    Outcome.LOST: "stalled",
    Outcome.REJECTED: "rejected",
    Outcome.SUCCESS: "done",
    Outcome.FAILURE: "failed",
    Outcome.REVOKED: "cancelled",
    Outcome.IGNORED: "ignored",
}
ENDED = frozenset(STATES[name] for name in Outcome.FINAL)
GOING = frozenset(STATES.values()) - ENDED

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
#: A line of progress is cut to so many characters.
LINE_CHARS = 200
#: The keys of the common shape of progress, ``ctx.progress(current, total=…, message=…)``.
_SHAPE = frozenset({"current", "total", "percent", "message"})


#: Of so many jobs it is remembered where their progress began: as many as an index has by default.
PACES_KEPT = 10_000


class TaskFacts(msgspec.Struct, frozen=True):
    """What a task's definition says of its jobs; the record does not hold it."""

    #: None: any number, or the task is not known here.
    max_attempts: int | None = None
    #: Seconds without a sign of life that are a stall; None: never.
    heartbeat_timeout: float | None = None


class JobView(msgspec.Struct, frozen=True):
    """One job at one moment. Instants are in milliseconds since the epoch, durations in float seconds."""

    status: JobStatus
    #: One of :data:`STATES`' values; ``"stalled"``: lost with its worker, or silent for longer than it may be.
    state: str
    #: Why it is where it is, or why its last attempt was not the last; None where there is nothing to say.
    reason: str | None = None
    max_attempts: int | None = None
    #: When the next attempt begins; None where none waits.
    next_ms: int | None = None
    #: Between 0 and 100; None where the progress has none.
    percent: float | None = None
    #: Seconds until the end at the speed until now; None where nobody can say.
    left: float | None = None
    #: Somebody wants it to stop, and it still runs.
    cancelling: bool = False

    @property
    def id(self) -> str:
        """The job's id."""
        return self.status.id

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state in ENDED


def state_named(name: str) -> str:
    """Return the word of a state; Celery's names are understood, too.

    :raises ValueError: there is no such state.
    """
    word = STATES.get(name.upper(), name.lower())
    if word not in GOING and word not in ENDED:
        raise ValueError(f"{name!r} is no state: one of {', '.join(STATES.values())}")
    return word


def is_uuid(job_id: str) -> bool:
    """Say whether an id is a UUID, as Celery gives jobs: its first eight characters tell it from others."""
    return _UUID.fullmatch(job_id) is not None


def attempt_text(view: JobView) -> str:
    """Return ``3/4``, or ``3`` where the task has no limit or is not known here."""
    limit = view.max_attempts
    return f"{view.status.attempt}" if limit is None else f"{view.status.attempt}/{max(limit, view.status.attempt)}"


def percent_of(value: Any) -> float | None:
    """Return how far a progress value says that the job is, between 0 and 100; None where it does not say.

    A number alone is a percentage, as the result backend shows it, if it can be one.
    """
    shape = isinstance(value, Mapping)
    if shape:
        share = value.get("percent")
        value = share if share is not None else share_of(value.get("current"), value.get("total"))
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    clamped = min(max(float(value), 0.0), 100.0)
    return clamped if shape or clamped == value else None


def message_of(value: Any) -> str:
    """Return what a progress value says beside its percentage: ``12/25 rendering``, ``rows=7``, ``150``; empty where nothing.

    It is as long as the value, and may hold any character.
    """
    if not isinstance(value, Mapping):
        return "" if value is None or percent_of(value) is not None else str(value)
    current, total, message = value.get("current"), value.get("total"), value.get("message")
    counted = "" if current is None else f"{current}" if total is None else f"{current}/{total}"
    others = (f"{key}={item}" for key, item in value.items() if key not in _SHAPE)
    return " ".join(part for part in (counted, "" if message is None else str(message), *others) if part)


def progress_line(value: Any, *endings: str) -> str:
    """Return plain progress as one line, such as ``48% 12/25 rendering``, with ``endings`` after it, those that are not empty.

    At most :data:`LINE_CHARS` characters; the endings are kept.
    """
    share = percent_of(value)
    # Rounded down: what is not done is never shown as 100%.
    words = ("" if share is None else f"{math.floor(share * 10) / 10:g}%", message_of(value))
    tail = " · ".join(ending for ending in endings if ending)
    line = cut_line(" ".join(word for word in words if word), LINE_CHARS - len(tail) - len(" · "))
    return " · ".join(part for part in (line, tail) if part)


def time_left(percent: float, at_ms: int, since: tuple[float, int] | None, now_ms: int) -> float | None:
    """Return the seconds until 100 %, at the speed since an earlier ``(percent, ms)``; None where there is no telling.

    A job that is slower than its estimate has none: "0 s left" for minutes would be a lie.
    """
    if since is None:
        return None
    done, took = percent - since[0], (at_ms - since[1]) / 1000
    if done <= 0 or took <= 0 or percent >= 100:  # noqa: PLR2004 - per cent
        return None
    left = took * (100 - percent) / done - (now_ms - at_ms) / 1000
    return left if left > 0 else None


class Paces:
    """Remembers where each delivery's progress began. For one reader; one that looks again knows better.

    A delivery begins at 0 %, except where it went on from a checkpoint: then it begins where it was first seen. A reader may live
    for weeks, so of more than :data:`PACES_KEPT` jobs the one that was met first is forgotten.
    """

    def __init__(self) -> None:
        self._since: dict[str, tuple[tuple[int, int], tuple[float, int]]] = {}

    def since(self, snapshot: Snapshot, status: JobStatus, percent: float) -> tuple[float, int] | None:
        """Return the ``(percent, ms)`` that a delivery's speed is measured from."""
        run, at_ms = (status.attempt, status.delivery), status.progress_ms or 0
        known = self._since.get(status.id)
        if known is None or known[0] != run or percent < known[1][0]:
            if at_ms < status.started_ms:  # an earlier delivery's, kept until this one reports
                return None
            resumed = run != (1, 1) and "k" in snapshot.fields
            known = self._since[status.id] = run, (percent, at_ms) if resumed else (0.0, status.started_ms)
            if len(self._since) > PACES_KEPT:
                del self._since[next(iter(self._since))]
        return known[1]


def is_silent(state: str, alive_ms: int, facts: TaskFacts, now_ms: int) -> bool:
    """Say whether a job that is told to be running shows no sign of life for longer than its task allows."""
    return state == "running" and facts.heartbeat_timeout is not None and now_ms - alive_ms > facts.heartbeat_timeout * 1000


def view_of(
    job_id: str, snapshot: Snapshot, keep: int, facts: TaskFacts, now_ms: int, paces: Paces | None = None
) -> JobView:  # fmt: skip
    """Return a job as it is seen at ``now_ms``; the snapshot has its last attempt."""
    status = status_of(job_id, snapshot, keep)
    last = snapshot.attempts[-1] if snapshot.attempts else None
    state = STATES.get(status.state, status.state.lower())
    silent = is_silent(state, status.alive_ms, facts, now_ms)
    request = unpacked(snapshot.fields.get("j", b"")) if state == "running" else None
    next_ms = last.next_ms if state == "retrying" and last is not None else None
    percent = percent_of(status.progress)
    left = None
    if state == "running" and percent is not None:
        left = time_left(percent, status.progress_ms or 0, (paces or Paces()).since(snapshot, status, percent), now_ms)
    return JobView(
        status, "stalled" if silent else state, _reason(status, state, last, request, silent=silent),
        facts.max_attempts, next_ms, percent, None if silent else left, request is not None,
    )  # fmt: skip


def _reason(
    status: JobStatus, state: str, last: AttemptRecord | None, request: CancelRequest | Shutdown | None, *, silent: bool
) -> str | None:  # fmt: skip
    if silent:
        return f"no sign of life from {status.worker or 'its worker'}"
    if request is not None:
        why = request.reason if isinstance(request, CancelRequest) else None
        return f"asked to stop: {why}" if why else "asked to stop"
    if state == "running":
        return None if last is None else named(last.error, last.reason)
    if state == "stalled":
        reason = status.reason or "lost"
        return reason if not status.worker or status.worker in reason else f"{reason} on {status.worker}"
    if state == "cancelled":
        return status.reason or None
    return named(status.error, status.reason)


def named(error: str | None, reason: str | None) -> str | None:
    """Return a reason with the class of its exception, as Python writes it; None where there is neither."""
    if not reason or not error or error in reason:
        return reason or error or None
    return f"{error}: {reason}"


class JobFilter(msgspec.Struct, frozen=True):
    """Which jobs are wanted; what is not said is no condition."""

    #: Words of :data:`STATES`; empty: any.
    states: frozenset[str] = frozenset()
    #: A glob for the task's name.
    task: str | None = None
    #: A glob for the worker's name; the part before the ``@`` is enough.
    worker: str | None = None
    #: Only jobs whose state changed at this instant or later, in milliseconds since the epoch.
    since_ms: int = 0
    #: How the id begins.
    job_id: str | None = None
    #: A part of the reason, in any case.
    reason: str | None = None
    #: Each is how the id begins, or a part of the task's name, in any case.
    words: tuple[str, ...] = ()

    def takes(self, view: JobView) -> bool:
        """Say whether a job passes; the instant is not looked at, the index knows it."""
        if self.states and view.state not in self.states:
            return False
        if self.task is not None and not fnmatchcase(view.status.name, self.task):
            return False
        if self.job_id is not None and not view.id.startswith(self.job_id):
            return False
        if self.reason is not None and self.reason.lower() not in (view.reason or "").lower():
            return False
        name = view.status.name.lower()
        if not all(view.id.startswith(word) or word.lower() in name for word in self.words):
            return False
        worker = view.status.worker
        return self.worker is None or any(fnmatchcase(part, self.worker) for part in (worker, worker.split("@", 1)[0]))
