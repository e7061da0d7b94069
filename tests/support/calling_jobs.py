"""The Celery app of the tests that call tasks in every way there is.

Handlers note what they see in the broker's database, under the id of their job; see `note` and `noted`.
"""

# mypy: allow-untyped-decorators, allow-subclassing-any

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
import time
from typing import TYPE_CHECKING, Any, cast

import redis
from celery import Celery, shared_task
from celery.exceptions import Reject

from taskora_celery import Context, ContextTask, current_context

if TYPE_CHECKING:
    from celery.app.task import Context as Request

_TTL = 600  # seconds

app = Celery(
    "calling",
    broker=os.environ.get("BROKER_URL", "memory://"),
    backend=os.environ.get("RESULT_BACKEND", "cache+memory://"),
    task_cls=ContextTask,
)
app.conf.update(result_expires=600, broker_connection_retry_on_startup=True, task_send_sent_event=False)
app.conf.update(json.loads(os.environ.get("CALLING_CONF", "{}")))


def note(job_id: str, value: Any) -> None:
    """In a handler: leave something for the test."""
    with redis.Redis.from_url(app.conf.broker_url) as client:
        client.rpush(f"noted:{job_id}", json.dumps(value))
        client.expire(f"noted:{job_id}", _TTL)


def noted(job_id: str, timeout: float = 30.0) -> Any:
    """In a test: take the next thing that was left, and wait for it."""
    with redis.Redis.from_url(app.conf.broker_url) as client:
        found = cast("list[bytes] | None", client.blpop([f"noted:{job_id}"], timeout=timeout))
    assert found is not None, f"job {job_id} noted nothing within {timeout:g} s"
    return json.loads(found[1])


def facts(ctx: Context, request: Request) -> dict[str, Any]:
    """What a handler knows of its job."""
    info = request.delivery_info or {}
    return {
        "id": ctx.id,
        "name": ctx.name,
        "attempt": ctx.attempt,
        "max_attempts": ctx.max_attempts,
        "timestamp": ctx.timestamp,
        "remaining": ctx.remaining(),
        "priority": info.get("priority"),
        "queue": info.get("routing_key"),
        "headers": request.headers,
        "history": [record.number for record in ctx.history],
    }


# --- callers -------------------------------------------------------------------------------------------------------------


@app.task
def work(data: Any, ctx: Context) -> list[Any]:
    """Return what it got, and the job it ran in."""
    return [data, ctx.id]


@app.task
def add(x: int, ctx: Context, y: int = 0) -> int:
    """Return the sum; the context stands between the numbers."""
    ctx.log.info("adding", x=x, y=y)
    return x + y


@app.task
def total(numbers: list[int], *, ctx: Context) -> int:
    """Return the sum of a chord."""
    return sum(numbers)


@app.task
def unaware(data: Any) -> list[Any]:
    """Take no context, and find it."""
    return [data, current_context().id]


@shared_task
def shared(data: Any, ctx: Context) -> list[Any]:
    """Belong to every app."""
    return [data, ctx.name]


@app.task
def fail(ctx: Context) -> None:
    """Fail."""
    raise ValueError(f"failed in {ctx.id}")


@app.task
def on_error_by_id(job_id: str, ctx: Context) -> None:
    """Be an errback that takes the id, as a job of its own; the context must not count as a second argument."""
    note(job_id, ["by id", ctx.name])


@app.task
def on_error_in_place(request: Request, exc: Exception, traceback: str, ctx: Context) -> None:
    """Be an errback that Celery calls in place, with the failed request."""
    note(cast("str", request.id), ["in place", str(exc), ctx.name])


@app.task
def threads_and_executions() -> list[Any]:
    """Say which threads run in this process, and how many executions are alive: this one at most.

    A collection that another thread has just begun makes `gc.collect` return at once, with nothing collected: it is asked again.
    """
    from taskora_celery.execution import Execution

    alive = 0
    for _ in range(50):
        gc.collect()
        alive = sum(isinstance(thing, Execution) for thing in gc.get_objects())
        if alive <= 1:
            break
        time.sleep(0.02)
    return [[thread.name for thread in threading.enumerate()], alive]


@app.task(tracked=False)
def untracked(data: Any) -> list[Any]:
    """Be left alone; say which threads run in this process."""
    return [data, current_context(None) is None, [thread.name for thread in threading.enumerate()]]


@app.task
def without_parameter(data: Any) -> list[Any]:
    """Be left alone where only handlers with a context parameter are tracked."""
    return [data, current_context(None) is None, [thread.name for thread in threading.enumerate()]]


# --- identity ------------------------------------------------------------------------------------------------------------


@app.task(bind=True)
def identify(self: Any, ctx: Context) -> dict[str, Any]:
    """Return all that is known."""
    return facts(ctx, self.request)


@app.task(bind=True, soft_time_limit=200, time_limit=300)
def identify_limited(self: Any, ctx: Context) -> dict[str, Any]:
    """Return all that is known, within limits."""
    return facts(ctx, self.request)


@app.task(bind=True)
def report_everywhere(self: Any, ctx: Context) -> list[Any]:
    """Report from threads, and from coroutines on a loop of their own."""

    def beside(number: int) -> None:
        ctx.log.info(f"thread {number}")
        ctx.progress(number)
        ctx.heartbeat()

    threads = [threading.Thread(target=beside, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def coroutine(number: int) -> bool:
        await asyncio.sleep(0)
        current_context().log.info(f"coroutine {number}")
        return current_context() is ctx is self.ctx

    async def gather() -> list[bool]:
        return await asyncio.gather(*[coroutine(number) for number in range(4)])

    found = asyncio.run(gather())
    ctx.progress("all")
    return [found, await_in_thread(ctx)]


def await_in_thread(ctx: Context) -> bool:
    """Use the context on a loop in another thread."""
    found: list[bool] = []

    async def outside() -> None:
        ctx.log.info("loop in a thread")
        found.append(current_context(None) is None)

    thread = threading.Thread(target=lambda: asyncio.run(outside()))
    thread.start()
    thread.join()
    return found[0]


# --- retries -------------------------------------------------------------------------------------------------------------


@app.task(bind=True, max_retries=3)
def retry_once(self: Any, data: Any, ctx: Context) -> Any:
    """Note the facts of both attempts; be retried by `ctx.retry`."""
    note(ctx.id, facts(ctx, self.request))
    if ctx.attempt == 1:
        raise ctx.retry(delay=0, reason="once more")
    return data


@app.task(bind=True, max_retries=3)
def retry_by_self(self: Any, data: Any, ctx: Context) -> Any:
    """Note the facts of both attempts; be retried by `self.retry`."""
    note(ctx.id, facts(ctx, self.request))
    if ctx.attempt == 1:
        raise self.retry(countdown=0)
    return data


@app.task(bind=True, max_retries=3, autoretry_for=(OSError,), default_retry_delay=0)
def retry_by_exception(self: Any, data: Any, ctx: Context) -> Any:
    """Note the facts of both attempts; be retried by Celery."""
    note(ctx.id, facts(ctx, self.request))
    if ctx.attempt == 1:
        raise OSError("no answer")
    return data


@app.task(bind=True)
def retry_unsent(self: Any, ctx: Context) -> str:
    """Ask for a retry, and do not raise it."""
    note(ctx.id, facts(ctx, self.request))
    ctx.retry(delay=0, reason="never raised")
    return "went on"


@app.task(max_retries=1)
def retry_in_vain(ctx: Context) -> None:
    """Use all retries up."""
    try:
        raise OSError("no answer")
    except OSError as error:
        raise ctx.retry(delay=0, reason="the server is away") from error


@app.task(max_retries=1, autoretry_for=(Exception,), retry_kwargs={"max_retries": 2, "countdown": 0})
def retry_to_the_common_end(ctx: Context) -> None:
    """Use all retries up, beside an autoretry for everything with a limit of its own."""
    note(ctx.id, ctx.attempt)
    raise ctx.retry(delay=0, reason="again")


@app.task(autoretry_for=(ValueError,), dont_autoretry_for=(Exception,), max_retries=2)
def retry_though_forbidden(ctx: Context) -> int:
    """Be retried by `ctx.retry` where autoretry would not."""
    if ctx.attempt == 1:
        raise ctx.retry(delay=0)
    return ctx.attempt


@app.task(retry_backoff=0.25, retry_jitter=False, default_retry_delay=500)
def retry_with_backoff(delay: float | None, ctx: Context) -> list[Any]:
    """Leave the delay to the task, or not."""
    if ctx.attempt == 1:
        raise ctx.retry(delay=delay)
    return [record.delay for record in ctx.history]


@app.task
def retry_then_fail(ctx: Context) -> None:
    """Fail in the second attempt."""
    if ctx.attempt == 1:
        raise ctx.retry(delay=0)
    raise ValueError("failed after a retry")


@app.task(bind=True)
def replaced(self: Any, ctx: Context) -> Any:
    """Hand the job over to another task."""
    note(ctx.id, ctx.timestamp)
    return self.replace(identify.si())


@app.task(acks_late=True)
def reject_once(ctx: Context) -> int:
    """Give the message back at once, without a word; report in the next delivery."""
    if ctx.delivery == 1:
        raise Reject("again", requeue=True)
    ctx.progress(50)
    return ctx.delivery
