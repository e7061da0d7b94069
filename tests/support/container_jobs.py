"""pytest-celery's worker, told to run our jobs; the same in a container and in a local process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pytest_celery import CeleryBackendCluster, CeleryBrokerCluster, CeleryWorkerContainer

from tests.support import jobs
from tests.support.apps import pointed_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from celery import Celery
    from pytest_celery import RedisTestBackend, RedisTestBroker

APP = "tests.support.jobs:app"
SOURCE_DIR = "/src"  # inside the image: see the Dockerfile beside this file


class JobsWorkerContainer(CeleryWorkerContainer):  # type: ignore[misc]
    """A worker of the app whose tasks the acceptance tests run."""

    @classmethod
    def command(cls, *args: str, **options: Any) -> list[str]:
        """pytest-celery's command with our app."""
        command: list[str] = super().command(*args, **options)
        command[command.index("-A") + 1] = APP
        return [*command, "--without-mingle"]

    @classmethod
    def initial_env(cls, celery_worker_cluster_config: dict[str, Any], initial: Any = None) -> dict[str, str]:
        """Also in the variables that our app reads."""
        env: dict[str, str] = super().initial_env(celery_worker_cluster_config, initial)
        return {
            **env,
            "BROKER_URL": env["CELERY_BROKER_URL"],
            "RESULT_BACKEND": env["CELERY_RESULT_BACKEND"],
            "PYTHONPATH": f"/app:{SOURCE_DIR}",
        }

    @classmethod
    def tasks_modules(cls) -> set[ModuleType]:
        """Only ours."""
        return {jobs}


@pytest.fixture
def default_worker_container_cls() -> type[JobsWorkerContainer]:
    """The class that gives command, environment and files."""
    return JobsWorkerContainer


@pytest.fixture(scope="session")
def default_worker_container_session_cls() -> type[JobsWorkerContainer]:
    """The class that gives what the image is built from."""
    return JobsWorkerContainer


@pytest.fixture
def celery_broker_cluster(celery_redis_broker: RedisTestBroker) -> CeleryBrokerCluster:
    """Redis alone; by default pytest-celery runs each test with every broker that it knows."""
    return CeleryBrokerCluster(celery_redis_broker)


@pytest.fixture
def celery_backend_cluster(celery_redis_backend: RedisTestBackend) -> CeleryBackendCluster:
    """Redis alone, as above."""
    return CeleryBackendCluster(celery_redis_backend)


@pytest.fixture
def celery_setup_app(celery_setup_config: dict[str, str]) -> Iterator[Celery]:
    """The test's side of the app: `tests.support.jobs.app`, pointed at the set-up's Redis."""
    with pointed_at(jobs.app, celery_setup_config["broker_url"], celery_setup_config["result_backend"]) as app:
        yield app
