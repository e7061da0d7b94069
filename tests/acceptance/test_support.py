"""The workers that the acceptance tests stand on, proved with tasks that need nothing of this package."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.support import jobs
from tests.support.processes import group_members
from tests.support.worker import ALL_POOLS

if TYPE_CHECKING:
    from celery import Celery
    from pytest_celery import CeleryTestSetup

    from tests.support.worker_fixtures import SharedWorker, StartWorker


def test_a_shared_worker_of_each_pool_runs_a_task(shared_worker: SharedWorker, jobs_app: Celery, pool: str) -> None:
    """The tests of a pool share one worker, because a start costs seconds."""
    assert jobs.add.delay(2, 3).get(timeout=20) == 5
    assert shared_worker.pool == pool
    shared_worker.wait_for_log(r"add\[.*succeeded", timeout=5)


def test_a_shared_worker_outlives_the_test_before(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """The second test of a pool finds the worker of the first, and its own jobs by their ids."""
    result = jobs.add.delay(20, 3)
    assert result.get(timeout=20) == 23
    assert shared_worker.logs().count(" ready.") == 1


def test_a_worker_of_ones_own_runs_a_task_and_stops_warmly(start_worker: StartWorker, jobs_app: Celery) -> None:
    """SIGTERM is the warm shutdown: the process ends by itself with 0."""
    worker = start_worker(concurrency=1)
    assert jobs.add.delay(2, 3).get(timeout=20) == 5
    assert len(worker.children()) == 1
    assert worker.stop() == 0
    assert group_members(worker.pid) == []


def test_a_killed_worker_leaves_no_process(start_worker: StartWorker, jobs_app: Celery) -> None:
    """A crash takes the pool's processes with it, also while they work."""
    worker = start_worker()
    jobs.sleep_for.delay(60)
    worker.wait_for_log(r"sleep_for\[.*\] received")
    assert len(worker.children()) == 2
    worker.kill()
    assert worker.returncode == -signal.SIGKILL
    assert group_members(worker.pid) == []


def test_a_worker_that_cannot_start_says_so_at_once(start_worker: StartWorker) -> None:
    """Waiting for a dead worker's log ends with the reason that stands in it."""
    with pytest.raises(AssertionError, match=r"(?s)ended \(\d+\) without .*no_such_module"):
        start_worker(app="no_such_module:app")


def test_all_pools_are_the_five_of_celery() -> None:
    """Every rule that speaks of a worker holds in each of them."""
    assert ALL_POOLS == ["prefork", "threads", "solo", "gevent", "eventlet"]


def test_celery_setup_runs_a_task(celery_setup: CeleryTestSetup) -> None:
    """pytest-celery's own fixtures work with a Docker engine and without: broker, backend and worker apart."""
    assert len(celery_setup) == 3
    assert celery_setup.ready(control=True, docker=True)
    assert jobs.add.delay(2, 3).get(timeout=20) == 5
    celery_setup.worker.assert_log_exists("succeeded")
    assert celery_setup.broker.container.client.exists("_kombu.binding.celery")


def test_a_worker_of_celery_setup_is_killed_and_comes_back(celery_setup: CeleryTestSetup) -> None:
    """A node's `kill` and `restart` do to a local process what they do to a container."""
    worker = celery_setup.worker
    worker.kill()
    assert worker.container.status == "exited"
    result = jobs.add.delay(2, 3)
    worker.restart()
    assert result.get(timeout=30) == 5


def test_the_redis_of_celery_setup_restarts(celery_setup: CeleryTestSetup) -> None:
    """The worker finds the broker again, at the address that it knows."""
    celery_setup.broker.restart()
    assert celery_setup.broker.container.client.ping()
    assert jobs.add.delay(2, 3).get(timeout=40) == 5


def test_a_worker_of_celery_setup_shows_its_processes(celery_setup: CeleryTestSetup) -> None:
    """`exec_run` runs where the worker runs."""
    processes = celery_setup.worker.get_running_processes_info(["pid", "cmdline"])
    assert any("tests.support.jobs:app" in (process["cmdline"] or []) for process in processes)
