"""What a job, a report, a process and a worker cost: commands, bytes, connections, memory. ``python -m benchmarks scale``."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from benchmarks.servers import redis_server, worker
from benchmarks.volume import begun, ended, reporting

__all__ = ["measure"]

JOBS = 500
#: Seconds in which nothing runs, over which a worker's own traffic is counted.
QUIET = 30
#: Processes of a pool: two, and so many that what each adds can be told from what the worker has anyway.
POOLS = (2, 8)
PLAIN_APP = "benchmarks.plain_tasks"


_JOBS = {
    "plain": "a job of plain Celery",
    "idle": "a job that says nothing",
    "used": "a job with one progress and one log entry",
}


@dataclass(frozen=True)
class _Traffic:
    """What a Redis has done until now."""

    commands: int
    reads: int
    received: int
    sent: int

    @classmethod
    def of(cls, client: Any) -> _Traffic:
        stats = client.info("stats")
        return cls(
            stats["total_commands_processed"],
            stats["total_reads_processed"],
            stats["total_net_input_bytes"],
            stats["total_net_output_bytes"],
        )

    def since(self, before: _Traffic, times: float) -> tuple[float, float, float, float]:
        return (
            (self.commands - before.commands) / times,
            (self.reads - before.reads) / times,
            (self.received - before.received) / times,
            (self.sent - before.sent) / times,
        )


def measure() -> str:
    """Return a Markdown table of all that is measured."""
    lines = [
        "| what | commands, those in scripts too | reads of its sockets | bytes to Redis | bytes from Redis |",
        "|---|---|---|---|---|",
    ]
    lines += [_line(what, _per_job(name)) for name, what in _JOBS.items()]
    lines.append(_line("a report of a running job, in a flush of its own", _per_report()))
    lines.append(_line("a second of a worker without jobs, plain Celery", _quiet(0)))
    lines.append(_line("a second of a worker without jobs", _quiet(1)))
    return "\n".join([*lines, "", *_kept(), *_resting()]) + "\n"


def _line(what: str, found: tuple[float, float, float, float]) -> str:
    return f"| {what} | {found[0]:.1f} | {found[1]:.1f} | {found[2]:.0f} | {found[3]:.0f} |"


def _per_job(name: str) -> tuple[float, float, float, float]:
    """Count from the call to the acknowledgement; what the worker would ask without jobs in that time is in it, and small."""
    with redis_server() as url, worker(url, "prefork", 2) as _:
        app, client = Celery("publisher", broker=url, backend=url), redis.Redis.from_url(url)
        _run(app, client, name, 50)
        before = _Traffic.of(client)
        polls = _run(app, client, name, JOBS)
        after = _Traffic.of(client)
        commands, reads, received, sent = after.since(before, JOBS)
        return commands - polls / JOBS, reads - polls / JOBS, received, sent


def _run(app: Any, client: Any, name: str, jobs: int) -> int:
    """Run jobs to their end; return how many commands the waiting itself took."""
    with app.producer_pool.acquire(block=True) as producer:
        for n in range(jobs):
            app.send_task(name, (n,), producer=producer)
    polls = 2
    while client.llen("celery") or client.hlen("unacked"):
        polls += 2
        time.sleep(0.05)
    time.sleep(0.5)
    return polls


def _quiet(tracked: int) -> tuple[float, float, float, float]:
    """Count what a worker asks for when nothing runs; ``tracked``: how many jobs of ours it has run before."""
    with redis_server() as url, worker(url, "prefork", 2) as _:
        app, client = Celery("publisher", broker=url, backend=url), redis.Redis.from_url(url)
        _run(app, client, "used" if tracked else "plain", 4)
        time.sleep(2)
        before = _Traffic.of(client)
        time.sleep(QUIET)
        return _Traffic.of(client).since(before, QUIET)


def _per_report() -> tuple[float, float, float, float]:
    with redis_server() as url, reporting(url, 100) as reporter, redis.Redis.from_url(url) as client:
        ctx = begun(reporter, "reports", 100)
        ctx.progress(0)
        reporter.flush(ctx)
        before = _Traffic.of(client)
        for number in range(JOBS):
            ctx.progress(number, total=JOBS, message="rows stored")
            reporter.flush(ctx)
        found = _Traffic.of(client).since(before, JOBS)
        ended(reporter, ctx)
        return found


def _kept() -> list[str]:
    """Return what stays in Redis for each job, as lines."""
    kept: list[str] = []
    with redis_server() as url, worker(url, "prefork", 2) as _:
        app, client = Celery("publisher", broker=url, backend=url), redis.Redis.from_url(url)
        for name in ("idle", "used"):
            before = _weight(client)
            _run(app, client, name, JOBS)
            keys, size = (after - earlier for after, earlier in zip(_weight(client), before, strict=True))
            kept.append(
                f"- kept of a job ({name}): {keys / JOBS:.1f} keys, {size / JOBS:.0f} bytes, its place in the index in it"
            )
    return kept


@dataclass(frozen=True)
class _Worker:
    """What a worker holds after its jobs: connections and the bytes of each in Redis; MB of memory.

    ``parent`` and ``child`` are resident, pages that they share counted in each; ``share`` is all that the worker takes, each
    page counted once, divided by its processes.
    """

    connections: int
    bytes_each: float
    parent: float
    child: float
    share: float


def _resting() -> list[str]:
    """Return what workers hold that have run jobs and rest, of plain Celery and of ours, as lines."""
    lines = []
    for what, module, name in (("plain Celery", PLAIN_APP, "plain"), ("ours", "benchmarks.tasks", "used")):
        few, many = (_worker(module, name, processes) for processes in POOLS)
        each = (many.connections - few.connections) / (POOLS[1] - POOLS[0])
        lines.append(
            f"- a worker, {what}: {few.connections} connections with {POOLS[0]} processes, {many.connections} with {POOLS[1]}, "
            f"so {each:.1f} for each; {many.bytes_each:.0f} bytes of Redis's memory for each connection; "
            f"{many.parent:.1f} MB resident in its parent, {many.child:.1f} MB in each process; with shared pages counted once "
            f"the worker takes {many.share:.1f} MB for each of its processes"
        )
    return lines


def _worker(module: str, name: str, processes: int) -> _Worker:
    with redis_server() as url, worker(url, "prefork", processes, app=module) as pid:
        app, client = Celery("publisher", broker=url, backend=url), redis.Redis.from_url(url)
        _run(app, client, name, JOBS * processes)  # so many that each process has had some
        app.close()
        mine = client.client_id()
        theirs = [entry for entry in client.client_list() if int(entry["id"]) != mine]
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return _Worker(
            len(theirs), statistics.mean(int(entry["tot-mem"]) for entry in theirs),
            _megabytes(pid, "Rss"), statistics.median(_megabytes(int(child), "Rss") for child in children),
            sum(_megabytes(one, "Pss") for one in (pid, *map(int, children))) / processes,
        )  # fmt: skip


def _megabytes(pid: int, kind: str) -> float:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(rollup.split(f"{kind}:")[1].split()[0]) / 1024


def _weight(client: Any) -> tuple[int, int]:
    keys = list(client.scan_iter("taskora:*", count=1_000))
    return len(keys), sum(client.memory_usage(key, samples=0) for key in keys)
