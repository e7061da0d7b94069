"""Fixtures for the tests that run real workers.

Most tests use `start_worker` or `shared_worker`, which are local processes always. Those that use pytest-celery's
fixtures (`celery_setup` and its parts) run in containers where a Docker engine answers, else in local processes.
"""

from __future__ import annotations

import pytest

from tests.support.container_jobs import (  # noqa: F401 - fixtures, which override pytest-celery's by standing here
    celery_backend_cluster,
    celery_broker_cluster,
    celery_setup_app,
    default_worker_container_cls,
    default_worker_container_session_cls,
)
from tests.support.local_containers import docker_answers

if docker_answers():
    from tests.support.docker_containers import celery_base_worker_image, default_worker_container  # noqa: F401
else:
    from tests.support.local_containers import (  # noqa: F401
        default_redis_backend,
        default_redis_broker,
        default_worker_container,
    )


#: Long runs with real workers; in these pools they show again what prefork, threads and gevent have shown.
REPEATED_POOLS = frozenset({"solo", "eventlet"})
#: What all pools are asked in the default run; eventlet's other tests are gevent's, on another hub.
CORE = ("test_context", "test_lease", "test_progress")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the longest tests of the pools that repeat others: the default run leaves them out, `tox -e pools` runs all."""
    for item in items:
        long = item.path.name.startswith(("test_faults_", "test_stopping_"))
        pool = getattr(item, "callspec", None) and item.callspec.params.get("pool")  # type: ignore[attr-defined]
        if (long and pool in REPEATED_POOLS) or (pool == "eventlet" and not item.path.name.startswith(CORE)):
            item.add_marker(pytest.mark.repeated_pool)


@pytest.fixture(autouse=True)
def _keys_expire(keys_expire: None, _shared_worker_lives: None) -> None:
    """L3: no test of this tier may leave a key without a TTL, nor end the worker that others use."""
