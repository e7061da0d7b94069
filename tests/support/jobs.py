"""The Celery app whose tasks the acceptance tests run, in the worker and in the test process alike.

Its configuration is changed by ``JOBS_CONF`` in the environment, a JSON object; see `configured`. Handlers that must be seen
at a certain point stop at a gate (`tests.support.gates`) until the test lets them go on. The tasks that report are in
`tests.support.reporting_jobs`.
"""

# mypy: allow-untyped-decorators, allow-subclassing-any
# Celery itself carries no types.

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from typing import Any

import msgspec
from celery import Celery

from taskora_celery import Context, ContextTask, JobAbortedError, current_context
from tests.support import gates

app = Celery(
    "jobs",
    broker=os.environ.get("BROKER_URL", "memory://"),
    backend=os.environ.get("RESULT_BACKEND", "cache+memory://"),
    task_cls=ContextTask,
    include=["tests.support.async_jobs", "tests.support.reporting_jobs", "tests.support.stopping_jobs"],
)
# The shortest interval, so that the tests need not wait for the result backend.
app.conf.update(result_expires=600, taskora_backend_interval=0.1, broker_connection_retry_on_startup=True)
app.conf.update(json.loads(os.environ.get("JOBS_CONF", "{}")))


def configured(**settings: Any) -> dict[str, str]:
    """The environment that gives a worker of this app these settings."""
    return {"JOBS_CONF": json.dumps(settings)}


def facts(ctx: Context) -> dict[str, Any]:
    """All that a context knows, as JSON."""
    return {
        "id": ctx.id,
        "name": ctx.name,
        "attempt": ctx.attempt,
        "max_attempts": ctx.max_attempts,
        "delivery": ctx.delivery,
        "fence": ctx.fence,
        "timestamp": ctx.timestamp,
        "created": ctx.created_at.timestamp(),
        "deadline": None if ctx.deadline is None else ctx.deadline.timestamp(),
        "remaining": ctx.remaining(),
        "history": [msgspec.to_builtins(record) for record in ctx.history],
        "checkpoint": ctx.last_checkpoint,
    }


# --- nothing special ---------------------------------------------------------------------------------------------------


@app.task
def add(x: float, y: float) -> float:
    """Return the sum."""
    return x + y


@app.task
def sleep_for(seconds: float) -> float:
    """Keep a worker busy."""
    time.sleep(seconds)
    return seconds


@app.task
def hold_the_interpreter(ctx: Context) -> int:
    """Stop at a gate, then run C code that holds the GIL for minutes."""
    gates.stop_at(ctx.id)
    return sum(range(20_000_000_000))


# --- the context and its forms -----------------------------------------------------------------------------------------


@app.task(soft_time_limit=300)
def identify(data: Any, ctx: Context) -> dict[str, Any]:
    """The usual form: the context is the second argument."""
    return {"data": data, "same": _deeper(3) is ctx, **facts(ctx)}


@app.task
def annotated(job: Context | None, data: Any) -> list[Any]:
    """The annotation decides, not the name; and any position does."""
    return [data, job.id if job else None]


@app.task
def keyword_only(data: Any, *, ctx: Any) -> list[Any]:
    """The name decides where nothing is annotated."""
    return [data, ctx.id]


@app.task(bind=True)
def bound(self: Any, data: Any, ctx: Context) -> list[Any]:
    """After ``self``, which has the context too."""
    return [data, ctx.id if self.ctx is ctx else None]


@app.task
def unaware(data: Any) -> list[Any]:
    """A handler that takes no context; something far below it asks for one."""
    return [data, _deeper(5).id]


@app.task(tracked=False)
def untracked(data: Any) -> list[Any]:
    """A task that is left wholly alone."""
    return [data, current_context(None)]


@app.task
def nested(data: Any, ctx: Context) -> list[Any]:
    """Calls another task directly, which shares this job."""
    inner = identify({"inner": data})
    return [inner["data"], inner["id"], ctx.id]


class Counting(ContextTask):
    """A user's own base class: it has its own ``__call__`` and hooks, and calls no ``super()`` in them."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Count the call."""
        gates.count(self.request.id, "call")
        return self.run(*args, **kwargs)

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Count the start."""
        gates.count(task_id, "before_start")

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Count the success."""
        gates.count(task_id, "on_success")

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Count the end."""
        gates.count(task_id, "after_return")


class ClassTask(Counting):
    """A task that is a class."""

    name = "jobs.class_task"

    def run(self, data: Any, ctx: Context) -> list[Any]:
        """Take the context as a function does."""
        return [data, ctx.id]


class_task = app.register_task(ClassTask())


def _deeper(depth: int) -> Context:
    return current_context() if not depth else _deeper(depth - 1)


@app.task
def share_context(threads: int, ctx: Context) -> dict[str, Any]:
    """Hand the context to threads, and to coroutines on an event loop."""

    def report(number: int) -> None:
        for n in range(25):
            ctx.log.info(f"thread {number} entry {n}")
            ctx.progress(n)
            ctx.heartbeat()

    workers = [threading.Thread(target=report, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    async def coroutine(number: int) -> str:
        await asyncio.sleep(0)
        ctx.log.info(f"coroutine {number}")
        return current_context().id

    async def gather() -> list[str]:
        return await asyncio.gather(*[coroutine(number) for number in range(5)])

    ids = asyncio.run(gather())
    ctx.progress({"done": True})
    return {"ids": ids}


# --- the signal --------------------------------------------------------------------------------------------------------


@app.task
def abort_in_thread(ctx: Context) -> dict[str, Any]:
    """Sleep for a long time; another thread waits at a gate and then fires the signal."""
    heard: list[Any] = []
    signal = ctx.signal
    before = [signal.aborted, signal.reason, signal.message, signal.is_set(), signal.wait(0)]
    signal.add_listener(lambda fired: heard.append(["first", fired.reason]))
    signal.add_listener(lambda _: heard.append(1 // 0))
    signal.add_listener(lambda fired: heard.append(["third", fired.message]))

    def fire() -> None:
        gates.stop_at(ctx.id)
        signal.abort("timeout", "wrong file")

    thread = threading.Thread(target=fire)
    thread.start()
    try:
        ctx.sleep(600)
    except JobAbortedError as exc:
        woken = [exc.reason, exc.message]
    thread.join()
    again = signal.abort("shutdown", "too late")
    signal.add_listener(lambda _: heard.append("late"))

    async def wait_for_abort() -> bool:
        await asyncio.wait_for(signal.wait_async(), 30)
        return True

    return {
        "before": before,
        "woken": woken,
        "again": again,
        "after": [signal.aborted, signal.reason, signal.message, signal.is_set(), signal.wait(600)],
        "heard": heard,
        "awaited": asyncio.run(wait_for_abort()),
    }


# --- heartbeat and lease -----------------------------------------------------------------------------------------------


@app.task(acks_late=True)
def beat_until_open(beating: bool, ctx: Context) -> int:
    """Count the start, then run until the gate is opened, with a heartbeat in a tight loop or none."""
    starts = gates.count(ctx.id, "starts")
    with gates.gate_client() as client:
        while not gates.is_open(client, ctx.id):
            for _ in range(1000 if beating else 0):
                ctx.heartbeat()
            time.sleep(0.005)
    return starts


@app.task(acks_late=False)
def beat_without_lease(ctx: Context) -> None:
    """Beat, report, and go on beating until the gate is opened."""
    ctx.heartbeat()
    with gates.gate_client() as client:
        while not gates.is_open(client, ctx.id):
            ctx.heartbeat()
            time.sleep(0.005)


@app.task(acks_late=True)
def save_and_stop(ctx: Context) -> dict[str, Any]:
    """Keep a checkpoint, then stop at a gate, in each delivery."""
    found = facts(ctx)
    ctx.log.info("delivered", delivery=ctx.delivery)
    ctx.progress(ctx.delivery * 10)
    ctx.checkpoint({"row": ctx.delivery * 100})
    gates.stop_at(ctx.id)
    return found


# --- retry -------------------------------------------------------------------------------------------------------------


@app.task(max_retries=5)
def retry_with(delays: list[float], ctx: Context) -> dict[str, Any]:
    """Retry once for each delay; return the facts of the last attempt."""
    if ctx.attempt <= len(delays):
        try:
            raise ConnectionError("503 from shop")
        except ConnectionError as exc:
            raise ctx.retry(delay=delays[ctx.attempt - 1], reason=f"rate limited {ctx.attempt}", exc=exc) from exc
    return facts(ctx)


@app.task(max_retries=2, default_retry_delay=0, autoretry_for=(KeyError,), dont_autoretry_for=(OSError,))
def retry_for_ever(ctx: Context) -> None:
    """Retry until it is no longer allowed; by the task's own options it would not be."""
    gates.count(ctx.id, "attempts")
    try:
        raise OSError("disk full")
    except OSError:
        raise ctx.retry(reason="no room") from None


@app.task(bind=True, max_retries=3)
def retry_by_self(self: Any, ctx: Context) -> dict[str, Any]:
    """Retry in Celery's own way."""
    if ctx.attempt == 1:
        raise self.retry(exc=ValueError("by self.retry"), countdown=0)
    return facts(ctx)


@app.task(autoretry_for=(LookupError,), default_retry_delay=0, max_retries=3)
def retry_by_itself(ctx: Context) -> dict[str, Any]:
    """Be retried by Celery's autoretry."""
    if ctx.attempt == 1:
        raise LookupError("by autoretry")
    return facts(ctx)


@app.task(max_retries=3)
def retry_once_in_canvas(n: int, ctx: Context) -> int:
    """Retry once, then return a number: a member of chains, groups and chords."""
    if ctx.attempt == 1:
        raise ctx.retry(delay=0, reason="not yet")
    return n


@app.task
def remember(value: Any, ctx: Context) -> Any:
    """What ``link`` and ``link_error`` call; the value is that of the caller or the id of the failed job."""
    gates.count(str(value), "remembered")
    return value


@app.task
def remember_error(request: Any, exc: Any, traceback: Any) -> None:
    """A ``link_error`` of the new style."""
    gates.count(request.id, "remembered")


@app.task
def total(values: list[float]) -> float:
    """The body of a chord."""
    return sum(values)


@app.task(bind=True)
def refuse(self: Any, how: str, ctx: Context) -> None:
    """Leave the handler by Celery's own exceptions."""
    from celery.exceptions import Ignore, Reject

    ctx.log.info("refused", how=how)
    raise Ignore if how == "ignore" else Reject("no", requeue=False)
