"""P12: the memory of a pool process after many jobs, against plain Celery's."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from benchmarks.harness import Figure
from benchmarks.servers import redis_server, worker

__all__ = ["p12"]

JOBS, EARLY = 10_000, 2_000
#: A pair of workers takes most of a minute.
REPEATS = 5


def p12() -> list[Figure]:
    """Run ten thousand jobs in one process of a pool, plain ones and such as report, each in a worker of its own.

    Plain ones run twice: in a worker of plain Celery, and in one whose parent has imported this library. Resident pages of a
    parent's modules count in its child, too.
    """
    found = [(_resident("plain"), _resident("used"), _resident("plain", "benchmarks.plain_tasks")) for _ in range(REPEATS)]
    plain, ours, bare = (statistics.median(turn[at][1] for turn in found) for at in (0, 1, 2))
    above, above_bare = ([turn[1][1] - turn[at][1] for turn in found] for at in (0, 2))
    grown, grown_plain = ([turn[at][1] - turn[at][0] for turn in found] for at in (1, 0))
    return [
        Figure("P12", f"a process above plain Celery's after {JOBS} jobs", f"{ours:.1f} MB", f"plain {bare:.1f} MB", above_bare,
               "<= 3", unit="MB"),
        Figure("P12", f"a process above one that ran {JOBS} plain jobs, the library imported in both", f"{ours:.1f} MB",
               f"plain {plain:.1f} MB", above, "", unit="MB"),
        Figure("P12", f"growth from job {EARLY} to job {JOBS}", f"{statistics.median(grown):.2f} MB",
               f"plain {statistics.median(grown_plain):.2f} MB", grown, "<= 0.5", unit="MB"),
    ]  # fmt: skip


def _resident(name: str, module: str = "benchmarks.tasks") -> tuple[float, float]:
    """Return the MB of the process after its first jobs, and after all."""
    with redis_server() as url, worker(url, "prefork", 1, app=module) as pid:
        app, client = Celery("publisher", broker=url, backend=url), redis.Redis.from_url(url)
        child = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        found = []
        for jobs in (EARLY, JOBS - EARLY):
            _run(app, client, name, jobs)
            status = Path(f"/proc/{child}/status").read_text()
            found.append(int(status.split("VmRSS:")[1].split()[0]) / 1024)
        return found[0], found[1]


def _run(app: Any, client: Any, name: str, jobs: int) -> None:
    with app.producer_pool.acquire(block=True) as producer:
        for n in range(jobs):
            app.send_task(name, (n,), producer=producer, ignore_result=True)
    while client.llen("celery") or client.hlen("unacked"):
        time.sleep(0.05)
    time.sleep(0.5)
