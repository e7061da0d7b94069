"""Many jobs that end in one moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import chaos_jobs, jobs
from tests.support.apps import pointed_at
from tests.support.recorded import recorded
from tests.support.relay import held, queued
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    import redis

    from tests.support.worker_fixtures import StartWorker

APP = "tests.support.chaos_jobs:app"
PLACES = 100
JOBS = 500


@pytest.mark.parametrize("pool", ["threads", "gevent", pytest.param("eventlet", marks=pytest.mark.repeated_pool)])
def test_a_hundred_jobs_that_end_at_once_are_all_acknowledged(
    pool: str, start_worker: StartWorker, redis_url: str, redis_client: redis.Redis
) -> None:
    """Fault 21, D7: kombu has ten connections for all of them, and raises beyond that: a worker without the library stands still.

    Its slots are those of messages that were never acknowledged, and what it receives meanwhile is lost.
    """
    worker = start_worker(APP, pool=pool, concurrency=PLACES, env=jobs.configured(worker_prefetch_multiplier=2))
    with pointed_at(jobs.app, redis_url):
        handles = [chaos_jobs.together.delay() for _ in range(JOBS)]
        assert [handle.get(timeout=60) for handle in handles] == [1] * JOBS
        wait_until(lambda: not held(redis_client) and not queued(redis_client), "the end of all messages", timeout=20)
        assert {recorded(handle).delivery for handle in handles} == {1}
    assert "MaxConnectionsError" not in worker.logs()
