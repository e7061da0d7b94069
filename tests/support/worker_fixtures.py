"""Fixtures: real workers, started by the test or shared by all tests of a pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from tests.support.apps import pointed_at
from tests.support.key_leaks import assert_keys_expire
from tests.support.redis_fixtures import SHARED_DATABASES
from tests.support.reports import watch
from tests.support.worker import ALL_POOLS, Worker, worker_env

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from celery import Celery

    from tests.support.redis_server import RedisServer


class StartWorker(Protocol):
    """What the `start_worker` fixture is."""

    def __call__(
        self,
        app: str = ...,
        pool: str = ...,
        concurrency: int = ...,
        loglevel: str = ...,
        args: Sequence[str] = ...,
        env: Mapping[str, str] | None = ...,
        queues: str | Sequence[str] | None = ...,
        hostname: str | None = ...,
        wait: bool = ...,
    ) -> Worker:
        """Start a worker; with ``wait`` return only when it consumes."""


@pytest.fixture(scope="session", params=ALL_POOLS)
def pool(request: pytest.FixtureRequest) -> str:
    """Each of the five pools. It has session scope, so that pytest runs the tests pool by pool."""
    return str(request.param)


@pytest.fixture
def start_worker(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Iterator[StartWorker]:
    """A factory of workers on the test's own database; all of them are killed after the test."""
    started: list[Worker] = []

    def start(
        app: str = "tests.support.jobs:app",
        pool: str = "prefork",
        concurrency: int = 2,
        loglevel: str = "INFO",
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        queues: str | Sequence[str] | None = None,
        hostname: str | None = None,
        wait: bool = True,
    ) -> Worker:
        worker = Worker(
            app,
            pool,
            concurrency,
            loglevel,
            log_dir=tmp_path,
            env=worker_env(redis_url, env),
            args=args,
            queues=queues,
            hostname=hostname,
        )
        started.append(worker)
        watch(request.node, worker)
        worker.start()
        if wait:
            worker.wait_ready()
        return worker

    yield start
    for worker in started:
        worker.close()


class SharedWorker(Worker):
    """A worker that many tests use, and the database that is its own."""

    redis_url: str


@pytest.fixture(scope="session")
def shared_worker(pool: str, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedWorker]:
    """One worker per pool for the whole run, with the app `tests.support.jobs:app` on a database of its own.

    A test knows its jobs by their ids, leaves the worker alive and finds the database as earlier tests left it.
    """
    db = SHARED_DATABASES[ALL_POOLS.index(pool)]
    with redis_server.client(db) as client:
        client.flushdb()
    url = redis_server.url(db)
    log_dir = tmp_path_factory.mktemp(f"shared-{pool}")
    worker = SharedWorker(pool=pool, concurrency=4, log_dir=log_dir, env=worker_env(url), hostname=f"shared-{pool}@test")
    worker.redis_url = url
    with worker:
        worker.wait_ready()
        yield worker
        worker.stop()


@pytest.fixture
def _shared_worker_lives(request: pytest.FixtureRequest) -> Iterator[None]:
    """Around each test with the shared worker: keep its log for the report, its keys mortal, and itself alive."""
    if "shared_worker" not in request.fixturenames:
        yield
        return
    worker = request.getfixturevalue("shared_worker")
    if not worker.running:  # an earlier test ended it, and has failed for it
        worker.restart()
    watch(request.node, worker)
    yield
    assert worker.running, f"the test ended the shared {worker!r}; use start_worker for that"
    server = request.getfixturevalue("redis_server")
    with server.client(SHARED_DATABASES[ALL_POOLS.index(worker.pool)]) as client:
        assert_keys_expire(client)


@pytest.fixture
def jobs_app(request: pytest.FixtureRequest) -> Iterator[Celery]:
    """`tests.support.jobs.app`, pointed at the shared worker's database where the test uses that, else at the test's.

    With it ``jobs.add.delay(1, 2)`` in the test reaches the test's worker.
    """
    from tests.support import jobs  # not above: a package that cannot be imported fails these tests alone

    if "shared_worker" in request.fixturenames:
        url = request.getfixturevalue("shared_worker").redis_url
    else:
        url = request.getfixturevalue("redis_url")
    with pointed_at(jobs.app, url) as app:
        yield app
