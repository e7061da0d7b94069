"""P14: how long after the SIGKILL of its worker a job runs again; P11, P15: what leases and jobs cost in Redis commands."""

from __future__ import annotations

import os
import signal
import statistics
import time
from typing import Any

import redis
from celery import Celery

from benchmarks.harness import Figure
from benchmarks.servers import redis_server, worker
from taskora_celery import JobHandle

__all__ = ["p11", "p14", "p15"]

REPEATS = 5
HEARTBEAT_TIMEOUT = 2.0
JOBS = 200


def p14() -> list[Figure]:
    """Kill the worker in mid-job, with kombu's default visibility timeout of an hour; another one is waiting."""
    with redis_server() as url:
        app = Celery("publisher", broker=url, backend=url)
        with worker(url, "prefork", 1, name="spare"):
            # A queue of its own for each turn: what a consumer that was cancelled had asked for still comes to it.
            ratios = [_recovery(app, url, f"victims{n}") for n in range(REPEATS)]
    ours = f"{statistics.median(ratios) * HEARTBEAT_TIMEOUT:.2f} s"
    what = f"SIGKILL to the second start, in timeouts, heartbeat_timeout={HEARTBEAT_TIMEOUT:g} s"
    return [Figure("P14", what, ours, "visibility timeout 3600 s", ratios, "<= 2")]


def _recovery(app: Any, url: str, queue: str) -> float:
    with worker(url, "prefork", 1, name="victim", queues=queue) as pid:
        # Only the victim consumes this queue at first, so that the spare one has to wait for its end.
        handle = JobHandle(app.send_task("silent", queue=queue).id, app=app)
        while not handle.get_logs():
            time.sleep(0.005)
        assert handle.record().worker == "victim@bench"
        time.sleep(HEARTBEAT_TIMEOUT * 0.7)
        app.control.add_consumer(queue, destination=["spare@bench"], reply=True)
        killed = time.time()
        os.killpg(pid, signal.SIGKILL)
        handle.get(timeout=60)
        app.control.cancel_consumer(queue, destination=["spare@bench"], reply=True)
    began = [float(entry.meta["at"]) for entry in handle.get_logs() if entry.meta and entry.meta["delivery"] == 2]
    return (began[0] - killed) / HEARTBEAT_TIMEOUT


def p11() -> list[Figure]:
    """Count the commands of our scripts that an idle worker sends in five intervals of its keeper."""
    interval, intervals = HEARTBEAT_TIMEOUT / 4, 20  # the shortest heartbeat_timeout of the app's tasks decides
    with redis_server() as url, worker(url, "prefork", 2):
        client = redis.Redis.from_url(url)
        time.sleep(4 * interval)
        before = _scripts(client)
        time.sleep(interval * intervals)
        commands = _scripts(client) - before
    what = "commands of an idle worker in one lease interval (all its processes)"
    return [
        Figure(
            "P11",
            what,
            f"{commands} in {intervals} intervals",
            "1 an interval",
            [commands / intervals],
            "<= 1.25",
            unit="commands",
        )
    ]


def p15() -> list[Figure]:
    """Count the scripts that jobs run in their own path, against what Celery itself sends."""
    figures = []
    for name, args in (("idle", (1,)), ("used", (1,))):
        with redis_server() as url, worker(url, "prefork", 1) as _:
            app = Celery("publisher", broker=url, backend=url)
            client = redis.Redis.from_url(url)
            _run(app, client, name, args)
            before = _scripts(client)
            _run(app, client, name, args)
            # Each acknowledgement is one script, in place of kombu's own round trip.
            scripts = (_scripts(client) - before) / JOBS - 1
            figures.append(
                Figure("P15", f"scripts per job besides the acknowledgement, context {name}", f"{scripts:.2f}", "begin 1, end 1",
                       [scripts], "<= 2.5", unit="scripts")
            )  # fmt: skip
    return figures


def _run(app: Celery, client: redis.Redis, name: str, args: tuple[Any, ...]) -> None:
    for _ in range(JOBS):
        app.send_task(name, args)
    while client.llen("celery") or client.hlen("unacked"):
        time.sleep(0.01)
    time.sleep(0.3)


def _scripts(client: redis.Redis) -> int:
    stats: Any = client.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("evalsha", "eval"))
