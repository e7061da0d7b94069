"""Limits, forks and threads in the middle of the library's own lines; and announcements that are not heard."""

from __future__ import annotations

import os
import random
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support import gates, jobs, stopping_jobs
from tests.support.jobs import configured
from tests.support.recorded import recorded
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    import redis
    from celery import Celery

    from tests.support.worker_fixtures import SharedWorker, StartWorker

SEED = int(os.environ.get("TASKORA_TEST_SEED", random.SystemRandom().randrange(1_000_000)))
LIMITS = 200


def test_a_soft_limit_in_any_line_of_the_library_leaves_whole_records(start_worker: StartWorker, jobs_app: Celery) -> None:
    """Fault 20: hundreds of jobs that do nothing but report when Celery's signal comes, at a random instant."""
    worker = start_worker(concurrency=2)
    rng = random.Random(SEED)
    handles = [stopping_jobs.chatter.delay(rng.uniform(0, 0.03)) for _ in range(LIMITS)]
    for handle in handles:
        handle.get(timeout=60, propagate=False)
        status = recorded(handle, "FAILURE")
        where = f"TASKORA_TEST_SEED={SEED}: {handle.id} {status}"
        assert (handle.state, status.error) == ("FAILURE", "SoftTimeLimitExceeded"), where
        logs = [entry for entry in handle.get_logs() if entry.message == "entry"]
        numbers = [entry.meta["number"] for entry in logs if entry.meta]
        first = numbers[0] if numbers else 1
        assert numbers == list(range(first, first + len(numbers))), where
        assert status.logs == status.dropped_logs + len(handle.get_logs()), where
        if status.progress is not None and numbers:
            assert status.progress in {numbers[-1], numbers[-1] + 1}, where
    assert jobs.add.delay(1, 2).get(timeout=20) == 3
    assert worker.stop() == 0


@pytest.mark.parametrize("how", ["fork", "process"])
def test_a_handler_may_fork_after_the_library_was_used(shared_worker: SharedWorker, jobs_app: Celery, how: str) -> None:
    """Fault 20: the parent goes on reporting; what the child says is nobody's."""
    if shared_worker.pool in {"gevent", "eventlet"}:
        pytest.skip("a fork of a process with an event hub is that library's business")
    handle = stopping_jobs.fork_and_go_on.delay(how)
    assert handle.get(timeout=40) == 0
    status = recorded(handle)
    assert status.progress == 100
    messages = [entry.message for entry in handle.get_logs()]
    assert messages == ["before", *["after"] * 50]


def test_threads_and_nested_calls_share_one_whole_record(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """Fault 20: each entry is there, in the order of its thread."""
    handle = stopping_jobs.threads_and_nested.delay()
    assert handle.get(timeout=40) == list(range(20))
    logs = handle.get_logs()
    assert [entry.meta["number"] for entry in logs if entry.message == "nested" and entry.meta] == list(range(20))
    for name in range(4):
        own = [entry.meta["number"] for entry in logs if entry.meta and entry.meta.get("thread") == name]
        assert own == list(range(100))
    assert [entry.seq for entry in logs] == sorted({entry.seq for entry in logs})


@pytest.mark.parametrize("silent", [False, True], ids=["reporting", "silent"])
def test_a_cancel_that_nobody_hears_arrives_all_the_same(
    pool: str, start_worker: StartWorker, redis_client: redis.Redis, jobs_app: Celery, silent: bool
) -> None:
    """G1: with the next report, or the next renewal of the lease; meanwhile every subscription is cut as soon as it is made."""
    options = {"visibility_timeout": 3, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
    start_worker(pool=pool, env=configured(broker_transport_options=options))
    handle = stopping_jobs.talk.delay(silent)
    gates.wait_at(handle.id)
    recorded(handle, "STARTED")
    over, database = threading.Event(), str(redis_client.connection_pool.connection_kwargs["db"])

    def subscribed() -> list[str]:
        """Only those of this test's database: the other workers of the run go on."""
        return [found["id"] for found in redis_client.client_list(_type="pubsub") if found["db"] == database]

    def cut() -> None:
        while not over.wait(0.001):
            for number in subscribed():
                redis_client.client_kill_filter(_id=number)

    thread = threading.Thread(target=cut, daemon=True)
    thread.start()
    try:
        # A cancel that somebody did hear would prove nothing.
        wait_until(lambda: not subscribed(), "silence")
        assert handle.cancel("unheard").outcome == "requested"
        recorded(handle, "REVOKED", timeout=20)
    finally:
        over.set()
        thread.join(10)
    wait_until(lambda: handle.state == "REVOKED", "the state in the result backend")
    assert stopping_jobs.story(handle.id) == ["started"]
