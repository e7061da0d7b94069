"""Tasks for the tests of the test kit. Where no worker runs them, nobody answers at their broker and their Redis."""

# mypy: allow-untyped-decorators, allow-subclassing-any

from __future__ import annotations

import contextlib
import logging
import os
from datetime import datetime, timedelta, timezone
from typing import Any

from celery import Celery, chain, chord, group, shared_task
from celery.exceptions import Ignore, Reject

from taskora_celery import Context, ContextTask, current_context
from taskora_celery.testing import advance

NOWHERE = "redis://127.0.0.1:1/0"

app = Celery(
    "kit", broker=os.environ.get("BROKER_URL", NOWHERE), backend=os.environ.get("RESULT_BACKEND", NOWHERE), task_cls=ContextTask,
    set_as_current=False,
)  # fmt: skip
app.conf.update(result_expires=600, broker_connection_retry_on_startup=True)
task_logger = logging.getLogger("celery.task.kit.tests")


@app.task(shared=False)
def greet(name: str, ctx: Context) -> str:
    """Do a little of everything."""
    ctx.log.info("greeting", name=name)
    ctx.progress(50)
    ctx.heartbeat()
    ctx.checkpoint({"name": name})
    ctx.sleep(3)
    ctx.progress(1, total=1, message="done")
    return f"hello {name}"


@app.task(shared=False, acks_late=True)
def count(to: int, ctx: Context) -> int:
    """Count, one report and one second for each number, from the checkpoint on; each has two reports with its checkpoint."""
    for number in range(ctx.last_checkpoint or 0, to):
        ctx.progress(number + 1)
        ctx.checkpoint(number + 1)
        ctx.sleep(1)
    return to


@app.task(shared=False)
def deaf(to: int, ctx: Context) -> int:
    """Report and look at no signal; each report takes a second of work."""
    for number in range(to):
        ctx.progress(number + 1)
        advance(1)
    return to


@app.task(shared=False, bind=True)
def bound(self: Any, ctx: Context) -> list[Any]:
    """Say what a bound handler sees."""
    return [self.name, self.request.id == ctx.id, self.ctx is ctx, current_context() is ctx, self is bound._get_current_object()]


class Summing(ContextTask):
    """A task as a class."""

    name = "kit.summing"

    def __init__(self) -> None:
        self.start = 100

    def run(self, *numbers: int, ctx: Context) -> int:
        """Return the sum."""
        ctx.progress(len(numbers))
        return self.start + sum(numbers)


summing = app.register_task(Summing())


@shared_task(base=ContextTask)
def shared(ctx: Context) -> str:
    """Belong to every app."""
    ctx.progress(1)
    return ctx.name


@app.task(shared=False, tracked=False)
def untracked(value: Any) -> Any:
    """Be left alone."""
    return value


@app.task(shared=False, ignore_result=True)
def ignoring(ctx: Context) -> int:
    """Have a result that nobody keeps."""
    ctx.progress(7)
    return 7


@app.task(shared=False)
def echo(value: Any, ctx: Context) -> Any:
    """Return what it got."""
    return value


@app.task(shared=False)
def returns_a_set(ctx: Context) -> Any:
    """Return what JSON cannot say."""
    return object()


@app.task(shared=False)
def own_names(ctx: Context, cancel_at: str, store_down: int = 0) -> list[Any]:
    """Have parameters that are called like options of the kit."""
    ctx.progress(1)
    return [cancel_at, store_down]


@app.task(shared=False)
def logs_elsewhere(ctx: Context) -> None:
    """Log through the standard library, too."""
    ctx.log.warning("mine", password="hunter2")
    task_logger.error("theirs")


@app.task(shared=False)
def fails(ctx: Context) -> None:
    """Fail."""
    ctx.progress(10)
    raise LookupError("no such row")


@app.task(shared=False)
def ignores(ctx: Context) -> None:
    """End without an outcome."""
    raise Ignore


@app.task(shared=False, bind=True, acks_late=True)
def rejects_once(self: Any, ctx: Context) -> list[Any]:
    """Give the message back by Celery's own exception; say what the broker would say of the next delivery."""
    if ctx.delivery == 1:
        raise Reject("again", requeue=True)
    return [ctx.delivery, self.request.delivery_info["redelivered"]]


# --- retries -------------------------------------------------------------------------------------------------------------


@app.task(shared=False, max_retries=3)
def retries(delay: float | None, ctx: Context) -> int:
    """Succeed in the third attempt."""
    ctx.progress(ctx.attempt)
    if ctx.attempt < 3:
        raise ctx.retry(delay=delay, reason=f"not yet {ctx.attempt}")
    return ctx.attempt


@app.task(shared=False, max_retries=2, default_retry_delay=40)
def retries_in_vain(ctx: Context) -> None:
    """Use all retries up."""
    raise ctx.retry(reason="the server is away")


@app.task(shared=False, max_retries=5, retry_backoff=3, retry_backoff_max=10, retry_jitter=False)
def backs_off(ctx: Context) -> int:
    """Leave the delays to the task."""
    if ctx.attempt < 5:
        raise ctx.retry()
    return ctx.attempt


@app.task(shared=False, autoretry_for=(OSError,), dont_autoretry_for=(FileNotFoundError,), retry_backoff=2, retry_jitter=False)
def autoretries(error: str, ctx: Context) -> int:
    """Raise in the first two attempts."""
    if ctx.attempt < 3:
        raise {"os": OSError, "file": FileNotFoundError, "value": ValueError}[error]("no")
    return ctx.attempt


@app.task(shared=False, bind=True)
def retries_by_self(self: Any, ctx: Context) -> int:
    """Retry in Celery's way."""
    if ctx.attempt == 1:
        raise self.retry(countdown=12.5, exc=OSError("busy"))
    return ctx.attempt


@app.task(shared=False)
def retries_at(ctx: Context) -> int:
    """Retry at an instant."""
    if ctx.attempt == 1:
        raise ctx.retry(eta=datetime.fromtimestamp(ctx.time(), timezone.utc) + timedelta(minutes=2))
    return ctx.attempt


@app.task(shared=False, max_retries=None)
def retries_for_ever(ctx: Context) -> None:
    """Never end."""
    raise ctx.retry(delay=1)


@app.task(shared=False, acks_late=True, max_retries=3)
def remembers(ctx: Context) -> list[Any]:
    """Leave a checkpoint for the next attempt."""
    if ctx.attempt == 1:
        ctx.checkpoint("half")
        raise ctx.retry(delay=3600)
    return [ctx.last_checkpoint, [record.delay for record in ctx.history], ctx.created_at.timestamp()]


@app.task(shared=False)
def requeues_once(ctx: Context) -> list[int]:
    """Go back into the queue once, from where it was acknowledged early."""
    if ctx.last_checkpoint is None:
        ctx.checkpoint(1)
        raise ctx.requeue("not here")
    return [ctx.attempt, ctx.last_checkpoint]


# --- limits --------------------------------------------------------------------------------------------------------------


@app.task(shared=False, soft_time_limit=60)
def limited(work: float, ctx: Context) -> float | None:
    """Work for so many virtual seconds, within a limit."""
    ctx.progress(1)
    advance(work)
    return ctx.remaining()


@app.task(shared=False, soft_time_limit=60)
def limited_sleeper(ctx: Context) -> None:
    """Sleep beyond the limit."""
    ctx.sleep(3600)


@app.task(shared=False, soft_time_limit=60)
def extends(ctx: Context) -> float | None:
    """Take more time."""
    ctx.extend_deadline(30)
    ctx.sleep(80)
    return ctx.remaining()


@app.task(shared=False, heartbeat_timeout=30)
def silent(ctx: Context) -> None:
    """Show no sign of life for too long."""
    ctx.progress("hanging")
    ctx.sleep(3600)


@app.task(shared=False, heartbeat_timeout=30)
def lively(ctx: Context) -> str:
    """Show life in time."""
    for _ in range(10):
        ctx.heartbeat()
        ctx.sleep(25)
    return "alive"


# --- stopping ------------------------------------------------------------------------------------------------------------

cleaned: list[tuple[str, Any]] = []


def clean_up(ctx: Context, to: int) -> None:
    """Clean up behind a cancel."""
    ctx.log.info("cleaning up")
    cleaned.append((ctx.id, to))


@app.task(shared=False, on_cancel=clean_up, cancel_grace=5)
def stubborn(to: int, ctx: Context) -> int:
    """Work on behind the signal, until interrupted."""
    for number in range(to):
        ctx.progress(number)
        advance(1)
    return to


@app.task(shared=False, cancel_grace=5)
def shielded(ctx: Context) -> None:
    """Finish a block before the interruption."""
    ctx.progress("begun")
    with ctx.shield():
        advance(60)
        ctx.log.info("whole")
    ctx.log.info("never")


@app.task(shared=False)
def waits(timeout: float | None, ctx: Context) -> list[Any]:
    """Wait for the signal."""
    aborted = ctx.signal.wait(timeout)
    return [aborted, ctx.signal.reason, ctx.time() - ctx.timestamp / 1000]


# --- what is sent --------------------------------------------------------------------------------------------------------


@app.task(shared=False)
def other(*args: Any, **kwargs: Any) -> None:
    """Be called by others."""


@app.task(shared=False)
def on_error(job_id: str) -> None:
    """Be an errback that takes the id, and is sent as a job of its own."""


errors: list[Any] = []


@app.task(shared=False)
def on_error_in_place(request: Any, exc: Exception, traceback: Any) -> None:
    """Be an errback that is called in place."""
    errors.append(str(exc))


@app.task(shared=False, bind=True)
def calls_others(self: Any, ctx: Context) -> list[str]:
    """Send in all ways."""
    other.delay(1, key="value")
    other.apply_async((2,), countdown=30, queue="slow")
    other.s(3).set(priority=7).delay()
    group(other.s(4), other.s(5)).delay()
    chain(other.s(6), other.s(7)).delay()
    self.app.send_task("elsewhere.work", (8,))
    chord([other.s(9), other.s(10)])(other.s(11))
    return [task.id for task in self.request.children if hasattr(task, "id")]


@app.task(shared=False, bind=True)
def replaced(self: Any, ctx: Context) -> Any:
    """Hand the job over."""
    ctx.progress("handed over")
    return self.replace(echo.s("by another"))


# --- deliveries and outages ----------------------------------------------------------------------------------------------


signals: list[str | None] = []


@app.task(shared=False, acks_late=True, ignore_result=True)
def looks_at_once(ctx: Context) -> int:
    """Look at the signal behind the first report."""
    ctx.progress("looking")
    signals.append(ctx.signal.reason)
    return ctx.delivery


@app.task(shared=False)
def returns_a_tuple(ctx: Context) -> Any:
    """Return what JSON has no word for, but one like it."""
    return (1, 2)


@app.task(shared=False, acks_late=True)
def deaf_and_late(to: int, ctx: Context) -> int:
    """Report the delivery, and look at no signal."""
    for number in range(to):
        ctx.progress([ctx.delivery, number])
    return ctx.delivery


@app.task(shared=False)
def reports_in_an_outage(to: int, ctx: Context) -> None:
    """Report progress and log."""
    for number in range(to):
        ctx.progress(number)
        ctx.log.info(f"line {number}")


@app.task(shared=False)
def sleepy_count(to: int, ctx: Context) -> None:
    """Report, and sleep for a minute each time."""
    for number in range(to):
        ctx.progress(number)
        ctx.sleep(60)


small = Celery("small", broker=NOWHERE, backend=NOWHERE, task_cls=ContextTask, set_as_current=False)
small.conf.taskora_buffer_limit = 100


@small.task(shared=False)
def small_buffer(to: int, ctx: Context) -> None:
    """Log more than there is room for."""
    for number in range(to):
        ctx.log.info(f"line {number}")


@app.task(shared=False)
def forgets_its_raise(call: str, ctx: Context, catches: bool = False) -> str:
    """Call ``ctx.retry()`` or ``ctx.requeue()`` on a line of its own; or raise what it is, and go on all the same."""
    word = getattr(ctx, call)()
    if catches:
        with contextlib.suppress(type(word)):
            raise word
    return "done"


@app.task(shared=False)
async def forgets_its_raise_too(call: str, ctx: Context) -> str:
    """Do so in a coroutine."""
    getattr(ctx, call)()
    return "done"
