"""A Sentinel promotes a replica while a job runs: broker, result backend and job records move, and the job goes on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from taskora_celery import StoreUnavailableError
from tests.support import gates, jobs, outage_jobs
from tests.support.apps import pointed_at
from tests.support.key_leaks import assert_keys_expire
from tests.support.pools import pools
from tests.support.recorded import recorded
from tests.support.redis_topologies import RedisSentinel
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from tests.support.worker import Worker
    from tests.support.worker_fixtures import StartWorker

APP = "tests.support.outage_jobs:app"
VISIBILITY_TIMEOUT = 2.0  # seconds
#: Seconds that a loaded machine may need until all is as before: the pauses of the library and of kombu.
BACK = 40.0


@pytest.fixture
def pair(_redis_binary: str) -> Iterator[RedisSentinel]:
    """A master, a replica of it, and a Sentinel that watches both."""
    with RedisSentinel(replica=True) as found:
        yield found


def _entries(handle: Any) -> list[int]:
    """The numbers of the entries that can be read just now."""
    try:
        return [entry.meta["n"] for entry in handle.get_logs()]
    except StoreUnavailableError:
        return []


def _replicated(pair: RedisSentinel, handle: Any) -> int:
    """How many entries the replica is known to hold of those that can be read: a WAIT behind them says so."""
    entries = _entries(handle)
    with pair.client() as master:
        assert master.wait(1, 10_000) == 1
    return len(entries)


def _held(master: redis.Redis) -> list[tuple[bytes, float]]:
    return cast("list[tuple[bytes, float]]", master.zrange("unacked_index", 0, -1, withscores=True))


def _supervise(worker: Worker) -> None:
    """Start the worker again where Celery has given it up: kombu may fail over the lost connection of its broker."""
    if not worker.running or "Unrecoverable error" in worker.logs():
        worker.restart()


@pools("prefork")
def test_a_job_goes_on_over_a_failover(
    pool: str, pair: RedisSentinel, start_worker: StartWorker, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 13, D1, L1: it runs on, once; its lease is kept at the new master, and what the replica had acknowledged is there."""
    monkeypatch.setenv("GATE_URL", redis_url)
    settings: dict[str, Any] = {
        "broker_transport_options": {
            **pair.transport_options, "visibility_timeout": VISIBILITY_TIMEOUT, "unacked_restore_interval": 1,
        },
        "result_backend_transport_options": pair.transport_options,
    }  # fmt: skip
    env = {"BROKER_URL": pair.url(), "RESULT_BACKEND": pair.url(), "GATE_URL": redis_url, **jobs.configured(**settings)}
    worker = start_worker(APP, pool=pool, concurrency=2, env=env)
    with pointed_at(jobs.app, pair.url(), **settings):
        running = outage_jobs.talk.delay(0, 0.01)
        gates.wait_at(running.id)
        wait_until(lambda: len(_entries(running)) > 50, "what it says")
        kept = _replicated(pair, running)
        pair.fail_over()
        said = outage_jobs.said(running.id)
        wait_until(lambda: (found := _entries(running)) and found[-1] > said, "new reports at the new master", BACK)
        promoted_at = time.time()
        with pair.master.client() as master:

            def renewed() -> bool:
                held = _held(master)
                assert len(held) <= 1
                return bool(held) and held[0][1] > promoted_at + 1.5 * VISIBILITY_TIMEOUT

            wait_until(renewed, "renewals at the new master, past the visibility timeout", BACK)
            assert gates.counted(running.id, "starts") == 1
            gates.open_gate(running.id)
            count = running.get(timeout=BACK)["count"]
            status = recorded(running, timeout=BACK)
            entries = _entries(running)
            assert entries[:kept] == list(range(kept)), "all that the replica had acknowledged"
            assert entries == sorted(set(entries)), "nothing twice"
            assert entries[-1] == count - 1
            assert running.get_progress() == count - 1
            assert status.dropped_logs == 0, "none was dropped by the worker"
            wait_until(lambda: not _held(master), "the acknowledgement", BACK)
            _supervise(worker)
            assert jobs.add.delay(1, 2).get(timeout=BACK) == 3
            assert gates.counted(running.id, "starts") == 1
            assert [record.outcome for record in running.history()] == ["SUCCESS"]
            assert_keys_expire(master)
