"""pytest-celery with Docker: a worker image that holds this package, for where a Docker engine answers."""

from __future__ import annotations

from pytest_celery.defaults import DEFAULT_WORKER_CONTAINER_TIMEOUT, DEFAULT_WORKER_VOLUME
from pytest_docker_tools import build, container, fxtr

from tests.support.container_jobs import JobsWorkerContainer
from tests.support.worker import REPO_ROOT

celery_base_worker_image = build(
    path=str(REPO_ROOT), dockerfile="tests/support/Dockerfile", tag="taskora-celery/test-worker", rm=True
)

default_worker_container = container(
    image="{celery_base_worker_image.id}",
    ports=fxtr("default_worker_ports"),
    environment=fxtr("default_worker_env"),
    network="{default_pytest_celery_network.name}",
    volumes={"{default_worker_volume.name}": DEFAULT_WORKER_VOLUME},
    wrapper_class=JobsWorkerContainer,
    timeout=DEFAULT_WORKER_CONTAINER_TIMEOUT,
    command=fxtr("default_worker_command"),
)
