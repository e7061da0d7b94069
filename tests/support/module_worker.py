"""A worker that all tests of one module use, on a database of its own."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.support.redis_fixtures import SHARED_DATABASES
from tests.support.worker import Worker, worker_env

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

    from tests.support.redis_server import RedisServer

#: Those before are the shared workers' of the five pools.
_FIRST = 10


@contextmanager
def module_worker(
    server: RedisServer, tmp_path_factory: pytest.TempPathFactory, number: int, app: str, **options: Any
) -> Iterator[tuple[Worker, str]]:
    """Run a worker of `app`, on the `number`th of the databases for this; yields it and the database's URL."""
    database = SHARED_DATABASES[_FIRST + number]
    with server.client(database) as client:
        client.flushdb()
    url = server.url(database)
    log_dir = tmp_path_factory.mktemp("module-worker")
    with Worker(app, log_dir=log_dir, env=worker_env(url), **options) as worker:
        worker.wait_ready()
        yield worker, url
        worker.stop()
