"""taskiq beside us, where the two can be compared: a report of progress, a message at the caller, an empty task."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import redis
from celery import Celery

from benchmarks.harness import Figure, interleaved, missing, ratio
from benchmarks.servers import cpu_seconds, redis_server, worker
from benchmarks.throughput import TASKS, batch
from taskora_celery import ContextTask

__all__ = ["INSTALLED", "set_progress", "taskiq_rows"]

INSTALLED = importlib.util.find_spec("taskiq") is not None and importlib.util.find_spec("taskiq_redis") is not None
REPEATS = 5
_PROCESSES = 2
_KIQ = "caller: `delay()` on Redis, against taskiq's `kiq()`"
_NOTHING = "context idle, against taskiq on streams"
_LOOP = "taskiq runs a process's tasks on one event loop, many at once; prefork gives each task a process for itself"


async def set_progress(url: str) -> float:
    """Return the seconds of one `ProgressTracker.set_progress`, without the dependency that leads to it."""
    from taskiq.depends.progress_tracker import TaskProgress
    from taskiq_redis import RedisAsyncResultBackend

    backend: Any = RedisAsyncResultBackend(url)
    started = time.perf_counter()
    for number in range(300):
        await backend.set_progress("peer", TaskProgress(state="STARTED", meta={"current": number}))
    elapsed = (time.perf_counter() - started) / 300
    await backend.shutdown()
    return elapsed


def taskiq_rows() -> list[Figure]:
    """Measure what a message costs the caller, and what a task that does nothing costs the worker, with a result on Redis."""
    if not INSTALLED:
        return [missing("P6", what, "taskiq-redis is not installed") for what in (_KIQ, f"prefork: tasks/s, {_NOTHING}")]
    return [_sending(), *_working()]


def _sending() -> Figure:
    with redis_server() as url:
        app = Celery("caller", broker=url, backend=url)

        def nothing(x: int) -> int:
            return x

        task: Any = app.task(base=ContextTask, name="nothing", lazy=False)(nothing)

        def delay() -> float:
            started = time.perf_counter()
            for number in range(500):
                task.delay(number)
            return (time.perf_counter() - started) / 500

        ours, theirs = interleaved([delay, lambda: asyncio.run(_kiq(url, 500))], REPEATS)
    shown, peer = (f"{statistics.median(found) * 1e6:.0f} us" for found in (ours, theirs))
    return Figure("P6", _KIQ, shown, peer, ratio(ours, theirs), "", "nearly all of ours is Celery's own: see the row before")


async def _kiq(url: str, messages: int) -> float:
    """Send messages, one after the other; return the seconds that each took."""
    from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

    broker = RedisStreamBroker(url).with_result_backend(RedisAsyncResultBackend(url))

    async def nothing(x: int) -> int:
        return x

    task = broker.register_task(nothing, task_name="nothing")
    await broker.startup()
    started = time.perf_counter()
    for number in range(messages):
        await task.kiq(number)
    elapsed = (time.perf_counter() - started) / messages
    await broker.shutdown()
    return elapsed


def _working() -> list[Figure]:
    """Let two workers with two processes each take turns: ours under prefork, and taskiq's."""
    with redis_server() as url, worker(url, "prefork", _PROCESSES) as ours, _taskiq_worker(url) as theirs:
        app, client = Celery("publisher", broker=url, backend=url), redis.Redis.from_url(url)
        found: list[tuple[tuple[float, float], tuple[float, float]]] = []
        for turn in range(REPEATS + 1):
            pair = batch(app, client, "idle", ours), _taskiq_batch(url, client, theirs)
            if turn:
                found.append(pair)
    figures = []
    for at, (what, scale, unit) in enumerate((("tasks/s", 1, "/s"), ("worker CPU per task", 1e6, " us"))):
        a, b = [pair[0][at] for pair in found], [pair[1][at] for pair in found]
        shown, peer = (f"{statistics.median(values) * scale:.0f}{unit}" for values in (a, b))
        figures.append(Figure("P6", f"prefork: {what}, {_NOTHING}", shown, peer, ratio(a, b), "", _LOOP if at == 0 else ""))
    return figures


def _taskiq_batch(url: str, client: Any, leader: int) -> tuple[float, float]:
    """Queue a batch for a worker that stands still, let it go, and wait until the last one is acknowledged."""
    os.killpg(leader, signal.SIGSTOP)
    try:
        asyncio.run(_kiq(url, TASKS))
        before = cpu_seconds(leader)
    finally:
        os.killpg(leader, signal.SIGCONT)
    started = time.perf_counter()
    newest = client.xinfo_stream("taskiq")["last-generated-id"]
    while any(group["last-delivered-id"] != newest or group["pending"] for group in client.xinfo_groups("taskiq")):
        time.sleep(0.002)
    elapsed = time.perf_counter() - started
    time.sleep(0.3)
    return TASKS / elapsed, (cpu_seconds(leader) - before) / TASKS


@contextlib.contextmanager
def _taskiq_worker(url: str) -> Iterator[int]:
    """Run taskiq's worker; yield its pid, which leads its group, once all its processes are ready."""
    command = [sys.executable, "-m", "taskiq", "worker", "benchmarks.taskiq_tasks:broker", "--workers", str(_PROCESSES)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, "TASKORA_BENCH_REDIS": url},
    )  # fmt: skip
    client = redis.Redis.from_url(url)
    try:
        while int(client.get("ready") or 0) < _PROCESSES:
            if process.poll() is not None:
                raise SystemExit("taskiq's worker did not start")
            time.sleep(0.1)
        yield process.pid
    finally:
        client.close()
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
