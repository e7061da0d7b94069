"""Retries, by ``ctx.retry`` and by Celery's own roads, as the worker, the job and its observers see them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from celery import chain, chord
from celery.exceptions import MaxRetriesExceededError as CeleryMaxRetriesExceededError
from celery.result import AsyncResult

from taskora_celery import MaxRetriesExceededError
from tests.support import gates, jobs
from tests.support.recorded import recorded
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from celery import Celery

    from tests.support.worker_fixtures import SharedWorker

pytestmark = pytest.mark.usefixtures("shared_worker")


def test_a_retry_with_its_delay_and_reason_is_seen_everywhere(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """I1, I4, B2: in ctx.history, handle.history(), the RETRY state's metadata, the journal and the worker's log."""
    written = shared_worker.log_size()
    before = time.time()
    handle = jobs.retry_with.delay([0, 1.5])
    result = AsyncResult(handle.id, app=jobs_app)
    waiting: Any = wait_until(lambda: _waiting(result, attempt=2), "the wait for the third attempt", timeout=20)
    assert (waiting.reason, waiting.delay, waiting.attempt) == ("rate limited 2", 1.5, 2)
    assert waiting.cause == "ConnectionError: 503 from shop"
    assert abs(waiting.next_ms / 1000 - (before + 1.5)) < 10
    status = handle.record()
    assert (status.state, status.reason, status.error) == ("RETRY", "rate limited 2", "ConnectionError")

    found = handle.get(timeout=20)
    assert found["attempt"] == 3
    records = list(handle.history())
    assert [(r.number, r.outcome, r.reason, r.error, r.delay) for r in records][:2] == [
        (1, "RETRY", "rate limited 1", "ConnectionError", 0), (2, "RETRY", "rate limited 2", "ConnectionError", 1.5),
    ]  # fmt: skip
    assert records[1].next_ms == pytest.approx(waiting.next_ms, abs=50)
    assert [record["reason"] for record in found["history"]] == ["rate limited 1", "rate limited 2"]
    states = [event.data["state"] for event in handle.events() if event.kind == "state"]
    assert states.count("RETRY") == 2
    log = shared_worker.logs()[written:]
    assert "Retry in 1.5s: " in log
    assert "rate limited 2" in log


def _waiting(result: AsyncResult, attempt: int) -> Any:
    """The metadata of the RETRY state that follows an attempt, None at other times."""
    return result.info if result.state == "RETRY" and getattr(result.info, "attempt", None) == attempt else None


def test_an_explicit_delay_is_used_exactly(jobs_app: Celery) -> None:
    """I2: the next attempt does not begin before its time, and with 0 it begins at once."""
    handle = jobs.retry_with.delay([0.2])
    handle.get(timeout=20)
    first, second = handle.history()
    ended = first.started_ms + (first.duration or 0) * 1000
    assert second.started_ms >= ended + 200 - 5
    assert first.next_ms == pytest.approx(ended + 200, abs=20)


def test_a_job_fails_when_its_retries_are_used_up(jobs_app: Celery) -> None:
    """I2: whatever autoretry_for and dont_autoretry_for say it retries, and then fails with the reason and the cause."""
    handle = jobs.retry_for_ever.delay()
    with pytest.raises(MaxRetriesExceededError, match=r"failed in attempt 3 of 3: no room") as caught:
        handle.get(timeout=20)
    assert caught.value.reason == "no room"
    assert isinstance(caught.value, CeleryMaxRetriesExceededError)
    assert gates.counted(handle.id, "attempts") == 3
    assert "disk full" in (handle.traceback or ""), "chained to its cause"
    recorded(handle, "FAILURE")
    assert [(r.number, r.outcome, r.reason) for r in handle.history()][:2] == [(1, "RETRY", "no room"), (2, "RETRY", "no room")]
    assert handle.history()[2].error == "MaxRetriesExceededError"


@pytest.mark.parametrize(("task", "reason", "error"), [
    (jobs.retry_by_self, "by self.retry", "ValueError"),
    (jobs.retry_by_itself, "by autoretry", "LookupError"),
])  # fmt: skip
def test_celerys_own_retries_are_recorded_too(jobs_app: Celery, task: Any, reason: str, error: str) -> None:
    """I4, I6, B2: self.retry and autoretry_for count, and tell why."""
    handle = task.delay()
    found = handle.get(timeout=20)
    assert found["attempt"] == 2
    (record,) = found["history"]
    assert (record["number"], record["outcome"], record["reason"], record["error"]) == (1, "RETRY", reason, error)


def test_a_retry_keeps_its_place_in_chains_and_chords(jobs_app: Celery) -> None:
    """I6: the next attempt belongs to the same chain or chord, and its links are called once."""
    assert chain(jobs.retry_once_in_canvas.s(4), jobs.add.s(1))().get(timeout=20) == 5
    members = [jobs.retry_once_in_canvas.s(n) for n in (1, 2, 3)]
    assert chord(members, jobs.total.s())().get(timeout=30) == 6
    linked = jobs.retry_once_in_canvas.apply_async((777,), link=jobs.remember.s())
    assert linked.get(timeout=20) == 777
    wait_until(lambda: gates.counted("777", "remembered"), "the linked task", timeout=10)
    failed = jobs.retry_for_ever.apply_async(link_error=jobs.remember_error.s())
    with pytest.raises(MaxRetriesExceededError):
        failed.get(timeout=20)
    wait_until(lambda: gates.counted(failed.id, "remembered"), "the errback", timeout=10)
    assert (gates.counted("777", "remembered"), gates.counted(failed.id, "remembered")) == (1, 1)


@pytest.mark.parametrize(("how", "state"), [("ignore", "IGNORED"), ("reject", "REJECTED")])
def test_ignore_and_reject_pass_through(jobs_app: Celery, how: str, state: str) -> None:
    """I6: the handler's own exceptions reach Celery; the record tells what it says of them nowhere else."""
    handle = jobs.refuse.delay(how)
    recorded(handle, state)
    assert [entry.meta for entry in handle.get_logs()] == [{"how": how}]
    if how == "ignore":
        assert [entry.meta for entry in handle.follow_logs(timeout=20)] == [{"how": how}]
    # Since 5.7 Celery itself calls a job failed that rejected its message for good.
    assert AsyncResult(handle.id, app=jobs_app).state in ({"PENDING"} if how == "ignore" else {"PENDING", "FAILURE"})
