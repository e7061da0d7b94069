"""Everything at once, for a while: 200 jobs, cancels, kills, blips of Redis; and nothing is left behind."""

from __future__ import annotations

import os
import random
import threading
from typing import TYPE_CHECKING, Any

import pytest

from taskora_celery.worker.leftovers import BRPOP_TIMEOUT
from tests.support import chaos_jobs, jobs
from tests.support.apps import pointed_at
from tests.support.chaos import PERIOD, Chaos
from tests.support.key_leaks import assert_keys_expire
from tests.support.redis_server import RedisServer
from tests.support.relay import SWEPT, held, queued
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    import redis

    from tests.support.worker_fixtures import StartWorker

#: Set it to see again what was seen once.
SEED = int(os.environ.get("TASKORA_TEST_SEED", random.SystemRandom().randrange(1_000_000)))
#: Jobs that each of the two workers runs at once.
CONCURRENCY = {"threads": 100, "gevent": 100, "prefork": 8}
#: Sockets of one process to the store besides those of its readers: its writer and its listener.
OWN = 2
#: Threads of one process besides those of its pool: the main one, those of the library, and what runs for a moment.
THREADS = 10
APP = "tests.support.chaos_jobs:app"


@pytest.mark.parametrize(
    ("pool", "seconds"),
    [
        pytest.param("threads", PERIOD, id="threads-sample"),
        pytest.param("gevent", PERIOD, id="gevent-sample", marks=pytest.mark.chaos),
        pytest.param("prefork", PERIOD, id="prefork-sample", marks=pytest.mark.chaos),
        pytest.param("threads", 60.0, id="threads-minute", marks=pytest.mark.chaos),
        pytest.param("gevent", 60.0, id="gevent-minute", marks=pytest.mark.chaos),
    ],
)
@pytest.mark.timeout(300)
def test_every_job_ends_once_whatever_happens(
    pool: str, seconds: float, start_worker: StartWorker, redis_url: str, redis_client: redis.Redis, redis_server: RedisServer
) -> None:
    """Fault 21, L3: one outcome each, as its receipt says; no entry twice; no thread, connection, message or key is left."""
    with RedisServer("appendonly yes", binary=redis_server.binary) as store, TcpProxy(store.port) as proxy:
        settings: dict[str, Any] = {
            "broker_transport_options": SWEPT["broker_transport_options"],
            "taskora_redis_url": proxy.url(),
            "worker_prefetch_multiplier": 1,
        }
        options: dict[str, Any] = {"pool": pool, "concurrency": CONCURRENCY[pool], "env": jobs.configured(**settings)}
        start_worker(APP, **options, loglevel="INFO")
        doomed = [start_worker(APP, **options)]

        def kill() -> None:
            # kombu takes a message off its list before it puts it down as unacknowledged: one that a worker is just receiving
            # when it is killed is gone, with this library or without. So it receives none for a moment, and holds what it has.
            jobs.app.control.cancel_consumer("celery", destination=[doomed[-1].hostname], reply=True, timeout=5)
            threading.Event().wait(1.2 * BRPOP_TIMEOUT)
            doomed[-1].kill()
            doomed.append(start_worker(APP, **options, wait=False))

        with pointed_at(jobs.app, redis_url, **{**settings, "taskora_redis_url": store.url()}):
            faults = Chaos(SEED, store, proxy, kill).run(redis_url, seconds)
            assert not faults, f"TASKORA_TEST_SEED={SEED}: {len(faults)} faults\n" + "\n".join(faults[:20])
            wait_until(lambda: not held(redis_client) and not queued(redis_client), "the end of all messages", 30)
            if pool != "prefork":
                _nothing_is_left(proxy.port, CONCURRENCY[pool])
            with store.client() as client:
                assert_keys_expire(client)


def _nothing_is_left(port: int, concurrency: int) -> None:
    """Both workers have each thread once at most, and no socket that nobody uses.

    A reader's connection is kept for the next one, so there are as many as jobs have read at once.
    """
    found: dict[int, dict[str, Any]] = {}

    def both() -> bool:
        for left in [chaos_jobs.left.delay(port) for _ in range(8)]:
            found.update({left.get(timeout=30)["pid"]: left.get()})
        return len(found) == 2

    wait_until(both, "an answer of both workers", 60)
    for left in found.values():
        shown = f"TASKORA_TEST_SEED={SEED}: {left}"
        assert left["readers"] <= concurrency, shown
        assert left["sockets"] <= OWN + left["readers"], shown
        assert set(left["threads"].values()) <= {1}, shown
        assert len(left["threads"]) <= concurrency + THREADS, shown
