"""The app of the soak: a steady mix of all that jobs do."""

# mypy: allow-untyped-decorators

from __future__ import annotations

import asyncio
import os
import time

from celery import Celery

from taskora_celery import Context, ContextTask

#: Seconds that records and results stay: so many keys there are at most.
KEPT = 15
KINDS = ("used", "silent", "retried", "failed", "cancelled", "awaited", "early")

app = Celery(
    "soak", broker=os.environ.get("BROKER_URL", "memory://"), backend=os.environ.get("RESULT_BACKEND", "cache+memory://"),
    task_cls=ContextTask,
)  # fmt: skip
app.conf.update(
    result_expires=KEPT, taskora_record_ttl=KEPT, taskora_index_limit=200, task_acks_late=True, worker_prefetch_multiplier=4,
    broker_connection_retry_on_startup=True, broker_transport_options={"visibility_timeout": 30, "unacked_restore_interval": 5},
)  # fmt: skip


@app.task(name="soak.churn", max_retries=3)
def churn(kind: str, ctx: Context) -> int:
    """Do what a kind of job does."""
    if kind == "silent":
        return 0
    for row in range(20):
        ctx.progress(row, total=20, message="rows")
        ctx.log.info("row stored", row=row)
    ctx.checkpoint({"row": 20})
    if kind == "retried" and ctx.attempt == 1:
        raise ctx.retry(delay=0.1, reason="once more", exc=OSError("no answer"))
    if kind == "failed":
        raise ValueError("no such row")
    if kind == "cancelled":
        for _ in range(200):
            ctx.heartbeat()
            ctx.sleep(0.05)
    return ctx.attempt


@app.task(name="soak.early", acks_late=False)
def early(kind: str, ctx: Context) -> str:
    """Be acknowledged before it runs."""
    ctx.progress(time.time())
    return kind


@app.task(name="soak.awaited")
async def awaited(kind: str, ctx: Context) -> str:
    """Be a coroutine."""
    ctx.log.info("waiting")
    await asyncio.sleep(0.01)
    return kind
