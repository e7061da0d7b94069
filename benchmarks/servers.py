"""A Redis and a worker for the benchmarks, on free ports, stopped by pid."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import redis

__all__ = ["cpu_seconds", "redis_server", "server_version", "worker"]

_TICKS = os.sysconf("SC_CLK_TCK")


def _redis_binary() -> str:
    binary = shutil.which("redis-server")
    if binary is None:
        raise SystemExit("no redis-server on PATH: install one to run the benchmarks")
    return binary


def server_version() -> str:
    """Return the version of the redis-server that the benchmarks run."""
    said = subprocess.run([_redis_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    return said.partition("v=")[2].split()[0]


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """Run a redis-server without persistence; yield its URL."""
    binary = _redis_binary()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [binary, "--port", str(port), "--save", "", "--dir", folder, "--bind", "127.0.0.1"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        client = redis.Redis(port=port)
        try:
            for _ in range(200):
                with contextlib.suppress(redis.RedisError):
                    if client.ping():
                        break
                time.sleep(0.05)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            client.close()
            process.terminate()
            process.wait(10)


@contextlib.contextmanager
def worker(
    url: str,
    pool: str,
    concurrency: int = 2,
    *,
    name: str = "worker",
    queues: str = "celery",
    options: dict[str, float] | None = None,
    track: str | None = None,
    app: str = "benchmarks.tasks",
) -> Iterator[int]:
    """Run ``celery worker`` for the benchmark app; yield its pid, which leads its group, once it is ready.

    ``options`` are the broker's transport options, ``track`` is the setting ``taskora_track``, ``app`` is the module of an app.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "worker.log"
        command = [sys.executable, "-m", "celery", "-A", app, "worker", "-P", pool, "-c", str(concurrency)]
        with log.open("w") as out:
            process = subprocess.Popen(
                [*command, "-l", "INFO", "--without-mingle", "--without-gossip", "-n", f"{name}@bench", "-Q", queues],
                stdout=out, stderr=out, start_new_session=True,
                env={**os.environ, "TASKORA_BENCH_REDIS": url, "TASKORA_BENCH_OPTIONS": json.dumps(options or {}),
                     **({} if track is None else {"TASKORA_BENCH_TRACK": track})},
            )  # fmt: skip
        client = redis.Redis.from_url(url)
        try:
            while " ready." not in log.read_text():
                if process.poll() is not None:
                    raise SystemExit(f"the worker did not start:\n{log.read_text()}")
                time.sleep(0.1)
            yield process.pid
        finally:
            client.close()
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def cpu_seconds(leader: int) -> float:
    """Return the CPU seconds that the processes of a session have used."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) == leader:  # the session
                total += int(fields[11]) + int(fields[12])
    return total / _TICKS
