"""The test kit with handlers that are coroutines."""

# mypy: allow-untyped-decorators
# Celery itself carries no types.

from __future__ import annotations

import asyncio
import functools
import threading
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from taskora_celery import Celery, Context, JobCancelledError
from taskora_celery.testing import run_job
from tests.support.eager_apps import tasks_of_their_own

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def app() -> Iterator[Celery]:
    with tasks_of_their_own():
        yield Celery("shop", broker="redis://127.0.0.1:1/0", backend="redis://127.0.0.1:1/0", set_as_current=False)


def test_a_coroutine_runs_with_no_broker_and_no_redis(app: Celery) -> None:
    """O1, M1: on a loop of the run's own, which ends with it."""

    @app.task(bind=True)
    async def work(self: Any, data: int, ctx: Context) -> list[Any]:
        for n in range(data):
            await asyncio.sleep(0)
            ctx.progress(n + 1, total=data)
        ctx.log.info("done")
        return [self.request.id == ctx.id, data]

    run = run_job(work, 3)
    assert (run.state, run.result) == ("SUCCESS", [True, 3])
    assert [value["current"] for value in run.progress] == [1, 2, 3]
    assert [entry.message for entry in run.logs] == ["done"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("taskora-loop")]


def test_its_retries_are_followed(app: Celery) -> None:
    """O1, I2: on the virtual clock."""

    @app.task(max_retries=2)
    async def work(ctx: Context) -> int:
        await asyncio.sleep(0)
        if ctx.attempt < 3:
            raise ctx.retry(delay=60, reason="not yet")
        return ctx.attempt

    run = run_job(work)
    assert (run.state, run.result, run.delays) == ("SUCCESS", 3, (60.0, 60.0))


LOOPS = 10


@pytest.mark.parametrize(
    ("condition", "reason", "progress", "history", "end"),
    [
        ("cancel_at", "cancelled", 3, [(1, "REVOKED")], ("REVOKED", None, JobCancelledError)),
        ("timeout_at", "timeout", 3, [(1, "FAILURE")], ("FAILURE", None, SoftTimeLimitExceeded)),
        # It begins anew, and nothing stops it then.
        ("lease_lost_at", "superseded", 3 + LOOPS, [(1, "LOST"), (2, "SUCCESS")], ("SUCCESS", "ran to its end", type(None))),
    ],
)
def test_a_stop_is_a_cancelled_error_at_the_next_await(
    app: Celery, condition: str, reason: str, progress: int, history: list[Any], end: tuple[Any, ...]
) -> None:
    """O1, M2: and the handler may await while it cleans up."""
    cleaned = []

    @app.task(acks_late=True)
    async def work(ctx: Context) -> str:
        try:
            for n in range(LOOPS):
                ctx.progress(n)
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            cleaned.append(ctx.signal.reason)
            raise
        return "ran to its end"

    run = run_job(work, **{condition: 3})
    assert cleaned == [reason]
    assert (run.state, run.result, type(run.exception)) == end
    assert run.progress == (*range(3), *range(progress - 3))
    assert [(record.delivery, record.outcome) for record in run.history] == history


def test_a_shutdown_delivers_it_again(app: Celery) -> None:
    """O1, M2, I3: with its checkpoint, and no attempt used."""

    @app.task(acks_late=True)
    async def work(ctx: Context) -> list[Any]:
        if ctx.delivery == 1:
            ctx.checkpoint(7)
            await asyncio.sleep(60)
        return [ctx.attempt, ctx.delivery, ctx.last_checkpoint]

    run = run_job(work, shutdown_at=1)
    assert (run.state, run.result) == ("SUCCESS", [1, 2, 7])


def test_a_stop_comes_at_the_report_that_was_named(app: Celery) -> None:
    """O1: however quick the coroutine is; and it is there before its first step."""

    @app.task
    async def work(ctx: Context) -> None:
        for n in range(50):
            ctx.progress(n)
            await asyncio.sleep(0)

    assert {len(run_job(work, cancel_at=3).progress) for _ in range(30)} == {3}


def test_a_decorated_coroutine_is_stopped_as_one(app: Celery) -> None:
    """M2: its handler was called as a plain one; one that runs its coroutine itself has the limits of a plain one."""

    def decorated(run: Callable[[Any], Any]) -> Any:
        def decorator(fun: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(fun)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                return run(fun(*args, **kwargs))

            return wrapper

        return decorator

    async def loops(ctx: Context) -> None:
        for n in range(50):
            ctx.progress(n)
            await asyncio.sleep(0)

    untyped: Any = app
    handed_on = untyped.task(decorated(lambda coro: coro)(loops), name="handed_on")
    to_its_end = untyped.task(decorated(asyncio.run)(loops), name="to_its_end")
    assert (run_job(handed_on, cancel_at=3).state, len(run_job(handed_on, cancel_at=3).progress)) == ("REVOKED", 3)
    run = run_job(to_its_end, timeout_at=3)
    assert (run.state, len(run.progress)) == ("FAILURE", 3)
