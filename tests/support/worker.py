"""A real ``celery worker`` process for tests."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.processes import ManagedProcess

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ALL_POOLS = ["prefork", "threads", "solo", "gevent", "eventlet"]
REPO_ROOT = Path(__file__).resolve().parents[2]
READY_TIMEOUT = 60.0  # seconds: 1.5-4 s alone, many times that on two loaded cores
STOP_TIMEOUT = 30.0  # seconds

_numbers = itertools.count(1)


def worker_env(redis_url: str, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment in which a worker finds its Redis and the package under test."""
    path = [str(REPO_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "BROKER_URL": redis_url,
        "RESULT_BACKEND": redis_url,
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
        **(extra or {}),
    }


class Worker(ManagedProcess):
    """``python -m celery -A app worker …`` from the repository's root, in a process group of its own.

    `stop` is the warm shutdown, `kill` the crash. A stopped or killed worker can be started again.
    """

    def __init__(
        self,
        app: str = "tests.support.jobs:app",
        pool: str = "prefork",
        concurrency: int = 2,
        loglevel: str = "INFO",
        *,
        log_dir: Path,
        env: Mapping[str, str],
        args: Sequence[str] = (),
        queues: str | Sequence[str] | None = None,
        hostname: str | None = None,
    ) -> None:
        self.app = app
        self.pool = pool
        self.hostname = hostname or f"{pool}{next(_numbers)}@test"
        command = [sys.executable, "-m", "celery", "-A", app, "worker", "-P", pool, "-c", str(concurrency)]
        command += ["-l", loglevel, "-n", self.hostname]
        if queues:
            command += ["-Q", queues if isinstance(queues, str) else ",".join(queues)]
        # Mingle waits a whole second for neighbours' answers, at every start.
        command += ["--without-mingle", *args]
        log_path = log_dir / f"{self.hostname}.log"
        super().__init__(f"worker {self.hostname}", command, log_path, env=env, cwd=REPO_ROOT)

    def stop(self, timeout: float = STOP_TIMEOUT) -> int:
        """The warm shutdown: SIGTERM, jobs that run are finished. Returns the return code (0 when all went well)."""
        return super().stop(timeout)

    def wait_ready(self, timeout: float = READY_TIMEOUT, *, after: int = 0) -> None:
        """Wait for the line with which a worker says that it consumes."""
        self.wait_for_log(r" ready\.$", timeout, after=after)

    def restart(self) -> None:
        """Start it again after it ended, and wait until it consumes."""
        self.close()
        written = self.log_size()
        self.start()
        self.wait_ready(after=written)
