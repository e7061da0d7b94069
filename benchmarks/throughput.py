"""P6: tasks per second and CPU per task, against plain ``celery.Task`` in the same worker and the same run."""

from __future__ import annotations

import statistics
import time
from typing import Any

import redis
from celery import Celery, Task

from benchmarks.harness import Figure, interleaved, ratio
from benchmarks.servers import cpu_seconds, redis_server, worker
from taskora_celery import ContextTask

__all__ = ["TASKS", "batch", "p6"]

TASKS = 1_000
REPEATS = 5
#: What is run against plain tasks, with the budgets of its rate and of its CPU; the last two only inform.
_BUDGETS = {
    "idle": ("context idle", ">= 0.95", "<= 1.02"),
    "used": ("context used", ">= 0.90", "<= 1.08"),
    "untracked": ("`tracked=False`", "", ""),
    "trips": ("plain, and two round trips of a bare socket", "", ""),
}
_BY_SETTING = {"idle": ('`taskora_track = "context"`, without a context', "", "")}


def p6() -> list[Figure]:
    """Throughput in prefork and threads, and what a call costs the caller."""
    figures = _pool("prefork", _BUDGETS)
    figures += _pool("prefork", _BY_SETTING, track="context")
    figures += _pool("threads", {name: _BUDGETS[name] for name in ("idle", "used")})
    return [*figures, *_caller()]


def _pool(pool: str, kinds: dict[str, tuple[str, str, str]], track: str | None = None) -> list[Figure]:
    rates: dict[str, list[float]] = {name: [] for name in ("plain", *kinds)}
    costs: dict[str, list[float]] = {name: [] for name in rates}
    with redis_server() as url, worker(url, pool, track=track) as pid:
        app = Celery("publisher", broker=url, backend=url)
        client = redis.Redis.from_url(url)
        for turn in range(REPEATS + 1):
            for name, found in rates.items():
                rate, cost = batch(app, client, name, pid)
                if turn:
                    found.append(rate)
                    costs[name].append(cost)
    figures = []
    for name, (what, rate_budget, cpu_budget) in kinds.items():
        figures.append(
            Figure("P6", f"{pool}: tasks/s, {what}", f"{statistics.median(rates[name]):.0f}/s",
                   f"plain {statistics.median(rates['plain']):.0f}/s", ratio(rates[name], rates["plain"]), rate_budget)
        )  # fmt: skip
        figures.append(
            Figure("P6", f"{pool}: worker CPU per task, {what}", f"{statistics.median(costs[name]) * 1e6:.0f} us",
                   f"plain {statistics.median(costs['plain']) * 1e6:.0f} us", ratio(costs[name], costs["plain"]), cpu_budget)
        )  # fmt: skip
    return figures


def batch(app: Any, client: Any, name: str, pid: int) -> tuple[float, float]:
    """Queue a batch where nobody consumes, hand it over in one moment, and wait until the last one is acknowledged.

    Return the tasks in a second, and the CPU of the worker's processes for each, in seconds.
    """
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


def _echo(x: int) -> int:
    """Do nothing: only the caller's side is measured."""
    return x


def _caller() -> list[Figure]:
    """Measure what ``delay`` costs the caller beyond plain Celery's, on a transport without a network."""
    app = Celery("caller", broker="memory://", backend="cache+memory://")
    plain = app.task(base=Task, name="caller.plain", lazy=False)(_echo)
    ours = app.task(base=ContextTask, name="caller.ours", lazy=False)(_echo)

    def sample(task: Any) -> float:
        started = time.perf_counter()
        for n in range(1_000):
            task.delay(n)
        return (time.perf_counter() - started) * 1e3

    a, b = interleaved([lambda: sample(ours), lambda: sample(plain)], REPEATS)
    extra = [x - y for x, y in zip(a, b, strict=True)]
    what = "caller: `delay()`, the difference"
    return [
        Figure("P6", what, f"{statistics.median(a):.0f} us", f"plain {statistics.median(b):.0f} us", extra, "<= 8", unit="us")
    ]
