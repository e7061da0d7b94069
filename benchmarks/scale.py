"""What a job and a process cost Redis: commands, bytes, connections and memory. ``python -m benchmarks scale``."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import redis
from celery import Celery

from benchmarks.servers import redis_server, worker

__all__ = ["measure"]

JOBS = 500
#: Seconds in which nothing runs, over which a worker's own traffic is counted.
QUIET = 30


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
    lines.append(_line("a second of a worker without jobs, plain Celery", _quiet(0)))
    lines.append(_line("a second of a worker without jobs", _quiet(1)))
    keys, connections = _resting()
    return "\n".join([*lines, "", *keys, *connections]) + "\n"


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


def _resting() -> tuple[list[str], list[str]]:
    """Return what stays in Redis for each job, and the connections of a worker with two processes, as lines."""
    kept: list[str] = []
    with redis_server() as url, worker(url, "prefork", 2) as _:
        app, client = Celery("publisher", broker=url, backend=url), redis.Redis.from_url(url)
        _run(app, client, "plain", 50)
        plain_connections = len(client.client_list())
        for name in ("idle", "used"):
            before = _weight(client)
            _run(app, client, name, JOBS)
            keys, size = (after - earlier for after, earlier in zip(_weight(client), before, strict=True))
            kept.append(
                f"- kept of a job ({name}): {keys / JOBS:.1f} keys, {size / JOBS:.0f} bytes, its place in the index in it"
            )
        ours = len(client.client_list())
        return kept, [f"- connections of a worker with 2 processes: {ours}; before its first job of ours {plain_connections}"]


def _weight(client: Any) -> tuple[int, int]:
    keys = list(client.scan_iter("taskora:*", count=1_000))
    return len(keys), sum(client.memory_usage(key, samples=0) for key in keys)
