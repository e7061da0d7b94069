"""Real workers where Redis has another shape: TLS, a Sentinel before it, a key prefix. All works as on a plain one."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest

from taskora_celery import JobCancelledError
from tests.support import fault_jobs, gates, jobs, stopping_jobs
from tests.support.apps import pointed_at
from tests.support.fault_jobs import starts
from tests.support.key_leaks import assert_keys_expire
from tests.support.recorded import ends_in_its_second_delivery, recorded
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from tests.support.redis_topologies import RedisSentinel, TlsRedisServer
    from tests.support.worker import Worker
    from tests.support.worker_fixtures import StartWorker

APP = "tests.support.fault_jobs:app"
VISIBILITY_TIMEOUT = 2.0  # seconds
#: With these a message that nobody renews is back within three seconds.
SWEPT: dict[str, Any] = {
    "visibility_timeout": VISIBILITY_TIMEOUT,
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
}
PREFIX = "shop:tenant_a:"


@dataclass
class Shape:
    """A Redis that is broker, result backend and store at once, in one of its shapes."""

    url: str
    client: redis.Redis
    #: What both transports' options say of it.
    options: dict[str, str] = field(default_factory=dict)
    prefix: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of an app on it, besides its URLs."""
        return {
            "broker_transport_options": {**SWEPT, **self.options},
            "result_backend_transport_options": self.options,
        }

    def worker_env(self, gate_url: str) -> dict[str, str]:
        """The environment of a worker on it."""
        return {"BROKER_URL": self.url, "RESULT_BACKEND": self.url, "GATE_URL": gate_url, **jobs.configured(**self.settings)}

    def renewed(self) -> float:
        """When the only message that is held was renewed, in seconds since the epoch."""
        held = cast("list[tuple[bytes, float]]", self.client.zrange(self.name("unacked_index"), 0, -1, withscores=True))
        assert len(held) == 1, "the message was put back"
        return held[0][1]

    def name(self, key: str) -> str:
        """A key as it is called in Redis."""
        return f"{self.prefix}{key}"

    def claims(self) -> list[bytes]:
        """The deliveries that were claimed. It SCANs: this is a test."""
        return list(self.client.scan_iter(match=self.name("taskora:claim:*")))


@pytest.fixture
def tls(tls_redis: TlsRedisServer) -> Iterator[Shape]:
    """A Redis that speaks TLS only, whose certificate is verified."""
    with tls_redis.client() as client:
        yield Shape(tls_redis.url(), client)


@pytest.fixture
def sentinel(redis_sentinel: RedisSentinel) -> Iterator[Shape]:
    """A Redis whose address is asked of a Sentinel."""
    with redis_sentinel.client() as client:
        yield Shape(redis_sentinel.url(), client, redis_sentinel.transport_options)


@pytest.fixture(scope="module")
def _own_redis(_redis_binary: str) -> Iterator[RedisServer]:
    with RedisServer(binary=_redis_binary) as server:
        yield server


@pytest.fixture
def keyprefix(_own_redis: RedisServer) -> Iterator[Shape]:
    """A Redis that is shared with others: all keys of the app begin with its prefix, and no other key is there afterwards."""
    with _own_redis.client() as client:
        client.flushall()
        yield Shape(_own_redis.url(), client, {"global_keyprefix": PREFIX}, PREFIX)
        assert [key for key in client.scan_iter() if not key.startswith(PREFIX.encode())] == []
        assert_keys_expire(client)


@pytest.fixture(params=["tls", "sentinel", "keyprefix"])
def shape(request: pytest.FixtureRequest, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shape]:
    """Redis in each shape; the test's own app talks to it, and the gates are elsewhere."""
    monkeypatch.setenv("GATE_URL", redis_url)
    found: Shape = request.getfixturevalue(request.param)
    with pointed_at(jobs.app, found.url, **found.settings):
        yield found


def _workers(start_worker: StartWorker, shape: Shape, gate_url: str, count: int) -> list[Worker]:
    """Start so many workers at once, and return them when all consume."""
    env = shape.worker_env(gate_url)
    workers = [start_worker(APP, concurrency=1, env=env, wait=False) for _ in range(count)]
    for worker in workers:
        worker.wait_ready()
    return workers


def test_a_lease_is_kept_while_a_job_runs_and_its_job_is_back_when_its_worker_dies(
    shape: Shape, start_worker: StartWorker, redis_url: str
) -> None:
    """D1, D2, D7, B3, B6, E8: renewed past its visibility timeout; then delivered again and claimed, and nothing is forgotten."""
    workers = {worker.hostname: worker for worker in _workers(start_worker, shape, redis_url, 2)}
    handle = fault_jobs.stand_late.delay()
    wait_until(lambda: starts(handle.id), "the job's start", timeout=20)
    began = shape.renewed()
    wait_until(lambda: shape.renewed() - began > 1.5 * VISIBILITY_TIMEOUT, "renewals past the visibility timeout")
    assert len(starts(handle.id)) == 1
    assert shape.claims() == []
    assert handle.get_progress() == 1
    killed_at = time.time()
    workers.pop(str(handle.record().worker)).kill()
    wait_until(lambda: len(starts(handle.id)) == 2, "the second start")
    assert starts(handle.id)[1]["at"] - killed_at < VISIBILITY_TIMEOUT + 5
    assert len(shape.claims()) == 1
    (survivor,) = workers
    ends_in_its_second_delivery(handle, survivor)
    wait_until(lambda: not shape.client.exists(shape.name("unacked"), shape.name("unacked_index")), "the acknowledgement")


def test_a_cancel_reaches_jobs_that_wait_and_jobs_that_run(shape: Shape, start_worker: StartWorker, redis_url: str) -> None:
    """G2, G3, G6, E4: a waiting job never runs; a running one, which has reported, is told at once."""
    waiting = jobs.add.delay(1, 2)
    assert waiting.cancel("not now").outcome == "cancelled"
    _workers(start_worker, shape, redis_url, 1)
    with pytest.raises(JobCancelledError):
        waiting.get(timeout=20)
    running = stopping_jobs.obey.delay("sleep")
    gates.wait_at(running.id)
    recorded(running, "STARTED")
    receipt = running.cancel("stop it", wait=20)
    assert (receipt.outcome, running.state, running.record().reason) == ("cancelled", "REVOKED", "stop it")
    assert [entry.message for entry in running.get_logs()] == ["runs"]
    assert jobs.add.delay(1, 2).get(timeout=20) == 3
