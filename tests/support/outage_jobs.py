"""More tasks of the app in `tests.support.jobs`: those that talk while their store is away, slow or full.

What they tell the test goes through the gates' Redis (``GATE_URL``), which is never the one that a test breaks.
"""

# mypy: allow-untyped-decorators, disallow-any-decorated=False
# Celery itself carries no types.

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from taskora_celery import Context
from tests.support import gates
from tests.support.jobs import app

__all__ = ["app"]

_TTL = 600  # seconds


def said(job_id: str) -> int:
    """In a test: how many log entries the handler has written so far."""
    with gates.gate_client() as client:
        return int(client.get(f"said:{job_id}") or 0)


class _Talk:
    """Numbers what is said, and times each call."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self.count = 0
        self.slowest = 0.0

    def say(self, entries: int) -> None:
        """Write so many entries, each with its number, and report each as progress."""
        for _ in range(entries):
            started = time.perf_counter()
            self._ctx.log.info("entry", n=self.count)
            self._ctx.progress(self.count)
            self.slowest = max(self.slowest, time.perf_counter() - started)
            self.count += 1


@app.task(name="outages.talk", acks_late=True)
def talk(burst: int, pause: float, ctx: Context) -> dict[str, Any]:
    """Say something every ``pause`` seconds until the gate is opened, and ``burst`` entries at once behind the gate "burst".

    Returns how many entries were written, the slowest of all pairs of calls, and the whole time, in seconds.
    """
    gates.count(ctx.id, "starts")
    began = time.perf_counter()
    talking = _Talk(ctx)
    talking.say(1)
    gates.arrive(ctx.id)
    with gates.gate_client() as client:
        while not gates.is_open(client, ctx.id):
            if burst and gates.is_open(client, ctx.id, "burst"):
                talking.say(burst)
                burst = 0
            talking.say(1)
            client.set(f"said:{ctx.id}", talking.count, ex=_TTL)
            time.sleep(pause)
    return {"count": talking.count, "slowest": talking.slowest, "took": time.perf_counter() - began}


@app.task(name="outages.count", acks_late=True)
def count(ctx: Context) -> int:
    """Say one thing, and be over; return how often this job was started."""
    ctx.log.info("entry", n=0)
    return gates.count(ctx.id, "starts")


def _peak() -> int:
    """The most memory that this process has held so far, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024


@app.task(name="outages.flood", acks_late=True)
def flood(entries: int, progress: int, ctx: Context) -> dict[str, float]:
    """Write so many log entries, and report progress so often, as fast as can be; return the growth in bytes, and the seconds."""
    logging.getLogger(flood.taskora_logger.name).setLevel(logging.WARNING)  # a hundred thousand lines in a console tell nothing
    ctx.log.info("entry", n=0)
    ctx.progress(0)
    gates.stop_at(ctx.id)
    before, began, each = _peak(), time.perf_counter(), progress // entries
    for n in range(1, entries):
        ctx.log.info("entry", n=n)
        for step in range(each):
            ctx.progress(n * each + step)
    ctx.progress(progress)
    return {"grown": _peak() - before, "took": time.perf_counter() - began}
