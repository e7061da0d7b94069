"""Fixtures: a Redis of one's own."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING

import pytest

from tests.support.key_leaks import assert_keys_expire
from tests.support.redis_server import RedisNotFoundError, RedisServer, find_binary
from tests.support.redis_topologies import NoTlsError, RedisCluster, RedisSentinel, TlsRedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

TEST_DATABASES = range(1, 100)  # used in turn, so that nothing late of one test reaches the next
SHARED_DATABASES = range(100, 150)  # one per shared worker; the tests' flushes leave them alone


@pytest.fixture(scope="session")
def _redis_binary() -> str:
    try:
        return find_binary()
    except RedisNotFoundError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def redis_server(_redis_binary: str) -> Iterator[RedisServer]:
    """The plain Redis of this test run (one per xdist process)."""
    with RedisServer(f"databases {SHARED_DATABASES.stop}", binary=_redis_binary) as server:
        yield server


@pytest.fixture(scope="session")
def _test_databases() -> Iterator[int]:
    return itertools.cycle(TEST_DATABASES)


@pytest.fixture
def redis_url(redis_server: RedisServer, _test_databases: Iterator[int]) -> Iterator[str]:
    """The URL of an empty database; it is emptied again after the test."""
    db = next(_test_databases)
    with redis_server.client(db) as client:
        client.flushdb()
        yield redis_server.url(db)
        client.flushdb()


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of the test's database, which answers in bytes."""
    from redis import Redis

    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def keys_expire(redis_client: redis.Redis) -> Iterator[None]:
    """Fail the test that leaves a key of the package without a TTL (L3)."""
    yield
    assert_keys_expire(redis_client)


@contextlib.contextmanager
def _emptied(client: redis.Redis) -> Iterator[None]:
    """Around one test: an empty Redis before, mortal keys (L3) after."""
    with client:
        client.flushall()
        yield
        assert_keys_expire(client)


@pytest.fixture(scope="session")
def _tls_server(_redis_binary: str) -> Iterator[TlsRedisServer]:
    server = TlsRedisServer(binary=_redis_binary)
    try:
        server.start()
    except NoTlsError as error:
        pytest.skip(str(error))
    else:
        yield server
    finally:
        server.close()


@pytest.fixture
def tls_redis(_tls_server: TlsRedisServer) -> Iterator[TlsRedisServer]:
    """An empty Redis that speaks TLS only; skips where the binary cannot."""
    with _emptied(_tls_server.client()):
        yield _tls_server


@pytest.fixture(scope="session")
def _cluster(_redis_binary: str) -> Iterator[RedisCluster]:
    with RedisCluster(binary=_redis_binary) as cluster:
        yield cluster


@pytest.fixture
def redis_cluster(_cluster: RedisCluster) -> Iterator[RedisCluster]:
    """An empty Redis Cluster of one node."""
    with _emptied(_cluster.client()):
        yield _cluster


@pytest.fixture(scope="session")
def _sentinel(_redis_binary: str) -> Iterator[RedisSentinel]:
    with RedisSentinel() as sentinel:
        yield sentinel


@pytest.fixture
def redis_sentinel(_sentinel: RedisSentinel) -> Iterator[RedisSentinel]:
    """An empty Redis behind a sentinel. For a failover use `RedisSentinel(replica=True)` of one's own."""
    with _emptied(_sentinel.client()):
        yield _sentinel
