"""The values that cross every border of this library: what a job is, what it said, and how its attempts ended.

All are frozen. Instants end in ``_ms`` (integer milliseconds since the epoch, UTC) or are called ``timestamp``, the
name that taskora uses for the same unit; durations are float seconds.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = [
    "LEVELS",
    "AttemptRecord",
    "CancelReceipt",
    "Event",
    "JobStatus",
    "LogEntry",
    "Outcome",
    "level_code",
]

#: A level's code, on the wire and for comparison; the numbers are those of the standard library's levels over ten.
LEVELS = {"debug": 1, "info": 2, "warn": 3, "error": 4}
_NAMES = {code: name for name, code in LEVELS.items()}


class Outcome:
    """How a job or an attempt of it ended: Celery's state names, and ``LOST`` for a delivery that nobody heard of again."""

    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    RETRY = "RETRY"
    REVOKED = "REVOKED"
    IGNORED = "IGNORED"
    REJECTED = "REJECTED"
    LOST = "LOST"

    #: After one of these the job does not run again by itself.
    FINAL = frozenset({SUCCESS, FAILURE, REVOKED, IGNORED})


# Plain data, which refers to nothing that could refer to it: the garbage collector need not look at the entries of a long log.
class LogEntry(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One entry of a job's log.

    ``level`` is ``"debug"``, ``"info"``, ``"warn"`` or ``"error"``; ``timestamp`` is in milliseconds since the epoch; ``seq``
    grows within the job over all its attempts and is what ``after=`` takes; ``logger`` names the standard library's logger
    that the entry was captured from, and is None for an entry of ``ctx.log``. ``meta`` is None when there is none.
    """

    level: str
    message: str
    timestamp: int
    attempt: int
    seq: int
    meta: dict[str, Any] | None = None
    logger: str | None = None


class AttemptRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One attempt, or one delivery of it that was lost (``LOST``) or given back (``REJECTED``: a shutdown, a requeue).

    ``duration`` is in seconds, None where the end is not known. ``outcome`` is one of :class:`Outcome`, None while it runs.
    ``reason`` says why it ended so, ``error`` is the class of the exception. After a retry, ``delay`` is the seconds to the
    next attempt and ``next_ms`` the instant.
    """

    number: int
    delivery: int
    worker: str
    started_ms: int
    outcome: str | None = None
    duration: float | None = None
    reason: str | None = None
    error: str | None = None
    delay: float | None = None
    next_ms: int | None = None


class JobStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """A job's record at one moment, from one round trip.

    ``state`` is a Celery state, or ``LOST``: this delivery was lost, and the next one has not begun. ``progress`` is the last
    value that was reported, ``progress_mark`` tells whether it had to be changed to be stored (``"repr"``, ``"cut"``).
    ``alive_ms`` is the last sign of life. ``logs`` counts the entries that the job wrote in all its attempts, ``dropped_logs``
    those of them that are not kept. ``stalls`` counts the deliveries that were lost with their process or worker, or were
    silent; ``refused`` the reports of such executions that came too late. ``trace_id`` is the OpenTelemetry trace that the last
    delivery belonged to, as 32 hexadecimal digits, None where there was none.
    """

    id: str
    name: str
    state: str
    attempt: int
    delivery: int
    worker: str
    created_ms: int
    started_ms: int
    alive_ms: int
    ended_ms: int | None = None
    progress: Any = None
    progress_ms: int | None = None
    progress_mark: str | None = None
    reason: str | None = None
    error: str | None = None
    logs: int = 0
    dropped_logs: int = 0
    stalls: int = 0
    refused: int = 0
    trace_id: str | None = None


class CancelReceipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a request to cancel.

    ``outcome`` is ``"cancelled"`` (it will never run, or has ended as cancelled), ``"requested"`` (it runs, and will end as
    cancelled), ``"too_late"`` (it had ended otherwise) or ``"unknown"``; with the last two nothing was changed. ``requested_ms``
    is the instant of the request, in milliseconds since the epoch, and ``reason`` its reason as it is stored; of a job that has
    ended as cancelled they are those of the request that counted.
    """

    id: str
    outcome: str
    requested_ms: int
    reason: str | None = None


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that happened to a job, in the one order of its journal.

    ``kind`` is ``"log"``, ``"progress"``, ``"state"``, ``"cancel"`` or ``"gap"``. ``seq`` is the position in the journal and what
    ``after=`` takes; a progress event has the position of the entry before it, since only the latest progress is kept. ``data``
    is a :class:`LogEntry`, the progress value, or a mapping (``state``, ``attempt``, ``reason``, …; for a cancel its ``phase``:
    requested, delivered, interrupted, killed; for a gap: ``count``).
    """

    kind: str
    seq: int
    timestamp: int
    data: Any


def level_code(level: str) -> int:
    """Return a level's code.

    :raises ValueError: ``level`` is none of ``debug``, ``info``, ``warn`` (``warning``), ``error``.
    """
    try:
        return LEVELS["warn" if level == "warning" else level]
    except KeyError:
        raise ValueError(f"level={level!r} is no level: one of {', '.join(LEVELS)}") from None


def level_name(code: int) -> str:
    """Return the level of a code; an unknown one (of a newer version) reads as ``"info"``."""
    return _NAMES.get(code, "info")
