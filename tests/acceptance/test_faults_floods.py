"""Jobs that say far more than anybody reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import gates, jobs, outage_jobs
from tests.support.apps import pointed_at
from tests.support.pools import pools
from tests.support.recorded import recorded
from tests.support.redis_server import RedisServer

if TYPE_CHECKING:
    import redis

    from tests.support.worker_fixtures import StartWorker

ENTRIES = 100_000
PROGRESS = 1_000_000
#: The defaults of `taskora_log_limit` and `taskora_buffer_limit`.
LIMIT = 10_000
#: Bytes: some kilobytes per waiting entry, as Python objects and packed, and what the allocator keeps.
GROWTH = 64 * 1024 * 1024
#: Bytes in Redis per kept entry of this size, with what Redis adds.
PER_ENTRY = 50
APP = "tests.support.outage_jobs:app"


@pools("prefork")
def test_a_flood_is_bounded_in_the_worker_and_in_redis(
    pool: str, start_worker: StartWorker, redis_url: str, redis_client: redis.Redis
) -> None:
    """Fault 19, F3, E1: a million reports and 100 000 entries in one job: the newest are kept, the rest is counted."""
    start_worker(APP, pool=pool, concurrency=1)
    with pointed_at(jobs.app, redis_url):
        handle = outage_jobs.flood.delay(ENTRIES, PROGRESS)
        gates.wait_at(handle.id)
        gates.open_gate(handle.id)
        result = handle.get(timeout=120)
        assert result["grown"] < GROWTH, result
        assert handle.get_progress() == PROGRESS
        numbers = [entry.meta["n"] for entry in handle.get_logs()]
        assert numbers == list(range(ENTRIES - len(numbers), ENTRIES)), "the newest, without a gap"
        assert len(numbers) == LIMIT
        status = recorded(handle)
        assert (status.logs, status.dropped_logs) == (ENTRIES, ENTRIES - LIMIT)
        held = sum(int(redis_client.memory_usage(key, samples=0) or 0) for key in redis_client.keys(f"taskora:*{handle.id}*"))
        assert held < LIMIT * PER_ENTRY, held


@pools("threads")
def test_a_flood_into_a_store_that_is_away_is_bounded_in_memory(
    pool: str, start_worker: StartWorker, redis_url: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 19, L1: nobody takes what is said; the buffer keeps the newest, and the store learns how many there were."""
    monkeypatch.setenv("GATE_URL", redis_url)
    with RedisServer(binary=redis_server.binary) as store:
        settings = {"taskora_redis_url": store.url()}
        start_worker(APP, pool=pool, concurrency=1, env={"GATE_URL": redis_url, **jobs.configured(**settings)})
        with pointed_at(jobs.app, redis_url, **settings):
            handle = outage_jobs.flood.delay(ENTRIES, ENTRIES)
            gates.wait_at(handle.id)
            store.kill()
            gates.open_gate(handle.id)
            result = handle.get(timeout=120)
            assert result["grown"] < GROWTH, result
            store.start()
            status = recorded(handle, timeout=40)
            entries = handle.get_logs()
            assert entries[-1].meta == {"n": ENTRIES - 1}
            assert len(entries) <= LIMIT
            assert (status.logs, status.dropped_logs) == (ENTRIES, ENTRIES - len(entries))
            assert handle.get_progress() == ENTRIES
