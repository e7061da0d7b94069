"""Fixtures: a second worker for each pool, with settings that show what defaults hide."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.apps import pointed_at
from tests.support.key_leaks import assert_keys_expire
from tests.support.redis_fixtures import SHARED_DATABASES
from tests.support.reports import watch
from tests.support.worker import ALL_POOLS, Worker, worker_env

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.redis_server import RedisServer

VISIBILITY_TIMEOUT = 2  # seconds
LOG_LIMIT = 50  # entries

#: With these a message that nobody renews is delivered again after two seconds; and all of a job's logging is kept.
TUNED: dict[str, Any] = {
    "broker_transport_options": {
        "visibility_timeout": VISIBILITY_TIMEOUT,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    },
    "taskora_capture_logging": "root",
    "taskora_log_limit": LOG_LIMIT,
    "taskora_redact": "tests.support.reporting_jobs.hide_iban",
}


class TunedWorker(Worker):
    """A worker with the settings `TUNED`, and the database that is its own."""

    redis_url: str
    log_dir: Path

    def twin(self, hostname: str) -> TunedWorker:
        """A worker of another name with the same settings on the same database; not started."""
        worker = TunedWorker(
            pool=self.pool, loglevel="DEBUG", log_dir=self.log_dir, env=_environment(self.redis_url), hostname=hostname
        )
        worker.redis_url, worker.log_dir = self.redis_url, self.log_dir
        return worker


def _environment(url: str) -> dict[str, str]:
    return worker_env(url, {"JOBS_CONF": json.dumps(TUNED)})


@pytest.fixture(scope="session")
def _tuned_worker(pool: str, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TunedWorker]:
    db = SHARED_DATABASES[len(ALL_POOLS) + ALL_POOLS.index(pool)]
    with redis_server.client(db) as client:
        client.flushdb()
    url, log_dir = redis_server.url(db), tmp_path_factory.mktemp(f"tuned-{pool}")
    worker = TunedWorker(pool=pool, loglevel="DEBUG", log_dir=log_dir, env=_environment(url), hostname=f"tuned-{pool}@test")
    worker.redis_url, worker.log_dir = url, log_dir
    with worker:
        worker.wait_ready()
        yield worker


@pytest.fixture
def tuned_worker(request: pytest.FixtureRequest, _tuned_worker: TunedWorker, redis_server: RedisServer) -> Iterator[TunedWorker]:
    """One worker per pool for the whole run with the settings `TUNED`; the test's own app has them, too."""
    from tests.support import jobs

    if not _tuned_worker.running:
        _tuned_worker.restart()
    watch(request.node, _tuned_worker)
    with pointed_at(jobs.app, _tuned_worker.redis_url, **TUNED):
        yield _tuned_worker
    with redis_server.client(int(_tuned_worker.redis_url.rsplit("/", 1)[1])) as client:
        assert_keys_expire(client)
