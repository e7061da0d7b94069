# mypy: allow-untyped-decorators
"""The app of P6: the same handlers on plain Celery's base class and on ours, in one worker."""

from __future__ import annotations

import os

from celery import Celery, Task

from taskora_celery import Context, ContextTask

URL = os.environ.get("TASKORA_BENCH_REDIS", "redis://localhost:6379/0")

app = Celery("benchmarks.tasks", broker=URL, backend=URL)
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=8, result_expires=600, broker_connection_retry_on_startup=True)


@app.task(base=Task, name="plain")
def plain(x: int) -> int:
    """Plain Celery."""
    return x


@app.task(base=ContextTask, name="idle")
def idle(x: int) -> int:
    """Tracked, and says nothing."""
    return x


@app.task(base=ContextTask, name="used")
def used(x: int, ctx: Context) -> int:
    """Tracked, with one progress report and one log entry."""
    ctx.progress(50)
    ctx.log.info("half way", {"x": x})
    return x
