"""Jobs in every state in which a cancel may meet them, and what it comes to: for tests that have no worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskora_celery.records import Outcome
from taskora_celery.store.protocol import CancelOutcome, CancelRequest, Loss
from tests.support.executions import NOW_MS, ScriptedExecution

if TYPE_CHECKING:
    from taskora_celery.store.protocol import JobStore

#: When the cancel comes, in milliseconds since the epoch.
CANCEL_MS = NOW_MS + 10_000

#: What a request comes to in each state of a job.
OUTCOMES = {
    "STARTED": CancelOutcome.REQUESTED,
    Outcome.RETRY: CancelOutcome.CANCELLED,
    Outcome.LOST: CancelOutcome.CANCELLED,
    Outcome.REJECTED: CancelOutcome.CANCELLED,
    Outcome.SUCCESS: CancelOutcome.TOO_LATE,
    Outcome.FAILURE: CancelOutcome.TOO_LATE,
    Outcome.REVOKED: CancelOutcome.TOO_LATE,
    Outcome.IGNORED: CancelOutcome.TOO_LATE,
}


def request(job_id: str = "job-1", **fields: Any) -> CancelRequest:
    """Somebody wants the job to stop."""
    values = {"now_ms": CANCEL_MS, "reason": "no longer wanted", "by": "ops@desk", **fields}
    return CancelRequest(job_id, **values)


def loss(job_id: str = "job-1", **fields: Any) -> Loss:
    """The delivery with the tag ``t1`` is lost."""
    values = {"attempt": 1, "worker": "w1@host", "tag": "t1", "token": 1, "now_ms": NOW_MS + 5_000, "reason": "killed", **fields}
    return Loss(job_id, "shop.work", **values)


def job_in(store: JobStore, state: str, job_id: str = "job-1") -> ScriptedExecution:
    """A job in this state, whose first message had the tag ``t1``."""
    execution = ScriptedExecution(store, job_id, tag="t1", token=1)
    if state == Outcome.RETRY:
        execution.end_in_retry()
    elif state == Outcome.LOST:
        store.lose(loss(job_id))
    elif state != "STARTED":
        execution.end(state)
    return execution
