"""P7: from `cancel()` to the signal in the handler's process, against raw pub/sub between the same processes."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from typing import Any

import redis
from celery import Celery

from benchmarks.harness import Figure
from benchmarks.servers import redis_server, worker
from taskora_celery import JobHandle

__all__ = ["p7"]

REPEATS = 40
#: Seconds in which nothing happens before each measurement, ours and the peer's: a machine that was just busy answers in a third
#: of the time of one that has to wake up, and a cancel comes out of the blue.
IDLE = 0.15


def p7() -> list[Figure]:
    """Cancel waiting jobs one after the other, with a raw message in between each two."""
    ours: dict[bool, list[float]] = {False: [], True: []}
    raw: list[float] = []
    with redis_server() as url, worker(url, "prefork", 1) as _:
        app = Celery("publisher", broker=url, backend=url)
        client = redis.Redis.from_url(url)
        echo = multiprocessing.get_context("spawn").Process(target=_echo, args=(url,), daemon=True)
        echo.start()
        while not client.pubsub_numsub("raw")[0][1]:
            time.sleep(0.05)
        for turn in range(REPEATS + 3):
            for busy, found in ours.items():
                value = _cancelled_after(app, client, busy)
                if turn >= 3:
                    found.append(value)
            value = _heard_after(client)
            if turn >= 3:
                raw.append(value)
        echo.terminate()
    ratios = [a / statistics.median(raw) for a in ours[False]]
    shown = f"{statistics.median(ours[False]) * 1e3:.2f} ms p50, {sorted(ours[False])[-2] * 1e3:.1f} ms p95"
    busy_shown = f"{statistics.median(ours[True]) * 1e3:.2f} ms p50"
    peer = f"pub/sub {statistics.median(raw) * 1e3:.2f} ms p50"
    return [
        Figure("P7", "cancel to signal, waiting handler", shown, peer, ratios, "<= 1.5"),
        Figure("P7", "cancel to signal, CPU-bound handler", busy_shown, "-",
               [value * 1e3 for value in ours[True]], "<= 10", unit="ms"),
    ]  # fmt: skip


def _cancelled_after(app: Any, client: redis.Redis, busy: bool) -> float:
    handle = JobHandle(app.send_task("waits", (busy,)).id, app=app)
    while handle.get_progress() is None:
        time.sleep(0.002)
    time.sleep(IDLE)  # whatever it began with is written, too
    asked = time.perf_counter()
    handle.cancel()
    while (fired := client.get(f"fired:{handle.id}")) is None:
        time.sleep(0.002)
    return float(fired) - asked


def _heard_after(client: redis.Redis) -> float:
    time.sleep(IDLE)
    asked = time.perf_counter()
    client.publish("raw", "x")
    answer: Any = client.blpop(["raw:heard"], timeout=5)
    return float(answer[1]) - asked


def _echo(url: str) -> None:
    """Say when each message of the channel was heard; the clock is one for all processes of a machine."""
    client = redis.Redis.from_url(url)
    pubsub = client.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe("raw")
    while True:
        if pubsub.get_message(timeout=None):
            client.rpush("raw:heard", repr(time.perf_counter()))
