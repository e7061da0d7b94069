"""The seam between what a job reports and where it is kept.

A store decides races: every change of a record goes through ``begin`` or ``report``, which are atomic per job, and ``report``
is refused to whoever does not hold the job's fence. Two implementations keep this contract, Redis and the in-memory twin, and
one suite of tests runs on both.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from enum import IntEnum
from typing import Any, Protocol

import msgspec

from taskora_celery.records import AttemptRecord

__all__ = ["Batch", "Begin", "Begun", "Ended", "JobStore", "Reply", "Report", "Snapshot", "Watch"]


class Begin(msgspec.Struct, frozen=True):
    """A delivery of a job begins."""

    id: str
    name: str
    attempt: int
    worker: str
    created_ms: int
    now_ms: int
    #: The broker says that it delivered this message before.
    redelivered: bool = False
    #: The fence that the caller uses already, in microseconds since the epoch; 0 to be given one. A first delivery needs to know
    #: nothing before it starts: it takes the time as its fence and registers with its first report.
    fence: int = 0


class Begun(msgspec.Struct, frozen=True):
    """What the store knows when a delivery begins; the caller holds the fence from here on.

    A fence of 0 says that a later delivery holds the job already, and one of -1 that the wanted fence cannot be had (a clock
    that lags behind): in both nothing was changed.
    """

    fence: int
    delivery: int
    created_ms: int
    checkpoint: bytes | None = None
    #: Earlier attempts and lost deliveries, oldest first.
    attempts: tuple[AttemptRecord, ...] = ()


class Batch(msgspec.Struct, frozen=True):
    """Journal entries of one execution that travel as one value."""

    entries: int
    logs: int
    data: bytes


class Ended(msgspec.Struct, frozen=True):
    """How an attempt ended. ``keep`` is its record where another attempt follows, else None."""

    state: str
    #: When the handler ended; the report may come later.
    at_ms: int
    reason: str | None = None
    error: str | None = None
    keep: AttemptRecord | None = None


class Report(msgspec.Struct, frozen=True):
    """What one execution has to say since its last report. Sending the same one again changes nothing more."""

    id: str
    fence: int
    now_ms: int
    #: The delivery itself is news, too: it is counted before the rest is written.
    begin: Begin | None = None
    #: The number, within the execution, of the first entry of ``batches``.
    first: int = 0
    batches: tuple[Batch, ...] = ()
    progress: bytes | None = None
    checkpoint: bytes | None = None
    ended: Ended | None = None


class Reply(IntEnum):
    """What became of a report."""

    ACCEPTED = 1
    #: The job was delivered again since; nothing was changed.
    SUPERSEDED = 0
    #: There is no record (it expired, or the store lost its data), or it cannot be had with this fence; nothing was changed.
    UNKNOWN = -1
    #: The store cannot take this one, and never will (another program's data under the key); the others it can.
    REFUSED = -2


class Snapshot(msgspec.Struct, frozen=True):
    """A job as it was at one moment. ``fields`` has the keys that :mod:`taskora_celery.store.keys` lists."""

    fields: dict[str, Any]
    #: Batches that were removed from the journal's head; ``removed + len(journal)`` is where the next read goes on.
    removed: int
    journal: tuple[bytes, ...] = ()
    attempts: tuple[AttemptRecord, ...] = ()


class Watch(Protocol):
    """Tells that watched jobs may have changed."""

    def wait(self, timeout: float) -> bool:
        """Block until a watched job changed, or for ``timeout`` seconds; say which.

        :raises StoreUnavailableError: the connection was lost; changes may have been missed.
        """


class JobStore(Protocol):
    """Where job records are kept. Every method may be called from any thread.

    All raise :class:`~taskora_celery.errors.StoreUnavailableError` when the store does not answer in time, or refuses; what
    was sent may or may not have been written then, and sending it again is safe.
    """

    def begin(self, begin: Begin) -> Begun:
        """Count a delivery and take the job's fence."""

    def report(self, reports: Sequence[Report]) -> list[Reply]:
        """Write many reports in one go, and say for each what became of it."""

    def read(self, job_id: str, skip: int | None = None, *, attempts: bool = False) -> Snapshot | None:
        """Return the record, the journal from batch ``skip`` on (None: without it), and the attempts; None if unknown."""

    def watch(self, job_ids: Sequence[str]) -> AbstractContextManager[Watch]:
        """Watch jobs for changes, from the moment that the context is entered."""

    def close(self) -> None:
        """Give up all connections."""
