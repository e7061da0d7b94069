"""What others take for what `ctx` does: the same call in the libraries that are installed (`tox run -e bench` brings them)."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import logging
import logging.handlers
import queue
import statistics
import time
from collections.abc import Callable
from typing import Any

from celery import Celery

from benchmarks.harness import Figure, interleaved, missing, ratio
from benchmarks.hot_path import timed_call
from benchmarks.servers import redis_server
from benchmarks.taskiq_peer import set_progress

__all__ = ["heartbeat_peers", "log_peers", "progress_peers"]

REPEATS = 5
_PROGRESS, _HEARTBEAT, _LOG = "ctx.progress(5)", "ctx.heartbeat()", "ctx.log.info('row stored', meta)"


def _figure(row: str, statement: str, name: str, module: str | None, theirs: Callable[[], float]) -> Figure:
    """Measure a call of ours and one of a peer in turn, in seconds; a peer that is not installed says so."""
    if module is not None and importlib.util.find_spec(module) is None:
        return missing(row, f"`{statement}`, against {name}", f"{module} is not installed")
    with timed_call(statement) as ours:
        a, b = interleaved([ours, theirs], REPEATS)
    shown, peer = (f"{statistics.median(found) * 1e6:.2f} us" for found in (a, b))
    return Figure(row, f"`{statement}`, against {name}", shown, peer, ratio(a, b), "")


def _each(call: Callable[[], Any], times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - started) / times


def progress_peers() -> list[Figure]:
    """`tqdm.update`, and on Redis Celery's `update_state`, SAQ's `job.update` and taskiq's `set_progress`."""
    with redis_server() as url:
        app = Celery("peers", broker=url, backend=url)
        meta = {"current": 5, "total": 10}
        return [
            _figure("P1", _PROGRESS, "tqdm's `update(1)`", "tqdm", _tqdm),
            _figure("P1", _PROGRESS, "Celery's `update_state`", None,
                    lambda: _each(lambda: app.backend.store_result("peer", meta, "PROGRESS"), 500)),
            _figure("P1", _PROGRESS, "SAQ's `job.update`", "saq", lambda: asyncio.run(_saq(url))),
            _figure("P1", _PROGRESS, "taskiq's `set_progress`", "taskiq_redis", lambda: asyncio.run(set_progress(url))),
        ]  # fmt: skip


def _tqdm() -> float:
    from tqdm import tqdm

    with tqdm(total=10**9, file=io.StringIO()) as bar:
        return _each(lambda: bar.update(1), 50_000)


async def _saq(url: str) -> float:
    from saq import Queue

    jobs = Queue.from_url(url)
    await jobs.connect()
    job = await jobs.enqueue("peer")
    started = time.perf_counter()
    for number in range(300):
        await job.update(meta={"current": number})
    elapsed = (time.perf_counter() - started) / 300
    await jobs.disconnect()
    return elapsed


def heartbeat_peers() -> list[Figure]:
    """Temporal's `activity.heartbeat` in its own test environment, without a server."""
    return [_figure("P2", _HEARTBEAT, "Temporal's `activity.heartbeat`", "temporalio", lambda: asyncio.run(_temporal()))]


async def _temporal() -> float:
    from temporalio import activity
    from temporalio.testing import ActivityEnvironment

    async def beats() -> float:
        return _each(activity.heartbeat, 20_000)

    found: float = await ActivityEnvironment().run(beats)
    return found


def log_peers() -> list[Figure]:
    """Structlog to memory, and the standard library's logging through a queue, which leaves the I/O to a thread as well."""
    return [
        _figure("P3", _LOG, "structlog, as JSON to memory", "structlog", _structlog),
        _figure("P3", _LOG, "logging and QueueHandler", None, _queued),
    ]


def _structlog() -> float:
    import structlog

    logger = structlog.wrap_logger(
        structlog.PrintLogger(io.StringIO()),
        processors=[structlog.processors.add_log_level, structlog.processors.TimeStamper(), structlog.processors.JSONRenderer()],
    )
    return _each(lambda: logger.info("row stored", source="orders.csv", line=12), 5_000)


def _queued() -> float:
    logger = logging.Logger("peer")  # noqa: LOG001 - one of its own, which nobody else configures
    logger.addHandler(logging.handlers.QueueHandler(queue.SimpleQueue()))
    return _each(lambda: logger.info("row stored", extra={"source": "orders.csv", "line": 12}), 5_000)
