"""The seam between what a job reports and where it is kept.

A store decides races: every change of a record goes through ``begin``, ``report``, ``lose`` or ``cancel``, which are atomic per
job, and ``report`` is refused to whoever does not hold the job's fence. Two implementations keep this contract, Redis and the
in-memory twin, and one suite of tests runs on both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Protocol

import msgspec

from taskora_celery.records import AttemptRecord

__all__ = [
    "NO_COUNTS",
    "Announcements",
    "Batch",
    "Begin",
    "Begun",
    "CancelOutcome",
    "CancelRequest",
    "Ended",
    "JobStore",
    "Loss",
    "Lost",
    "Reply",
    "Report",
    "Shutdown",
    "Snapshot",
    "Verdict",
    "Watch",
]  # fmt: skip

NO_COUNTS: Mapping[str, int] = MappingProxyType({})


class Begin(msgspec.Struct, frozen=True):
    """A delivery of a job begins."""

    id: str
    name: str
    attempt: int
    worker: str
    #: The publisher's stamp, the same for each message of a job; 0 where there is none: then the first receipt counts.
    created_ms: int
    now_ms: int
    #: The broker says that it delivered this message before.
    redelivered: bool = False
    #: The fence that the caller uses already, in microseconds since the epoch; 0 to be given one. A delivery that began while the
    #: store was away took the time as its fence, and registers with its first report.
    fence: int = 0
    #: The message's delivery tag, and what tells this delivery of it from others; empty and 0 where there is no broker.
    tag: str = ""
    token: int = 0
    #: Run it also where its outcome is recorded: the result backend does not know of it.
    anyway: bool = False
    #: The queue that it waited in since it was created; None where it waited for something else (an ETA), or that is not known.
    queue: str | None = None
    #: The id of the trace that it belongs to; empty where there is none.
    trace: str = ""
    #: It has run and ended before the store could be told, and Celery has stored its outcome: too late to be cancelled.
    over: bool = False


class Verdict(IntEnum):
    """Why a delivery does not begin; it takes the place of the fence in :class:`Begun`, and nothing was changed."""

    #: A later delivery holds the job.
    SUPERSEDED = 0
    #: The wanted fence cannot be had (a clock that lags behind).
    FENCE_TAKEN = -1
    #: The outcome of this message is recorded: it was delivered once more after its end.
    ENDED = -2
    #: The retry of this attempt has begun.
    RETRIED = -3
    #: It is cancelled, and does not begin.
    CANCELLED = -4

    @property
    def why(self) -> str:
        """What the log says of it."""
        return {-2: "its outcome is stored already", -3: "its retry has begun"}.get(self.value, "a later delivery has it")


class Begun(msgspec.Struct, frozen=True):
    """What the store knows when a delivery begins; the caller holds the fence from here on.

    A fence that is not positive is a :class:`Verdict`.
    """

    fence: int
    delivery: int
    created_ms: int
    checkpoint: bytes | None = None
    #: Earlier attempts and lost deliveries, oldest first.
    attempts: tuple[AttemptRecord, ...] = ()
    #: How many deliveries of the job were lost or stalled until now.
    stalls: int = 0
    #: The request to cancel that is in force, packed; see :func:`~taskora_celery.store.announcements.unpacked`.
    cancel: bytes | None = None
    #: Nobody has told how the delivery before had ended: it was found to be lost, and counted, by this beginning.
    unheard: bool = False


class Loss(msgspec.Struct, frozen=True):
    """A delivery that will not be heard of again, as seen from outside: its process or its worker died, or it hangs."""

    id: str
    name: str
    attempt: int
    worker: str
    tag: str
    #: None where only the message is known (it was another worker's).
    token: int | None
    now_ms: int
    reason: str
    #: The state that ends the job (``"FAILURE"``, ``"REVOKED"``) with the error's class; None: it will be delivered again.
    state: str | None = None
    error: str | None = None
    #: How many losses are allowed: one more ends the job as FAILURE; None: any number.
    limit: int | None = None
    #: Whether it counts as a loss: a worker that shuts down is not the job's fault.
    counts: bool = True
    #: The publisher's stamp, 0 where there is none: it tells a job that was sent anew under the id of one that had ended.
    created_ms: int = 0


class Lost(msgspec.Struct, frozen=True):
    """What became of a :class:`Loss`; ``stalls`` counts the losses, None where that delivery was over and nothing was changed."""

    stalls: int | None
    #: The job has ended with this loss; ``cancelled``: as somebody had requested.
    ended: bool = False
    cancelled: bool = False


class CancelRequest(msgspec.Struct, frozen=True, array_like=True):
    """Somebody wants a job to stop. The field order is that of the wire."""

    id: str
    now_ms: int
    reason: str | None = None
    #: Seconds that the handler has to stop by itself, and again to obey an exception; None: as its task says.
    grace: float | None = None
    #: Only the signal: a plain revoke of Celery's never interrupted a running task.
    gently: bool = False
    #: Who wants it, for the journal.
    by: str | None = None


class Shutdown(msgspec.Struct, frozen=True, array_like=True):
    """A worker shuts down, warmly: its jobs may stop, and be delivered again elsewhere."""

    worker: str


class CancelOutcome(IntEnum):
    """What a request to cancel comes to."""

    #: An earlier request has ended it as cancelled; nothing was changed.
    ALREADY = -1
    UNKNOWN = 0
    TOO_LATE = 1
    CANCELLED = 2
    REQUESTED = 3


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
    #: The handler could not see that it was to stop (it takes no context): a gentle request does not decide this end.
    unaware: bool = False
    #: The store was not asked in time, and Celery has stored this outcome: it is written whatever was requested meanwhile.
    stands: bool = False


class Report(msgspec.Struct, frozen=True):
    """What one execution has to say since its last report. Sending the same one again changes nothing more."""

    id: str
    fence: int
    #: 0 where it is no sign of life, only a look whether the job may go on.
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
    #: Accepted; somebody wants the job to stop.
    STOPPING = 2
    #: Accepted but for the end: somebody wanted the job to stop before it ended, so it is to end as cancelled.
    CANCELLED = 3
    #: The job was delivered again since; nothing was changed.
    SUPERSEDED = 0
    #: There is no record (it expired, or the store lost its data), or it cannot be had with this fence; nothing was changed.
    UNKNOWN = -1
    #: The store cannot take this one, and never will (another program's data under the key); the others it can.
    REFUSED = -2


class Snapshot(msgspec.Struct, frozen=True):
    """A job as it was at one moment. ``fields`` has the keys that :mod:`taskora_celery.store.keys` lists."""

    fields: dict[str, Any]
    #: Batches that were removed from the journal's head. What was read begins after these, or after what was skipped, whichever
    #: is more; ``max(removed, skip) + len(journal)`` is where the next read goes on.
    removed: int
    journal: tuple[bytes, ...] = ()
    attempts: tuple[AttemptRecord, ...] = ()


class Watch(Protocol):
    """Tells that watched jobs may have changed."""

    def wait(self, timeout: float) -> bool:
        """Block until a watched job changed, or for ``timeout`` seconds; say which.

        :raises StoreUnavailableError: the connection was lost; changes may have been missed.
        """


class Announcements(Protocol):
    """What is announced to all processes that run jobs, from the moment that it is made."""

    def next(self) -> CancelRequest | Shutdown | None:
        """Block until something is announced; None for what cannot be read.

        :raises StoreUnavailableError: the connection was lost, or closed; announcements may have been missed.
        """

    def close(self) -> None:
        """End a :meth:`next` that waits in another thread."""


class JobStore(Protocol):
    """Where job records are kept. Every method may be called from any thread.

    All raise :class:`~taskora_celery.errors.StoreUnavailableError` when the store does not answer in time, or refuses; what
    was sent may or may not have been written then, and sending it again is safe.
    """

    def begin(self, begin: Begin) -> Begun:
        """Count a delivery and take the job's fence."""

    def report(self, reports: Sequence[Report]) -> list[Reply]:
        """Write many reports in one go, and say for each what became of it."""

    def lose(self, loss: Loss) -> Lost:
        """Record that a delivery is lost, and fence its execution off: whatever it still reports is refused."""

    def cancel(self, request: CancelRequest, *, queued: bool = False) -> CancelOutcome:
        """Decide, atomically against the job's beginning and end, what a request to cancel comes to; and announce it.

        ``queued`` says that the job is known to have been sent: without a record it waits in its queue, and is cancelled at once.
        """

    def shut_down(self, worker: str) -> None:
        """Announce that a worker shuts down."""

    def listen(self) -> Announcements:
        """Listen to announcements."""

    def read(self, job_id: str, skip: int | None = None, *, attempts: bool = False) -> Snapshot | None:
        """Return the record, the journal from batch ``skip`` on (None: without it), and the attempts; None if unknown."""

    def note(
        self, going: Sequence[str], ended: Sequence[str], now_ms: int, counts: Mapping[str, int] = NO_COUNTS
    ) -> None:  # fmt: skip
        """Note in the index that the state of these jobs has changed: some go on, some have ended; and add to the counts.

        The names of counts are those of :mod:`taskora_celery.tally`. Only of this it matters whether it is sent again: it counts
        once more what was written although the answer was lost.
        """

    def counts(self) -> dict[str, int]:
        """Return all counts."""

    def listed(self, limit: int, *, going: bool = False) -> list[tuple[str, int]]:
        """Return the newest jobs, at most ``limit``, with the instant (ms) at which each changed its state last.

        ``going``: only those that have not ended. The index is a moment behind the records.
        """

    def records(self, job_ids: Sequence[str], *, brief: bool = False, going: bool = False) -> list[Snapshot | None]:
        """Return each job's record with its last attempt and without its journal, None where there is none.

        Where there is a checkpoint, an empty one stands for it.
        ``brief``: only how it stands (state, name, worker, last sign of life, end and reason): small, whatever it has to say.
        ``going``: the jobs are of the list of those that have not ended; those that have are taken off it. Where the next attempt
        ends before the process of the one before has noted that the job goes on, nobody else would.
        """

    def watch(self, job_ids: Sequence[str]) -> AbstractContextManager[Watch]:
        """Watch jobs for changes, from the moment that the context is entered."""

    def close(self) -> None:
        """Give up all connections."""
