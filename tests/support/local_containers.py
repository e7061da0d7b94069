"""pytest-celery without Docker: its own container classes over local processes.

pytest-celery's classes talk to a container object of the Docker SDK through few names. `LocalContainer` has these
names over a process, so that pytest-celery's nodes, clusters and `celery_setup` work unchanged; a conftest imports the
fixtures of this module only where no Docker engine answers.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Any

import docker  # type: ignore[import-untyped]
import pytest
from pytest_celery import CeleryTestContainer, RedisContainer

from tests.support.container_jobs import JobsWorkerContainer
from tests.support.processes import ManagedProcess
from tests.support.redis_server import RedisServer
from tests.support.reports import watch
from tests.support.worker import REPO_ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_REDIS_PORT = "6379/tcp"


def docker_answers() -> bool:
    """Whether there is a Docker engine; the client's own settings decide where it is looked for."""
    try:
        with contextlib.closing(docker.from_env(timeout=5)) as client:
            return bool(client.ping())
    except docker.errors.DockerException:
        return False


class LocalContainer:
    """What the Docker SDK calls a container, as far as pytest-celery asks for it, over one process."""

    def __init__(self, name: str, process: ManagedProcess, ports: dict[str, int]) -> None:
        self.name = name
        self.id = uuid.uuid4().hex
        self.process = process
        self.attrs: dict[str, Any] = {
            "Config": {"Hostname": self.id[:12], "Env": []},
            "HostConfig": {"PortBindings": {}},
            "NetworkSettings": {
                "Networks": {},
                "Ports": {port: [{"HostIp": "127.0.0.1", "HostPort": str(local)}] for port, local in ports.items()},
            },
        }

    @property
    def status(self) -> str:
        """In Docker's words."""
        return "running" if self.process.running else "exited"

    def logs(self) -> bytes:
        """The whole log, over restarts too."""
        return self.process.logs().encode()

    def reload(self) -> None:
        """Nothing is cached here."""

    def kill(self, signum: str | int | None = None) -> None:
        """Signal the main process; SIGKILL ends everything in the container, as in Docker."""
        number = signal.Signals[signum] if isinstance(signum, str) else signal.Signals(signum or signal.SIGKILL)
        if number is signal.SIGKILL:
            self.process.kill()
        else:
            self.process.signal(number)

    def restart(self, timeout: float = 10) -> None:
        """SIGTERM, SIGKILL after `timeout` seconds, and a new start."""
        with contextlib.suppress(AssertionError):
            self.process.stop(timeout)
        self.process.close()
        self.process.start()

    def exec_run(self, command: str | list[str], **_options: Any) -> tuple[int, bytes]:
        """Run a command where the process runs."""
        argv = shlex.split(command) if isinstance(command, str) else list(command)
        if argv[0] == "python":
            argv[0] = sys.executable
        done = subprocess.run(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.process.cwd,
            env=self.process.env,
            check=False,
            timeout=60,
        )
        return done.returncode, done.stdout


class _LocalPorts(CeleryTestContainer):  # type: ignore[misc]
    """Ports are asked of the process here, not of a network namespace of its own."""

    def get_open_tcp_ports(self) -> list[str]:
        """The container's ports behind which somebody listens: after a restart the old log says ready too early."""
        return [port.partition("/")[0] for port in self.attrs["NetworkSettings"]["Ports"] if self._listens(port)]

    def _listens(self, port: str) -> bool:
        try:
            socket.create_connection(self.get_addr(port), timeout=1).close()
        except OSError:
            return False
        return True

    def get_addr(self, port: str) -> tuple[str, int]:
        """Also when the tests themselves run inside a container."""
        return "127.0.0.1", self.ports[port][0]


class LocalRedisContainer(_LocalPorts, RedisContainer):  # type: ignore[misc]
    """pytest-celery's Redis over a local process; inside and outside are one network."""

    @property
    def url(self) -> str:
        """What a worker is told: there is no other network from which it would look."""
        return str(self.host_url)

    @property
    def host_url(self) -> str:
        """By address: a name may lead to IPv6 first, where nobody listens."""
        return f"{self.prefix()}127.0.0.1:{self.port}/{self.vhost}"


class LocalWorkerContainer(_LocalPorts, JobsWorkerContainer):
    """pytest-celery's worker over a local process."""


@contextlib.contextmanager
def _local_redis() -> Iterator[LocalRedisContainer]:
    with RedisServer() as server:
        container = LocalRedisContainer(LocalContainer(f"redis-{server.port}", server.process, {_REDIS_PORT: server.port}))
        assert container.ready()
        yield container


@pytest.fixture
def default_redis_broker() -> Iterator[LocalRedisContainer]:
    """A Redis of the test's own, which it may kill and restart."""
    with _local_redis() as container:
        yield container


@pytest.fixture
def default_redis_backend() -> Iterator[LocalRedisContainer]:
    """Another one: as in pytest-celery, results do not live with the broker."""
    with _local_redis() as container:
        yield container


@pytest.fixture
def default_worker_container(
    request: pytest.FixtureRequest,
    default_worker_command: list[str],
    default_worker_env: dict[str, str],
    default_worker_initial_content: dict[str, bytes],
    tmp_path: Path,
) -> Iterator[LocalWorkerContainer]:
    """The worker that pytest-celery describes, with its command, environment and files."""
    content = tmp_path / "app"
    _write_files(content, default_worker_initial_content)
    env = {**default_worker_env, "PYTHONPATH": os.pathsep.join([str(content), str(REPO_ROOT)])}
    process = ManagedProcess("celery_worker", [], tmp_path / "worker.log", env=env, cwd=content)
    container = LocalWorkerContainer(LocalContainer("celery_worker", process, {}))
    # Celery would put the machine's name, but a container's name is its id, and so pytest-celery expects it.
    process.command = [
        sys.executable,
        "-m",
        *(part.replace("%h", container.id[:12]) for part in default_worker_command),
    ]
    watch(request.node, process)
    with process:
        process.wait_for_log(re.escape(container.ready_prompt))
        yield container


def _write_files(directory: Path, content: dict[str, bytes]) -> None:
    for name, source in content.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source)
