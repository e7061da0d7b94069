"""A RabbitMQ for the tests: a private node with its own ports and directories, which leaves neither a process nor a file."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import ManagedProcess
from tests.support.redis_server import HOST, free_port
from tests.support.reports import watch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

START_TIMEOUT = 90.0  # seconds: 5 s alone, many times that on two loaded cores
STOP_TIMEOUT = 20.0  # seconds
NO_BINARY = (
    "no rabbitmq-server: install one (Debian and Ubuntu: `apt-get install rabbitmq-server`; macOS: `brew install rabbitmq`)"
)
#: Debian's command on PATH is a wrapper that changes the user and leaves the process group; this is what it wraps.
_DEBIAN = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


def find_binary() -> str | None:
    """The rabbitmq-server to use; None where there is none."""
    if shutil.which("epmd") is None:  # Erlang's own; some packages keep it off PATH
        return None
    return str(_DEBIAN) if _DEBIAN.exists() else shutil.which("rabbitmq-server")


class RabbitMq:
    """One RabbitMQ node, and the Erlang port mapper that it needs; a context manager.

    `config` holds lines of rabbitmq.conf: ``RabbitMq(binary, "consumer_timeout = 60000")``. Nothing is kept over a restart.
    """

    def __init__(self, binary: str, *config: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="taskora-rabbitmq-"))
        self.port, epmd_port, dist_port = free_port(), free_port(), free_port()
        (self.directory / "rabbitmq.conf").write_text("\n".join([f"listeners.tcp.1 = {HOST}:{self.port}", *config]) + "\n")
        env = {
            "HOME": str(self.directory),  # for Erlang's cookie
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_NODENAME": f"taskora{os.getpid()}@localhost",
            "RABBITMQ_DIST_PORT": str(dist_port),
            "RABBITMQ_BASE": str(self.directory),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "data"),
            "RABBITMQ_LOG_BASE": str(self.directory),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(self.directory / "pid"),
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(self.directory / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            # Lets the script become the node instead of waiting for it: a killed test run would leave the node behind.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput",
        }
        # In the foreground: the node would start one as a daemon, which nobody ends.
        epmd = ["epmd", "-address", HOST, "-port", str(epmd_port)]
        self.port_mapper = ManagedProcess("epmd", epmd, self.directory / "epmd.log", env=env, cwd=self.directory)
        self.node = ManagedProcess("rabbitmq-server", [binary], self.directory / "node.log", env=env, cwd=self.directory)

    def __enter__(self) -> Self:
        try:
            self.port_mapper.start()
            self.node.start()
            self.node.wait_for_log("Server startup complete", START_TIMEOUT)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The ``broker_url``."""
        return f"amqp://guest:guest@{HOST}:{self.port}//"

    def close(self) -> None:
        """End both processes, and remove the directory."""
        try:
            if self.node.running:
                self.node.stop(STOP_TIMEOUT)
        finally:
            self.node.close()
            self.port_mapper.close()
            shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture(scope="session")
def _rabbitmq() -> Iterator[RabbitMq]:
    binary = find_binary()
    if binary is None:
        pytest.skip(NO_BINARY)
    with RabbitMq(binary) as server:
        yield server


@pytest.fixture
def rabbitmq_url(request: pytest.FixtureRequest, _rabbitmq: RabbitMq) -> Iterator[str]:
    """The URL of the RabbitMQ of this test run; the default queue is empty before and gone after the test."""
    from kombu import Connection

    watch(request.node, _rabbitmq.node)
    yield _rabbitmq.url
    with Connection(_rabbitmq.url) as connection:
        connection.default_channel.queue_delete("celery")
