"""How the cost grows with the work: curves, as plots for `docs/performance.md`. ``python -m benchmarks growth``."""

from __future__ import annotations

import gc
import multiprocessing
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from benchmarks.servers import redis_server
from benchmarks.volume import begun, ended, reporting
from taskora_celery import JobHandle
from taskora_celery.reading import logs_of
from taskora_celery.store.connect import Endpoint
from taskora_celery.store.redis import RedisStore

__all__ = ["Curve", "curves", "draw", "table"]

#: Each point is measured so often; the plot has the median, and bars from the least to the greatest.
REPEATS = 5
IMAGES = Path(__file__).parents[1] / "docs" / "images"


@dataclass(frozen=True)
class Curve:
    """What is measured, over how many of what, by the size of each point."""

    name: str
    counted: str
    measured: str
    points: dict[int, list[float]]


def curves() -> list[Curve]:
    """Measure all curves, on one Redis."""
    plans: list[tuple[str, str, str, Callable[[str, int], float], tuple[int, ...]]] = [
        ("entries-write", "log entries of a job", "us per entry, written", _written, (1, 10, 100, 1_000, 10_000, 100_000)),
        ("entries-read", "log entries of a job", "us per entry, read", _read, (1, 10, 100, 1_000, 10_000)),
        ("jobs", "jobs at once in a process", "us of CPU per report", _crowd, (1, 10, 100, 1_000, 10_000)),
        ("processes", "processes", "us of Redis's CPU per report", _processes, (1, 2, 4, 8, 16)),
        ("followers", "followers of a log in a process", "us of CPU per entry and follower", _followers, (1, 10, 100)),
    ]
    with redis_server() as url:
        return [Curve(name, counted, measured, _points(measure, url, sizes)) for name, counted, measured, measure, sizes in plans]


def _points(measure: Callable[[str, int], float], url: str, sizes: Sequence[int]) -> dict[int, list[float]]:
    found = {}
    for size in sizes:
        print(f"  {size} …", file=sys.stderr, flush=True)
        found[size] = [measure(url, size) for _ in range(REPEATS)]
    return found


_numbers = iter(range(10**9))


def _written(url: str, entries: int) -> float:
    with reporting(url) as reporter:
        ctx = begun(reporter, f"written-{next(_numbers)}")
        time.sleep(0.05)
        started = time.perf_counter()
        for line in range(entries):
            ctx.log.info("row stored", {"source": "orders.csv", "line": line})
        reporter.flush(ctx)
        elapsed = time.perf_counter() - started
        ended(reporter, ctx)
    return elapsed / entries * 1e6


def _read(url: str, entries: int) -> float:
    job_id = f"read-{next(_numbers)}"
    with reporting(url) as reporter:
        ctx = begun(reporter, job_id)
        for line in range(entries):
            ctx.log.info("row stored", {"source": "orders.csv", "line": line})
        ended(reporter, ctx)
    store = RedisStore(Endpoint(url))
    gc.collect()
    started = time.perf_counter()
    for _ in range(10):
        logs_of(store.read(job_id, 0), 100_000, level=None, attempt=None, after=None, limit=None)
    elapsed = time.perf_counter() - started
    store.close()
    return elapsed / 10 / entries * 1e6


def _crowd(url: str, jobs: int) -> float:
    with reporting(url, 100) as reporter:
        crowd = [begun(reporter, f"crowd-{next(_numbers)}", 100) for _ in range(jobs)]
        rounds = max(3, 300 // jobs)
        time.sleep(0.3)
        cpu = time.process_time()
        for number in range(rounds):
            for ctx in crowd:
                ctx.progress(number)
            reporter.flush(crowd[-1])
            while any(ctx.dirty for ctx in crowd):
                time.sleep(0.05)  # half a flush interval: to look each millisecond costs ten jobs more than their reports do
        used = time.process_time() - cpu
        for ctx in crowd:
            ended(reporter, ctx)
    return used / rounds / jobs * 1e6


def _reports(url: str, reports: int, go: Any, name: str) -> None:
    """Report, each time in a flush of its own, once all processes are there."""
    with reporting(url, 100) as reporter:
        ctx = begun(reporter, name, 100)
        go.wait()
        for number in range(reports):
            ctx.progress(number)
            reporter.flush(ctx)
        ended(reporter, ctx)


def _processes(url: str, processes: int) -> float:
    reports, context = 200, multiprocessing.get_context("spawn")
    go = context.Barrier(processes + 1)
    crew = [context.Process(target=_reports, args=(url, reports, go, f"process-{next(_numbers)}")) for _ in range(processes)]
    for process in crew:
        process.start()
    with redis.Redis.from_url(url) as client:
        go.wait()
        before = client.info("cpu")
        for process in crew:
            process.join()
        after = client.info("cpu")
    spent = sum(float(after[kind]) - float(before[kind]) for kind in ("used_cpu_user", "used_cpu_sys"))
    return spent / processes / reports * 1e6


def _followers(url: str, followers: int) -> float:
    """Follow by handles, each in a thread; the entries come one after the other, from a process of their own."""
    entries, job_id = 200, f"followed-{next(_numbers)}"
    app = Celery("followers", broker=url, backend=url)
    context = multiprocessing.get_context("spawn")
    go = context.Barrier(2)
    speaker = context.Process(target=_speak, args=(url, entries, go, job_id))
    speaker.start()
    go.wait()
    cpu = time.process_time()
    threads = [threading.Thread(target=_follow, args=(JobHandle(job_id, app=app),)) for _ in range(followers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used = time.process_time() - cpu
    speaker.join()
    return used / followers / entries * 1e6


def _speak(url: str, entries: int, go: Any, job_id: str) -> None:
    with reporting(url, 10_000) as reporter:
        ctx = begun(reporter, job_id, 10_000)
        go.wait()
        time.sleep(0.3)
        for line in range(entries):
            ctx.log.info("row stored", {"source": "orders.csv", "line": line})
            time.sleep(0.005)
        ended(reporter, ctx)


def _follow(handle: JobHandle) -> None:
    for _ in handle.follow_logs(timeout=30):
        pass


def draw(found: Sequence[Curve], folder: Path = IMAGES) -> None:
    """Draw each curve into a file, on logarithmic axes.

    :raises ImportError: matplotlib is not installed (`tox run -e bench` brings it).
    """
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "growth"  # the same figures make the same file
    from matplotlib import pyplot as plt

    folder.mkdir(exist_ok=True)
    for curve in found:
        medians = [statistics.median(values) for values in curve.points.values()]
        least = [median - min(values) for median, values in zip(medians, curve.points.values(), strict=True)]
        most = [max(values) - median for median, values in zip(medians, curve.points.values(), strict=True)]
        figure, axes = plt.subplots(figsize=(5, 3))
        axes.errorbar(list(curve.points), medians, yerr=[least, most], marker="o", capsize=3)
        axes.set(xscale="log", yscale="log", xlabel=curve.counted, ylabel=curve.measured)
        axes.grid(visible=True, alpha=0.3)
        figure.tight_layout()
        figure.savefig(folder / f"growth-{curve.name}.svg", metadata={"Date": None})
        plt.close(figure)


def table(found: Sequence[Curve]) -> str:
    """Return the curves as a Markdown table: the median of each point."""
    lines = ["| what | by how many | medians |", "|---|---|---|"]
    for curve in found:
        costs = ", ".join(f"{size:,}: {statistics.median(values):.3g}" for size, values in curve.points.items())
        lines.append(f"| {curve.measured} | {curve.counted} | {costs} |")
    return "\n".join(lines) + "\n"
