"""The worker of the demo: the stock ``celery worker`` command, as a process of its own."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from example_project.demo.stop import DemoError

if TYPE_CHECKING:
    from example_project.demo.processes import Processes
    from example_project.demo.stop import Stop

__all__ = ["POOLS", "Worker", "environment", "require_pool"]

POOLS = ("prefork", "threads", "solo", "gevent", "eventlet")
#: Seconds that the worker has to become ready, and to finish what runs when it is stopped.
START_TIMEOUT = 60.0
GRACE = 6.0
#: Lines of its log that are shown when it fails.
TAIL = 25

_ROOT = Path(__file__).resolve().parents[2]


def require_pool(pool: str) -> None:
    """Check that what the pool needs is installed.

    :raises DemoError: it is not.
    """
    if pool in {"gevent", "eventlet"} and importlib.util.find_spec(pool) is None:
        raise DemoError(
            f"The {pool} pool needs the package {pool}: pip install {pool}\n"
            f"With tox: tox run -e demo -x testenv:demo.deps={pool} -- --pool {pool}",
            2,
        )


class Worker:
    """A ``celery worker`` that takes the example's jobs from the Redis at ``url``; ``name`` is its Celery node's."""

    def __init__(self, processes: Processes, pool: str, url: str, name: str | None = None) -> None:
        self.name = name
        #: When :meth:`kill` was called, in seconds since the epoch; None before.
        self.killed_at: float | None = None
        concurrency = [] if pool == "solo" else ["-c", "2"]
        named = [] if name is None else ["-n", name]
        self._arguments = ["-A", "example_project", "worker", "-P", pool, *concurrency, "-l", "INFO", *named]
        self._log = processes.directory / f"{name or 'worker'}.log"
        self._process = processes.start(
            [sys.executable, "-m", "celery", *self._arguments],
            self._log,
            GRACE,
            env=environment(url, processes.directory),
            cwd=_ROOT,
        )

    @property
    def command(self) -> str:
        """The command as one would type it."""
        return " ".join(["celery", *self._arguments])

    def wait_ready(self, stop: Stop) -> float:
        """Wait until the worker takes jobs; return the seconds that it took.

        :raises DemoError: it ended, or took too long.
        :raises Interrupted: a signal came meanwhile.
        """
        start = time.monotonic()
        while b" ready." not in self._log.read_bytes():
            self.check()
            if time.monotonic() - start > START_TIMEOUT:
                raise DemoError(f"{self.name or 'The worker'} was not ready after {START_TIMEOUT:g} s. {self.tail()}")
            stop.sleep(0.1)
        return time.monotonic() - start

    def kill(self) -> None:
        """End the worker and all its processes at once, by SIGKILL: none of them can say or do anything more.

        :raises DemoError: it has ended before.
        """
        self.check()
        self.killed_at = time.time()
        os.killpg(self._process.pid, signal.SIGKILL)

    def check(self) -> None:
        """Check that the worker runs, or was killed by us.

        :raises DemoError: it has ended by itself.
        """
        # Who was killed is not asked: while nobody has asked, its number is no other process's.
        if self.killed_at is None and self._process.poll() is not None:
            raise DemoError(f"{self.name or 'The worker'} ended with code {self._process.returncode}. {self.tail()}")

    def tail(self) -> str:
        """Return the last lines of the worker's log."""
        lines = self._log.read_text(errors="replace").splitlines()[-TAIL:]
        return f"The end of the log of {self.name or 'the worker'}:\n" + "\n".join(f"  {line}" for line in lines)


def environment(url: str, directory: Path) -> dict[str, str]:
    """Return this process's environment with our Redis, and no proxy between the job and the server on loopback.

    What a process keeps in temporary files is in ``directory``: one that is killed cannot remove them.
    """
    direct = ",".join(filter(None, (os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "127.0.0.1")))
    return {**os.environ, "REDIS_URL": url, "TMPDIR": str(directory), "no_proxy": direct, "NO_PROXY": direct}
