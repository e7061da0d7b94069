"""Real workers on SQS, with results and records in Redis: what every job needs works on a broker that is not Redis."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.support import fault_jobs, gates, jobs, reporting_jobs
from tests.support.apps import pointed_at
from tests.support.fault_jobs import starts
from tests.support.recorded import ends_in_its_second_delivery
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    import pytest

    from tests.support.sqs import SqsServer
    from tests.support.worker_fixtures import StartWorker

VISIBILITY_TIMEOUT = 3  # seconds, as SQS takes them


def test_a_job_on_sqs_reports_while_it_runs(
    pool: str, start_worker: StartWorker, redis_url: str, sqs_server: SqsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D10: the worker consumes over HTTP, and the job says how far it is before it ends."""
    monkeypatch.setenv("GATE_URL", redis_url)
    start_worker(pool=pool, concurrency=1, env=sqs_server.worker_env(redis_url, visibility_timeout=30))
    with pointed_at(jobs.app, **sqs_server.settings(redis_url, visibility_timeout=30)):
        handle = reporting_jobs.report_at_gates.delay([{"stage": "a"}])
        gates.wait_at(handle.id)
        wait_until(lambda: handle.get_progress() == {"stage": "a"}, "its progress")
        gates.open_gate(handle.id)
        assert handle.get(timeout=30) == "done"
        assert handle.get_progress() == 100


def test_a_job_on_sqs_runs_once_past_its_visibility_timeout_and_is_back_when_its_worker_dies(
    start_worker: StartWorker, redis_url: str, sqs_server: SqsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D1, D10, B3, B6, E8: its worker renews it; another one, which asks all the time, gets it when nobody does."""
    monkeypatch.setenv("GATE_URL", redis_url)
    env = sqs_server.worker_env(redis_url, visibility_timeout=VISIBILITY_TIMEOUT)
    with pointed_at(jobs.app, **sqs_server.settings(redis_url, visibility_timeout=VISIBILITY_TIMEOUT)):
        started = [start_worker("tests.support.fault_jobs:app", concurrency=1, env=env, wait=False) for _ in range(2)]
        workers = {worker.hostname: worker for worker in started}
        handle = fault_jobs.stand_late.delay()
        wait_until(lambda: starts(handle.id), "the job's start")
        (start,) = starts(handle.id)
        for worker in started:
            worker.wait_ready()
        wait_until(lambda: time.time() - start["at"] > 2 * VISIBILITY_TIMEOUT, "two visibility timeouts", interval=0.1)
        assert len(starts(handle.id)) == 1
        workers.pop(str(handle.record().worker)).kill()
        wait_until(lambda: len(starts(handle.id)) == 2, "the second start")
        (survivor,) = workers
        ends_in_its_second_delivery(handle, survivor)
