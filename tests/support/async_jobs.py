"""Tasks whose handlers are coroutines."""

# mypy: allow-untyped-decorators, allow-subclassing-any
# Celery itself carries no types.

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextvars import ContextVar
from typing import Any

from celery import current_task

from taskora_celery import Context, ContextTask, current_context
from tests.support import gates
from tests.support.jobs import app
from tests.support.stopping_jobs import tell

GRACE = 0.5
#: What a first job makes and the next ones use, as they would a pool of connections: it belongs to one loop.
_shared: dict[str, asyncio.Queue[str]] = {}
_mark: ContextVar[str] = ContextVar("mark", default="")


async def atell(job_id: str, what: str) -> None:
    await asyncio.to_thread(tell, job_id, what)


async def stop_at(job_id: str) -> None:
    await asyncio.to_thread(gates.stop_at, job_id)


@app.task
async def share(data: str, ctx: Context) -> list[str]:
    """Hand a value from the job before to the next, through what belongs to the loop."""
    queue = _shared.setdefault("queue", asyncio.Queue())
    found = []
    if not queue.empty():
        found.append(await queue.get())
    await queue.put(data)
    # Waits for real, so that a loop of another job would be found out.
    await asyncio.wait_for(asyncio.sleep(0.01), 5)
    return [str(os.getpid()), *found]


@app.task(bind=True)
async def look_around(self: Any, data: int, ctx: Context) -> dict[str, Any]:
    """See whether everything is this job's, again and again, while others run beside it."""
    seen = set()
    before = _mark.get()
    _mark.set(ctx.id)

    def look() -> None:
        seen.add((self.request.id, current_context().id, current_task.request.id, _mark.get()))

    async def child() -> None:
        await asyncio.sleep(0)
        look()

    for n in range(20):
        look()
        await asyncio.sleep(0.005)
        await asyncio.create_task(child())
        ctx.progress(n)
        ctx.log.info("looked", n=n)
    await asyncio.to_thread(lambda: seen.add((ctx.id, current_context().id, ctx.id, _mark.get())))
    return {"seen": sorted(seen), "before": before, "thread": threading.current_thread().name, "parent": self.request.parent_id}


@app.task
async def meet(data: int, ctx: Context) -> int:
    """Wait for the others, all of whom must run at the same time."""
    ctx.log.info("here")
    await stop_at(ctx.id)
    return data


@app.task
async def send(ctx: Context) -> str:
    """Send a job from a coroutine: its parent is this one."""
    from tests.support.jobs import add

    return str(add.delay(1, 2).id)


@app.task(cancel_grace=GRACE)
async def obey(ctx: Context) -> str:
    """Wait for long; clean up when cancelled, which takes a moment, too."""
    ctx.checkpoint({"row": 7})
    ctx.progress(7)
    await atell(ctx.id, "started")
    if ctx.delivery > 1:
        return f"delivery {ctx.delivery} of attempt {ctx.attempt} at {ctx.last_checkpoint}"
    try:
        await stop_at(ctx.id)
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        await asyncio.sleep(0.05)
        await atell(ctx.id, f"cleaned up: {ctx.signal.reason}")
        raise
    return "ran to its end"


@app.task(cancel_grace=GRACE)
async def deaf(how: str, ctx: Context) -> str:
    """Catch the cancel and go on; or block the loop."""
    await atell(ctx.id, f"started in {os.getpid()}")
    gates.arrive(ctx.id)
    while True:
        try:
            if how == "block":
                time.sleep(0.05)  # noqa: ASYNC251 - it is to block
                continue
            await asyncio.sleep(0.02)
            tell(ctx.id, "goes on")
        except asyncio.CancelledError:
            tell(ctx.id, "caught")


@app.task(cancel_grace=GRACE)
async def swallow(ctx: Context) -> str:
    """Catch the cancel, and return as if nothing was."""
    gates.arrive(ctx.id)
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        return "as if nothing was"
    return "ran to its end"


@app.task(cancel_grace=2 * GRACE)
async def shielded(ctx: Context) -> None:
    """Finish a block that must be whole."""
    with ctx.shield():
        gates.arrive(ctx.id)
        await ctx.signal.wait_async()
        await asyncio.sleep(0.2)
        await atell(ctx.id, "whole")
    await asyncio.sleep(600)


@app.task(soft_time_limit=1)
async def over_limit(ctx: Context) -> None:
    """Run into the soft time limit."""
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        await asyncio.sleep(0.2)  # a second interruption would come here
        await atell(ctx.id, f"cleaned up in {os.getpid()}: {ctx.signal.reason}")
        raise


@app.task
async def leave_behind(ctx: Context) -> int:
    """Start a task and do not wait for it."""

    async def tick() -> None:
        while True:
            tell(ctx.id, "tick")
            await asyncio.sleep(0.01)

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(0.01)
                tell(ctx.id, "stubborn")
            except asyncio.CancelledError:
                continue

    ctx.log.info("leaves them", tasks=len({asyncio.create_task(tick()), asyncio.create_task(stubborn())}))
    await asyncio.sleep(0.1)
    return os.getpid()


@app.task
async def block(seconds: float, ctx: Context) -> None:
    """Hold up the loop, twice."""
    for _ in range(2):
        time.sleep(seconds)  # noqa: ASYNC251 - it is to block
        await asyncio.sleep(0)


@app.task
async def cancel_itself(ctx: Context) -> None:
    """Let out a cancel that nobody has wanted."""
    waiting = asyncio.get_running_loop().create_future()
    waiting.cancel()
    await waiting


@app.task(max_retries=2)
async def retry(ctx: Context) -> int:
    """Succeed in the third attempt."""
    await asyncio.sleep(0)
    if ctx.attempt < 3:
        raise ctx.retry(delay=0, reason="not yet")
    return ctx.attempt


@app.task(bind=True, autoretry_for=(ConnectionError,), retry_backoff=False, default_retry_delay=0, max_retries=1)
async def autoretry(self: Any, ctx: Context) -> list[int]:
    """Fail as a client of a network does, once."""
    await asyncio.sleep(0)
    if self.request.retries == 0:
        raise ConnectionError("away")
    return [ctx.attempt, self.request.retries]


class WithHook(ContextTask):
    """A class whose handler and hook are coroutines."""

    name = "async_jobs.with_hook"
    cancel_grace = GRACE

    async def run(self, data: str, ctx: Context) -> str:
        gates.arrive(ctx.id)
        await asyncio.sleep(600)
        return data

    async def on_cancel(self, ctx: Context, data: str) -> None:
        await asyncio.sleep(0.05)
        await atell(ctx.id, f"on_cancel {data} {self.request.id == ctx.id}")


with_hook = app.register_task(WithHook())


@app.task
async def meet_nobody(data: int, ctx: Context) -> int:
    """Run, and return."""
    await asyncio.sleep(0)
    return data


@app.task
def run_a_loop(data: int, ctx: Context) -> int:
    """Use an event loop of its own in a plain handler."""

    async def work() -> int:
        await asyncio.sleep(0.05)
        return data

    return asyncio.run(work())


@app.task
async def wait_for_signal(ctx: Context) -> None:
    """Look at the signal, as a handler does that wants to decide for itself."""
    gates.arrive(ctx.id)
    await ctx.signal.wait_async()
    await asyncio.sleep(0.1)
    await atell(ctx.id, "saw it")
