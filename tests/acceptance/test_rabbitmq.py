"""Real workers on a real RabbitMQ, which has no visibility timeout: nothing is renewed, and all else works."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import WorkerLostError

from taskora_celery.events import STARTED
from tests.support import fault_jobs, gates, jobs
from tests.support.apps import pointed_at
from tests.support.monitor import Monitor
from tests.support.recorded import recorded
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from taskora_celery import JobHandle
    from tests.support.worker_fixtures import StartWorker

pytestmark = pytest.mark.rabbitmq


@pytest.fixture(params=["rpc", "redis"])
def backend(request: pytest.FixtureRequest, pool: str, redis_url: str) -> str:
    """The URL of a result backend: the broker itself, or Redis."""
    if request.param == "redis":
        return redis_url
    if pool not in {"prefork", "threads"}:
        pytest.skip("the backend is used in the same way in all pools; these two differ most")
    return "rpc://"


@pytest.fixture
def worked_on(
    pool: str, start_worker: StartWorker, rabbitmq_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], AbstractContextManager[None]]:
    """A function that starts a worker of the fault jobs with so many places, and points them at RabbitMQ meanwhile."""
    monkeypatch.setenv("GATE_URL", redis_url)  # the gates need one, whatever the broker is

    @contextmanager
    def work(places: int) -> Iterator[None]:
        env = {"BROKER_URL": rabbitmq_url, "RESULT_BACKEND": redis_url, "GATE_URL": redis_url}
        start_worker("tests.support.fault_jobs:app", pool, places, env={**env, **jobs.configured(taskora_redis_url=redis_url)})
        with pointed_at(jobs.app, rabbitmq_url, redis_url, taskora_redis_url=redis_url):
            yield

    return work


def test_jobs_on_rabbitmq_beat_report_and_succeed(
    pool: str, backend: str, start_worker: StartWorker, rabbitmq_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D1, D10: a heartbeat does nothing there and harms nothing; progress and logs are kept in Redis."""
    monkeypatch.setenv("GATE_URL", redis_url)  # the gates need one, whatever the broker is
    env = {"BROKER_URL": rabbitmq_url, "RESULT_BACKEND": backend, "GATE_URL": redis_url}
    worker = start_worker(pool=pool, concurrency=1, env={**env, **jobs.configured(taskora_redis_url=redis_url)})
    with pointed_at(jobs.app, rabbitmq_url, backend, taskora_redis_url=redis_url):
        beating = jobs.beat_until_open.delay(True)
        wait_until(lambda: gates.counted(beating.id, "starts"), "the job's start")
        gates.open_gate(beating.id)
        assert beating.get(timeout=30) == 1

        with Monitor(jobs.app) as monitor:
            reporting = jobs.save_and_stop.delay()
            gates.wait_at(reporting.id)
            wait_until(lambda: reporting.get_progress() == 10, "its progress")
            assert monitor.wait_for(reporting.id, STARTED).result == "10%", "K1"
            gates.open_gate(reporting.id)
            monitor.wait_for(reporting.id, "task-succeeded")
        assert reporting.get(timeout=30)["delivery"] == 1
        assert [entry.message for entry in reporting.get_logs()] == ["delivered"]
    assert "leases cannot be renewed" not in worker.logs()


@pytest.mark.parametrize("pool", ["prefork"], indirect=True, scope="session")
def test_the_process_of_a_job_on_rabbitmq_is_killed(pool: str, worked_on: Callable[[int], AbstractContextManager[None]]) -> None:
    """D6, fault 4: what is not given back has failed, in its record, too; what is comes again, and goes on."""
    with worked_on(3):
        tasks: tuple[Any, ...] = (fault_jobs.stand_early, fault_jobs.stand_late, fault_jobs.stand_rejected)
        early, late, back = (task.delay() for task in tasks)
        for handle in (early, late, back):
            wait_until(partial(_has_reported, handle, 1), "its report")
            os.kill(fault_jobs.starts(handle.id)[0]["pid"], signal.SIGKILL)
        for handle in (early, late):
            with pytest.raises(WorkerLostError):
                handle.get(timeout=30)
            assert recorded(handle, "FAILURE").error == "WorkerLostError"
        wait_until(partial(_has_reported, back, 2), "its next delivery", 30)
        gates.open_gate(back.id, "delivery2")
        assert back.get(timeout=30)["checkpoint"] == {"row": 100}
        assert [(record.delivery, record.outcome) for record in back.history()] == [(1, "LOST"), (2, "SUCCESS")]


@pytest.mark.parametrize("pool", ["prefork"], indirect=True, scope="session")
@pytest.mark.parametrize("how", ["python", "signal"])
def test_a_job_on_rabbitmq_that_hangs_is_given_up(
    pool: str, how: str, worked_on: Callable[[int], AbstractContextManager[None]]
) -> None:
    """D4, D10: nobody can take its message away, so its process ends itself, and the broker delivers it again."""
    with worked_on(1):
        hanging = fault_jobs.hang.delay(how)
        assert hanging.get(timeout=60)["delivery"] == 2
        assert [(run.delivery, run.outcome) for run in hanging.history()] == [(1, "LOST"), (2, "SUCCESS")]
        assert hanging.record().stalls == 1


def test_jobs_on_rabbitmq_are_cancelled(pool: str, worked_on: Callable[[int], AbstractContextManager[None]]) -> None:
    """G2, G3: one that waits in its queue never runs, one that runs is told, and in prefork one that is deaf is ended."""
    with worked_on(1):
        running, waiting = fault_jobs.stand_late.delay(), fault_jobs.mark.delay()
        wait_until(partial(_has_reported, running, 1), "its report")
        assert waiting.cancel("not needed").outcome == "cancelled"
        assert running.cancel("not needed", grace=0.2, wait=30).outcome == "cancelled"
        assert fault_jobs.mark.delay().get(timeout=30) == 1
        assert fault_jobs.starts(waiting.id) == []
        assert [recorded(handle, "REVOKED").reason for handle in (running, waiting)] == ["not needed", "not needed"]
        if pool == "prefork":
            deaf = fault_jobs.hang_for_good.delay()
            wait_until(lambda: fault_jobs.starts(deaf.id), "its start")
            os.kill(fault_jobs.starts(deaf.id)[0]["pid"], signal.SIGSTOP)  # it hears nothing, whatever it is told
            assert deaf.cancel("deaf", grace=0.2, wait=30).outcome == "cancelled"
            assert recorded(deaf, "REVOKED").reason == "deaf"


def _has_reported(handle: JobHandle, delivery: int) -> bool:
    return bool(handle.get_progress() == delivery)
