# mypy: allow-untyped-decorators
"""The app of P6: the same handlers on plain Celery's base class and on ours, in one worker."""

from __future__ import annotations

import json
import os
import socket
import time
from urllib.parse import urlsplit

import redis
from celery import Celery, Task

from taskora_celery import Context, ContextTask

URL = os.environ.get("TASKORA_BENCH_REDIS", "redis://localhost:6379/0")

app = Celery("benchmarks.tasks", broker=URL, backend=URL)
# By default the visibility timeout is kombu's own, an hour: recovery by heartbeat_timeout does not depend on it.
app.conf.broker_transport_options = json.loads(os.environ.get("TASKORA_BENCH_OPTIONS", "{}"))
if "TASKORA_BENCH_TRACK" in os.environ:
    app.conf.taskora_track = os.environ["TASKORA_BENCH_TRACK"]
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=8, result_expires=600, broker_connection_retry_on_startup=True)


@app.task(base=Task, name="plain")
def plain(x: int) -> int:
    """Plain Celery."""
    return x


@app.task(base=ContextTask, name="idle")
def idle(x: int) -> int:
    """Tracked, and says nothing."""
    return x


@app.task(base=ContextTask, name="untracked", tracked=False)
def untracked(x: int) -> int:
    """Left alone."""
    return x


#: One for each process of a pool: it is made in the first task of a process.
_bare: list[socket.socket] = []
#: As long as the calls that begin and end a job; the script does nothing.
_TRIP = b"*5\r\n$4\r\nEVAL\r\n$8\r\nreturn 1\r\n$1\r\n0\r\n$200\r\n%b\r\n$200\r\n%b\r\n" % (b"x" * 200, b"x" * 200)


@app.task(base=Task, name="trips")
def trips(x: int) -> int:
    """Plain Celery, with two round trips of a bare socket: what two scripts cost a job at least."""
    if not _bare:
        where = urlsplit(URL)
        _bare.append(socket.create_connection((where.hostname or "localhost", where.port or 6379)))
        _bare[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(2):
        _bare[0].sendall(_TRIP)
        _bare[0].recv(100)
    return x


@app.task(base=ContextTask, name="used")
def used(x: int, ctx: Context) -> int:
    """Tracked, with one progress report and one log entry."""
    ctx.progress(50)
    ctx.log.info("half way", {"x": x})
    return x


@app.task(base=ContextTask, name="speaks")
def speaks(count: int, pause: float, ctx: Context) -> None:
    """Say ``count`` times when it is said: to the log, and half a pause later to whoever listens to a channel."""
    client = redis.Redis.from_url(URL)
    for _ in range(count):
        ctx.log.info("now", at=time.perf_counter())
        time.sleep(pause / 2)
        client.publish("raw", repr(time.perf_counter()))
        time.sleep(pause / 2)


@app.task(base=ContextTask, name="fills")
def fills(count: int, ctx: Context) -> None:
    """Write a long log."""
    for number in range(count):
        ctx.log.info("row stored", {"row": number, "source": "orders.csv"})


@app.task(base=ContextTask, name="silent", heartbeat_timeout=2)
def silent(ctx: Context) -> int:
    """Show life until the worker is killed; the next delivery says when it began."""
    ctx.log.info("began", delivery=ctx.delivery, at=time.time())
    if ctx.delivery == 1:
        while True:
            ctx.heartbeat()
            ctx.sleep(0.05)
    return ctx.delivery


@app.task(base=ContextTask, name="waits")
def waits(busy: bool, ctx: Context) -> float:
    """Wait for the signal, and return when it came; ``busy`` computes meanwhile, in another thread."""
    fired: list[float] = []
    ctx.signal.add_listener(lambda _: fired.append(time.perf_counter()))
    ctx.progress(0)
    while not ctx.signal.aborted:
        if busy:
            sum(range(2_000))
        else:
            ctx.signal.wait(0.5)
    redis.Redis.from_url(URL).set(f"fired:{ctx.id}", repr(fired[0]), ex=60)
    return fired[0]
