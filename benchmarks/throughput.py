"""P6: tasks per second and CPU per task, against plain ``celery.Task`` in the same worker and the same run."""

from __future__ import annotations

import statistics
import time
from typing import Any

import redis
from celery import Celery

from benchmarks.harness import Figure, ratio
from benchmarks.servers import cpu_seconds, redis_server, worker

__all__ = ["p6"]

TASKS = 1_500
REPEATS = 7
_BUDGETS = {"idle": (">= 0.95", "<= 1.02"), "used": (">= 0.90", "<= 1.08")}


def p6() -> list[Figure]:
    """Throughput in prefork and threads, and what a call costs the caller."""
    figures = []
    for pool in ("prefork", "threads"):
        figures += _pool(pool)
    return [*figures, *_caller()]


def _pool(pool: str) -> list[Figure]:
    rates: dict[str, list[float]] = {"plain": [], "idle": [], "used": []}
    costs: dict[str, list[float]] = {"plain": [], "idle": [], "used": []}
    with redis_server() as url, worker(url, pool) as pid:
        app = Celery("publisher", broker=url, backend=url)
        client = redis.Redis.from_url(url)
        for turn in range(REPEATS + 1):
            for name in rates:
                rate, cost = _batch(app, client, name, pid)
                if turn:
                    rates[name].append(rate)
                    costs[name].append(cost)
    figures = []
    for name, (rate_budget, cpu_budget) in _BUDGETS.items():
        figures.append(
            Figure("P6", f"{pool}: tasks/s, context {name}", f"{statistics.median(rates[name]):.0f}/s",
                   f"plain {statistics.median(rates['plain']):.0f}/s", ratio(rates[name], rates["plain"]), rate_budget)
        )  # fmt: skip
        figures.append(
            Figure("P6", f"{pool}: worker CPU per task, context {name}", f"{statistics.median(costs[name]) * 1e6:.0f} us",
                   f"plain {statistics.median(costs['plain']) * 1e6:.0f} us", ratio(costs[name], costs["plain"]), cpu_budget)
        )  # fmt: skip
    return figures


def _batch(app: Any, client: Any, name: str, pid: int) -> tuple[float, float]:
    """Queue a batch where nobody consumes, hand it over in one moment, and wait until the last one is acknowledged."""
    with app.producer_pool.acquire(block=True) as producer:
        for n in range(TASKS):
            app.send_task(name, (n,), queue="staging", producer=producer)
    before = cpu_seconds(pid)
    started = time.perf_counter()
    client.rename("staging", "celery")
    while client.llen("celery") or client.hlen("unacked"):
        time.sleep(0.002)
    elapsed = time.perf_counter() - started
    time.sleep(0.3)  # what is written behind the jobs' backs belongs to their cost
    return TASKS / elapsed, (cpu_seconds(pid) - before) / TASKS


def _caller() -> list[Figure]:
    """What ``delay`` costs the caller beyond plain Celery's, on a transport without a network."""
    from celery import Task

    from taskora_celery import ContextTask

    app = Celery("caller", broker="memory://", backend="cache+memory://")
    plain = app.task(base=Task, name="caller.plain")(lambda x: x)
    ours = app.task(base=ContextTask, name="caller.ours")(lambda x: x)
    times: dict[Any, list[float]] = {plain: [], ours: []}
    for turn in range(REPEATS + 1):
        for task, found in times.items():
            started = time.perf_counter()
            for n in range(1_000):
                task.delay(n)
            if turn:
                found.append((time.perf_counter() - started) / 1_000 * 1e6)
    extra = [a - b for a, b in zip(times[ours], times[plain], strict=True)]
    return [
        Figure("P6", "caller: `delay()` (the ratio column is the extra us)", f"{statistics.median(times[ours]):.0f} us",
               f"plain {statistics.median(times[plain]):.0f} us", extra, "<= 8")
    ]  # fmt: skip
