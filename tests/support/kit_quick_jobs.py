"""More tasks for the tests of the test kit, most with short delays: a real worker runs them, too."""

# mypy: allow-untyped-decorators, allow-subclassing-any

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from taskora_celery import Context, ContextTask
from tests.support.kit_jobs import app

__all__ = ["Told", "app", "autoretries_at_once", "remembers_at_once", "retries_in_vain_at_once", "told"]


@app.task(shared=False, max_retries=2, default_retry_delay=0)
def retries_in_vain_at_once(ctx: Context) -> None:
    """Use all retries up."""
    ctx.log.info("trying")
    raise ctx.retry(reason="the server is away")


@app.task(shared=False, autoretry_for=(OSError,), dont_autoretry_for=(FileNotFoundError,), default_retry_delay=0)
def autoretries_at_once(error: str, ctx: Context) -> int:
    """Raise in the first two attempts."""
    if ctx.attempt < 3:
        raise {"os": OSError, "file": FileNotFoundError}[error]("no")
    return ctx.attempt


@app.task(shared=False, acks_late=True)
def remembers_at_once(ctx: Context) -> list[Any]:
    """Leave a checkpoint for the next attempt."""
    if ctx.attempt == 1:
        ctx.checkpoint("half")
        raise ctx.retry(delay=0.1, exc=OSError("busy"))
    return [ctx.last_checkpoint, [record.delay for record in ctx.history], ctx.max_attempts]


class Told(ContextTask):
    """A task that sees how its retries are told of."""

    name = "kit.told"
    delays: list[float | None] = []  # noqa: RUF012 - the test's

    def run(self, ctx: Context) -> None:
        """Be retried after an hour, then at an instant."""
        if ctx.attempt == 1:
            raise ctx.retry(delay=3600)
        if ctx.attempt == 2:
            raise ctx.retry(eta=datetime.fromtimestamp(ctx.time() + 120, timezone.utc))

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Keep the delay that Celery was told of."""
        self.delays.append(exc.delay)


told = app.register_task(Told())
