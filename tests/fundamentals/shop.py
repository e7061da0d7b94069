"""An ordinary Celery app with one line changed: ``task_cls=ContextTask``."""

# mypy: allow-untyped-decorators
# Celery itself carries no types.

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.utils.log import get_task_logger

from taskora_celery import Context, ContextTask, current_context

REDIS = os.environ.get("BROKER_URL", "redis://localhost:6379/0")

app = Celery("shop", broker=REDIS, backend=REDIS, task_cls=ContextTask)
app.conf.broker_connection_retry_on_startup = True

logger = get_task_logger(__name__)

SOURCES = {
    "orders.csv": ["apples", "pears", "plums"],
    "busy.csv": ["apples", "busy", "plums"],
    "large.csv": [f"order {n}" for n in range(200)],
    "broken.csv": ["apples", "rotten"],
}
_asked: set[tuple[str, str]] = set()


def store(job_id: str, row: str) -> float | None:
    """Store a row; return the seconds to wait where the warehouse has no time. It has for whoever asks again."""
    if row == "rotten":
        raise ValueError("nobody wants that")
    if row == "busy" and (job_id, row) not in _asked:
        _asked.add((job_id, row))
        return 0.1
    return None


@app.task(acks_late=True, max_retries=4, retry_backoff=2, soft_time_limit=600)
def import_rows(data: dict[str, Any], ctx: Context) -> int:
    """Import the rows of a source; the worker fills in the context."""
    ctx.log.info("starting", {"source": data["source"]})
    rows = SOURCES[data["source"]]
    done = ctx.last_checkpoint or 0
    for n, row in enumerate(rows[done:], done + 1):
        if (wait := store(ctx.id, row)) is not None:
            raise ctx.retry(delay=wait, reason="rate limited")
        ctx.checkpoint(n)
        ctx.progress(n, total=len(rows))
        ctx.heartbeat()
    return len(rows)


@app.task
def count_rows(source: str) -> int:
    """Count rows, in a handler as it was before; what lies below it may still talk."""
    rows = SOURCES[source]
    tell(len(rows))
    logger.info("counted %d rows", len(rows))
    return len(rows)


def tell(rows: int) -> None:
    """Report from any depth."""
    current_context().progress({"rows": rows})


@app.task
def wait_for_file(ctx: Context) -> str:
    """Wait until the file has come, or until there is no more reason to wait."""
    ctx.signal.add_listener(lambda signal: ctx.log.warning("stopping", reason=signal.reason))
    ctx.signal.abort("superseded", "the file came by mail")  # otherwise the library does this
    ctx.sleep(3600)
    return "never"
