"""What a run came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from taskora_celery.handle import JobHandle
from taskora_celery.records import AttemptRecord, CancelReceipt, LogEntry
from taskora_celery.testing.outlet import SentTask

__all__ = ["JobRun"]


@dataclass(frozen=True, slots=True)
class JobRun:
    """What became of a job, and all that was recorded on the way.

    What an execution reports that counts no more is refused by the store, and is not among it.
    """

    id: str
    #: Celery's state, as ``handle.state`` shows it: ``"SUCCESS"``, ``"FAILURE"``, ``"REVOKED"``; ``"IGNORED"`` or ``"REJECTED"``
    #: where the handler raised that.
    state: str
    #: What ``handle.get()`` returns (of a task that ignores its result: what the handler returned); None without success.
    result: Any
    #: What ``handle.get()`` raises, None after a success. Of a failure it is the handler's own exception object.
    exception: BaseException | None
    #: Why the job ended so, as its record says: the reason of a cancel, the text of an error; None where there is none.
    reason: str | None
    #: How often the handler was tried, 0 where it never began; and how often the message was delivered.
    attempts: int
    deliveries: int
    #: All progress values in call order, as a reader sees them: plain, redacted.
    progress: Sequence[Any]
    logs: Sequence[LogEntry]
    checkpoints: Sequence[Any]
    heartbeats: int
    #: The seconds of each ``ctx.sleep``, as asked for.
    sleeps: Sequence[float]
    #: The seconds from each retry to the next attempt.
    delays: Sequence[float]
    #: One record for each attempt and each lost delivery, oldest first.
    history: Sequence[AttemptRecord]
    #: Messages that were sent: tasks that the handler called, callbacks and errbacks, the next of a chain.
    sent: Sequence[SentTask]
    #: How many reports the handler made: progress, log, checkpoint, heartbeat and sleep.
    steps: int
    #: Virtual seconds from the first delivery to the end.
    elapsed: float
    #: What ``handle.cancel()`` returned, None where nobody cancelled.
    receipt: CancelReceipt | None = None
    #: The job as observers see it: ``handle.get_logs()``, ``history()``, ``record()``, ``get()``. It reads the store of this run.
    handle: JobHandle = field(repr=False, kw_only=True)

    def get(self) -> Any:
        """Return the result.

        :raises BaseException: :attr:`exception`, where there is one.
        """
        if self.exception is not None:
            raise self.exception
        return self.result
