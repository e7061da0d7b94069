# mypy: allow-untyped-decorators
"""An app that knows nothing of this library: what a worker of it weighs is what Celery weighs."""

from __future__ import annotations

import os

from celery import Celery

URL = os.environ.get("TASKORA_BENCH_REDIS", "redis://localhost:6379/0")

app = Celery("benchmarks.plain_tasks", broker=URL, backend=URL)
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=8, result_expires=600, broker_connection_retry_on_startup=True)


@app.task(name="plain")
def plain(x: int) -> int:
    """Plain Celery."""
    return x
