"""Workers that shut down while their jobs run: nothing is lost, and nothing is held against a job."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import gates, stopping_jobs
from tests.support.recorded import recorded
from tests.support.waiting import wait_until
from tests.support.worker import STOP_TIMEOUT

if TYPE_CHECKING:
    import redis
    from celery import Celery

    from tests.support.worker_fixtures import StartWorker

TASKS = pytest.mark.parametrize("task", [stopping_jobs.long_late, stopping_jobs.long_early], ids=["late", "early"])
#: Celery's children may take half a minute to hand over their last results (billiard waits so long for its parent).
TIMEOUT = STOP_TIMEOUT + 15


def assert_went_on(handle: Any) -> None:
    """Run a second time: no attempt used, the checkpoint there, and no loss counted."""
    assert handle.get(timeout=30) == {"attempt": 1, "delivery": 2, "checkpoint": {"row": 7}}
    status = recorded(handle)
    assert (status.attempt, status.delivery, status.stalls) == (1, 2, 0)
    assert stopping_jobs.story(handle.id) == ["started", "started"]


@TASKS
@pytest.mark.parametrize("how", ["obey", "ask"])
def test_a_job_that_obeys_a_shutdown_goes_on_elsewhere(
    pool: str, start_worker: StartWorker, jobs_app: Celery, task: Any, how: str
) -> None:
    """Fault 10, I3: its message is back at once; the worker does not wait."""
    worker = start_worker(pool=pool)
    handle = task.delay(how)
    gates.wait_at(handle.id)
    wait_until(lambda: handle.get_progress() == 7, "the report")
    assert worker.stop(TIMEOUT) == 0
    start_worker(pool=pool)
    assert_went_on(handle)


@TASKS
def test_a_job_that_takes_no_notice_is_left_to_finish(pool: str, start_worker: StartWorker, jobs_app: Celery, task: Any) -> None:
    """Fault 10, I3: it runs once, and its worker waits for it."""
    worker = start_worker(pool=pool)
    handle = task.delay("deaf")
    gates.wait_at(handle.id)
    worker.signal(signal.SIGTERM)
    worker.wait_for_log("Warm shutdown")
    worker.signal(signal.SIGTERM)  # the same once more, for Celery
    gates.open_gate(handle.id)
    assert worker.wait(TIMEOUT) == 0
    found = handle.get(timeout=10)
    assert (found["delivery"], found["reason"]) == (1, "shutdown")
    status = recorded(handle)
    assert (status.delivery, status.stalls) == (1, 0)
    assert stopping_jobs.story(handle.id) == ["started"]


@pytest.mark.parametrize("drains", [False, True], ids=["ends at once", "waits for another job"])
def test_a_worker_that_shuts_down_does_not_begin_its_own_job_again(
    pool: str, start_worker: StartWorker, redis_client: redis.Redis, jobs_app: Celery, drains: bool
) -> None:
    """I3: it would only have to stop it again; also what the worker still receives goes back, before its last job has ended."""
    if drains and pool in {"solo", "prefork"}:
        pytest.skip("solo runs one job at a time; Celery's prefork hears of it only when the other job has ended")
    worker = start_worker(pool=pool)
    deaf = stopping_jobs.long_late.delay("deaf") if drains else None
    if deaf is not None:
        gates.wait_at(deaf.id)
    handle = stopping_jobs.obey_always.delay()
    gates.wait_at(handle.id)
    worker.signal(signal.SIGTERM)
    worker.wait_for_log("Warm shutdown")
    recorded(handle, "REJECTED")
    if deaf is not None:
        wait_until(lambda: redis_client.llen("celery") == 1, "its message in the queue", timeout=10)
        gates.open_gate(deaf.id)
    assert worker.wait(TIMEOUT) == 0
    assert redis_client.llen("celery") == 1
    assert stopping_jobs.story(handle.id) == ["started"]
    gates.open_gate(handle.id)
    start_worker(pool=pool)
    assert handle.get(timeout=30) == 2
    assert [(run.delivery, run.outcome) for run in handle.history()] == [(1, "REJECTED"), (2, "SUCCESS")]
    assert recorded(handle).stalls == 0


@pytest.mark.parametrize("signals", [[signal.SIGQUIT], [signal.SIGTERM, signal.SIGQUIT]], ids=["at once", "behind a warm one"])
def test_a_cold_shutdown_loses_nothing_and_is_no_stall(
    start_worker: StartWorker, jobs_app: Celery, signals: list[signal.Signals]
) -> None:
    """Fault 10: prefork, where Celery ends the processes at once."""
    worker = start_worker()
    handle = stopping_jobs.long_late.delay("deaf")
    gates.wait_at(handle.id)
    wait_until(lambda: handle.get_progress() == 7, "the report")
    for number in signals:
        worker.signal(number)
        worker.wait_for_log("Warm shutdown" if number == signal.SIGTERM else "Cold shutdown")
    worker.wait(TIMEOUT)
    start_worker()
    assert_went_on(handle)


@TASKS
def test_a_job_that_was_given_back_can_be_cancelled(start_worker: StartWorker, jobs_app: Celery, task: Any) -> None:
    """G2, I3: while its message waits for another worker; also where it is a new message, behind an early acknowledgement."""
    worker = start_worker()
    handle = task.delay("obey")
    gates.wait_at(handle.id)
    wait_until(lambda: handle.get_progress() == 7, "the report")
    assert worker.stop(TIMEOUT) == 0
    recorded(handle, "REJECTED")
    assert handle.cancel("not again").outcome == "cancelled"
    start_worker()
    assert stopping_jobs.mark.delay().get(timeout=30) == "ran"
    with gates.gate_client() as client:
        wait_until(lambda: not client.llen("celery") and not client.hlen("unacked"), "the end of the message")
    assert (handle.state, handle.record().state, handle.record().reason) == ("REVOKED", "REVOKED", "not again")
    assert stopping_jobs.story(handle.id) == ["started"]
