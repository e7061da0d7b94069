"""P4, P5, P13: log entries per second, what a record weighs in Redis, and many jobs at once in one process."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import redis

from benchmarks.harness import Figure, interleaved, missing, ratio
from benchmarks.servers import redis_server
from taskora_celery.context import Context, JobInfo
from taskora_celery.records import Outcome
from taskora_celery.redaction import Redactor
from taskora_celery.reporter.reporter import Reporter
from taskora_celery.settings import Settings
from taskora_celery.store.connect import Endpoint
from taskora_celery.store.protocol import Begin, Ended
from taskora_celery.store.redis import RedisStore

__all__ = ["begun", "ended", "p4", "p5", "p13", "reporting"]

ENTRIES, TRIPS = 200_000, 5_000
MESSAGE, META = "row stored", {"source": "orders.csv", "line": 12, "table": "orders", "state": "new"}
#: The budget is about the second; the third is as far as it was hoped to go.
_JOBS = (1_000, 10_000, 50_000)
_SECONDS = 5


@contextmanager
def reporting(url: str, buffer_limit: int = ENTRIES) -> Iterator[Reporter]:
    """Yield a reporter whose thread writes to this Redis, as in a worker's process."""
    store = RedisStore(Endpoint(url))
    reporter = Reporter(store, Settings(buffer_limit=buffer_limit), Redactor())
    try:
        yield reporter
    finally:
        reporter.close()
        store.close()


def begun(reporter: Reporter, job_id: str, buffer_limit: int = ENTRIES) -> Context:
    """Begin a job."""
    ctx = Context(job_id, "bench", buffer_limit=buffer_limit)
    ctx.inform(JobInfo(), 0)
    reporter.begin(ctx, Begin(job_id, "bench", 1, "bench", 0, int(time.time() * 1000)))
    return ctx


def ended(reporter: Reporter, ctx: Context) -> None:
    """End it."""
    reporter.flush(ctx, Ended(Outcome.SUCCESS, int(time.time() * 1000)))
    reporter.release(ctx)
    ctx.retire()


def p4() -> list[Figure]:
    """Log as fast as a loop can until all of it is stored; the same number by redis-benchmark, and one call for each trip."""
    binary = shutil.which("redis-benchmark")
    with redis_server() as url, reporting(url) as reporter, redis.Redis.from_url(url) as client:
        numbers = iter(range(1_000))
        ours, trips, *peers = interleaved(
            [
                lambda: _logged(reporter, f"job-{next(numbers)}"),
                lambda: _one_by_one(client),
                *([lambda: _piped(binary, url)] if binary else []),
            ],
            5,
        )  # fmt: skip
    shown = _rate(ours)
    figures = [Figure("P4", "log entries to Redis, against one call one trip", shown, _rate(trips), ratio(ours, trips), ">= 40")]
    what = "log entries to Redis, against `redis-benchmark -P 500` XADD"
    if not peers:
        return [missing("P4", what, "redis-benchmark is not installed"), *figures]
    return [Figure("P4", what, shown, _rate(peers[0]), ratio(ours, peers[0]), ">= 0.6"), *figures]


def _rate(found: list[float]) -> str:
    return f"{statistics.median(found) / 1000:.0f} k/s"


def _logged(reporter: Reporter, job_id: str) -> float:
    ctx = begun(reporter, job_id)
    started = time.perf_counter()
    for _ in range(ENTRIES):
        ctx.log.info(MESSAGE, META)
    reporter.flush(ctx, Ended(Outcome.SUCCESS, int(time.time() * 1000)))
    elapsed = time.perf_counter() - started
    if ctx.dropped:
        raise SystemExit(f"{ctx.dropped} of {ENTRIES} entries found no room: they were not stored, and count for nothing")
    reporter.release(ctx)
    ctx.retire()
    return ENTRIES / elapsed


def _one_by_one(client: Any) -> float:
    started = time.perf_counter()
    for _ in range(TRIPS):
        client.xadd("trips", {"l": "info", "m": MESSAGE, "x": "orders.csv 12 orders new"}, maxlen=10_000)
    return TRIPS / (time.perf_counter() - started)


def _piped(binary: str, url: str) -> float:
    command = [binary, "-p", str(urlsplit(url).port), "-n", str(ENTRIES), "-P", "500", "-c", "1", "--csv"]
    command += ["XADD", "piped", "MAXLEN", "~", "10000", "*", "l", "info", "m", MESSAGE, "x", "orders.csv 12 orders new"]
    line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    return float(line.split('","')[1].strip('"'))


def p5() -> list[Figure]:
    """Add up what the keys of a job take, and what each further entry of 75 bytes adds."""
    with redis_server() as url, reporting(url) as reporter, redis.Redis.from_url(url) as client:
        few = _weight(reporter, client, "few", 5, burst=5)
        many = [_weight(reporter, client, f"many-{burst}", 1_005, burst=burst) for burst in (1, 10, 100)]
    figures = [Figure("P5", "a job with 5 entries, all its keys", f"{few} B", "-", [few / 1000], "<= 1.5", unit="KB")]
    for burst, weight in zip((1, 10, 100), many, strict=True):
        entry = (weight - few) / 1_000
        what = f"a further entry of 75 bytes, {burst} in a flush"
        figures.append(Figure("P5", what, f"{entry:.0f} B", "-", [entry], "<= 80" if burst > 1 else "", unit="B"))
    return figures


def _weight(reporter: Reporter, client: Any, job_id: str, entries: int, burst: int) -> int:
    """Write entries that differ, so many in each flush; return the bytes of all keys of the job."""
    ctx = begun(reporter, job_id)
    for number in range(entries):
        message = f"row {number:06} stored in the table of orders"
        ctx.log.info(message, {"source": "orders.csv", "line": number})
        if number % burst == burst - 1:
            reporter.flush(ctx)
    ctx.progress(entries, total=entries)
    ended(reporter, ctx)
    keys = list(client.scan_iter(f"*{{{job_id}}}*"))
    return sum(client.memory_usage(key, samples=0) for key in keys)


def p13() -> list[Figure]:
    """Let all jobs of a process report once a second, and count its CPU and what Redis reads: a thousand, ten, and fifty."""
    found: dict[int, list[tuple[float, float, float]]] = {jobs: [] for jobs in _JOBS}
    for _ in range(5):
        for jobs, crowds in found.items():
            with redis_server() as url:
                crowds.append(_crowd(url, jobs))
    few, many, most = ([cpu / jobs for cpu, _, _ in found[jobs]] for jobs in _JOBS)
    rows = [_crowd_text(jobs, *(statistics.median(values) for values in zip(*found[jobs], strict=True))) for jobs in _JOBS]
    return [
        Figure("P13", "CPU per job, ten thousand against a thousand", rows[1], rows[0], ratio(many, few), "<= 1.2"),
        Figure("P13", "CPU per job, fifty thousand against a thousand", rows[2], rows[0], ratio(most, few), ""),
    ]


def _crowd_text(jobs: int, cpu: float, lag: float, reads: float) -> str:
    return f"{jobs} jobs: {cpu:.2f} s CPU and {reads:.0f} reads of Redis a second, the last {lag * 1e3:.0f} ms late"


def _crowd(url: str, jobs: int) -> tuple[float, float, float]:
    """Return the CPU seconds of each second, how late the last report was stored, and what Redis reads each second."""
    with reporting(url, 100) as reporter, redis.Redis.from_url(url) as client:
        crowd = [begun(reporter, f"crowd-{jobs}-{number}", 100) for number in range(jobs)]
        time.sleep(1.0)  # what they began with is written
        reads = client.info("stats")["total_reads_processed"]
        cpu, started = time.process_time(), time.perf_counter()
        for second in range(_SECONDS):
            for number, ctx in enumerate(crowd):
                ctx.progress(second)
                if number % 100 == 99:  # they report spread over the second
                    due = started + second + (number + 1) / jobs
                    time.sleep(max(due - time.perf_counter(), 0.0))
        used, elapsed = time.process_time() - cpu, time.perf_counter() - started
        done = time.perf_counter()
        reporter.flush(crowd[-1])
        while any(ctx.dirty for ctx in crowd):
            time.sleep(0.001)
        lag = time.perf_counter() - done
        read = client.info("stats")["total_reads_processed"] - reads
        for ctx in crowd:
            ended(reporter, ctx)
        return used / elapsed, lag, read / elapsed
