"""One worker for all of these tests, started as a user would: ``celery -A tests.fundamentals.shop worker``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.apps import pointed_at
from tests.support.key_leaks import assert_keys_expire
from tests.support.redis_fixtures import SHARED_DATABASES
from tests.support.reports import watch
from tests.support.worker import Worker, worker_env

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.redis_server import RedisServer

DATABASE = SHARED_DATABASES[-1]


@pytest.fixture(scope="session")
def _shop_worker(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    log_dir = tmp_path_factory.mktemp("shop")
    env = worker_env(redis_server.url(DATABASE))
    with Worker("tests.fundamentals.shop:app", "threads", log_dir=log_dir, env=env) as worker:
        worker.wait_ready()
        yield worker


@pytest.fixture(autouse=True)
def worker(request: pytest.FixtureRequest, _shop_worker: Worker, redis_server: RedisServer) -> Iterator[Worker]:
    """The running worker; the test's own app sends to it."""
    from tests.fundamentals import shop

    watch(request.node, _shop_worker)
    with pointed_at(shop.app, redis_server.url(DATABASE)):
        yield _shop_worker
    with redis_server.client(DATABASE) as client:
        assert_keys_expire(client)
