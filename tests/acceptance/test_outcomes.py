"""Outcomes that the worker's parent writes while the job still reports: PROGRESS must not overwrite them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from celery.result import AsyncResult

from tests.support import gates, reporting_jobs
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from celery import Celery

    from tests.support.worker_fixtures import SharedWorker


@pytest.fixture
def prefork_worker(pool: str, shared_worker: SharedWorker) -> SharedWorker:
    """The shared worker of the one pool that can end a job's process."""
    if pool != "prefork":
        pytest.skip("only prefork ends processes")
    return shared_worker


def _stays(handle: Any, app: Celery, worker: SharedWorker, children: list[int], state: str) -> None:
    """The child that reported is gone, a report of another job has gone all the way, and the state is what it was."""
    wait_until(lambda: set(worker.children()) != set(children), "the end of the job's process", timeout=20)
    gone = set(children) - set(worker.children())
    wait_until(lambda: not any(_lives(pid) for pid in gone), "the end of the job's process", timeout=20)
    after = reporting_jobs.report_and_return.delay(7)
    assert after.get(timeout=20) == 7
    assert _state(handle, app) == state


def _state(handle: Any, app: Celery) -> str:
    """What the backend says now; a result that has once seen an outcome looks no more."""
    return str(AsyncResult(handle.id, app=app).state)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_reports_of_a_revoked_job_leave_its_state_alone(prefork_worker: SharedWorker, jobs_app: Celery) -> None:
    """E5: the parent writes REVOKED while the child goes on reporting every two milliseconds."""
    handle = reporting_jobs.progress_until_open.delay()
    wait_until(lambda: _state(handle, jobs_app) == "PROGRESS", "a job that reports", timeout=20)
    # A signal that changes nothing: the parent takes the job for ended, and its process lives.
    jobs_app.control.revoke(handle.id, terminate=True, signal="SIGCONT")
    wait_until(lambda: _state(handle, jobs_app) == "REVOKED", "REVOKED", timeout=20)
    try:
        # The record has ended, too, and refuses them: that they are still made, the job itself says.
        then = gates.counted(handle.id, "reports")
        wait_until(lambda: gates.counted(handle.id, "reports") > then + 500, "many more reports", timeout=20)
        assert _state(handle, jobs_app) == "REVOKED"
        assert handle.record().state == "REVOKED"
    finally:
        gates.open_gate(handle.id)


def test_a_terminated_job_stays_revoked(prefork_worker: SharedWorker, jobs_app: Celery) -> None:
    """E5: revoke(terminate=True) ends the process of a job that reports."""
    handle = reporting_jobs.progress_until_open.delay()
    wait_until(lambda: _state(handle, jobs_app) == "PROGRESS", "a job that reports", timeout=20)
    children = prefork_worker.children()
    jobs_app.control.revoke(handle.id, terminate=True, signal="SIGKILL")
    wait_until(lambda: _state(handle, jobs_app) == "REVOKED", "REVOKED", timeout=20)
    _stays(handle, jobs_app, prefork_worker, children, "REVOKED")


def test_a_job_past_its_hard_limit_stays_failed(prefork_worker: SharedWorker, jobs_app: Celery) -> None:
    """E5: so does the FAILURE of the hard time limit."""
    handle = reporting_jobs.progress_until_open.apply_async(time_limit=1)
    wait_until(lambda: gates.counted(handle.id, "starts"), "the start", timeout=20)
    children = prefork_worker.children()
    wait_until(lambda: _state(handle, jobs_app) == "FAILURE", "FAILURE", timeout=20)
    _stays(handle, jobs_app, prefork_worker, children, "FAILURE")
    assert "TimeLimitExceeded" in repr(AsyncResult(handle.id, app=jobs_app).info)


def test_an_observer_of_a_job_whose_process_was_killed_does_not_hang(prefork_worker: SharedWorker, jobs_app: Celery) -> None:
    """J4, F5: the record never hears of the end; whoever follows the job learns of it from the result backend."""
    handle = reporting_jobs.progress_until_open.delay()
    wait_until(lambda: _state(handle, jobs_app) == "PROGRESS", "a job that reports", timeout=20)
    jobs_app.control.revoke(handle.id, terminate=True, signal="SIGKILL")
    kinds = {event.kind for event in handle.events(timeout=20)}
    assert kinds == {"state", "progress"}
