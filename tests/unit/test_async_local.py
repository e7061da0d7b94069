"""Coroutine handlers without a worker: called directly, eager, and what is refused."""

# mypy: allow-untyped-decorators
# Celery itself carries no types.

from __future__ import annotations

import asyncio
import functools
import gc
import sys
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from pydantic import BaseModel

from taskora_celery import (
    Context,
    HandlerCancelledError,
    JobAbortedError,
    JobCancelledError,
    NotSupportedError,
    RetryError,
    current_context,
    local_context,
    run_process,
)
from taskora_celery.coroutines import CoroutineInterrupt, what_cancelled, word_in
from taskora_celery.handler import Handler
from taskora_celery.loop import JobLoop
from taskora_celery.runtime import Runtime
from taskora_celery.testing import run_job
from tests.support.eager_apps import eager_app, tasks_of_their_own

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from celery import Celery


@pytest.fixture
def app() -> Iterator[Celery]:
    found = eager_app()
    with tasks_of_their_own():
        yield found
    Runtime.forget(found)


def test_a_direct_call_returns_a_coroutine_with_a_context(app: Celery) -> None:
    """M1: as plain Celery does; the caller awaits it on a loop of its own."""

    @app.task
    async def work(data: int, ctx: Context) -> tuple[int, bool]:
        await asyncio.sleep(0)
        return data, current_context() is ctx

    ctx = local_context()
    assert asyncio.run(work(3)) == (3, True)
    assert asyncio.run(work(3, ctx=ctx)) == (3, True)
    assert current_context(None) is None


def test_an_eager_run_waits_for_the_coroutine(app: Celery) -> None:
    """M1, A5: wherever it is made, in a loop of somebody else's, too."""

    @app.task(bind=True)
    async def work(self: Any, data: int, ctx: Context) -> tuple[int, str]:
        ctx.progress(data)
        await asyncio.sleep(0)
        return data, self.request.id

    async def inside() -> Any:
        return work.delay(4)

    for handle, data in ((work.delay(3), 3), (asyncio.run(inside()), 4)):
        assert handle.get(disable_sync_subtasks=False) == (data, handle.id)
        assert handle.get_progress() == data


def test_an_eager_run_inside_a_coroutine_of_a_job(app: Celery) -> None:
    """M1: it does not wait for the loop that waits for it."""

    @app.task
    async def inner(data: int, ctx: Context) -> int:
        await asyncio.sleep(0.01)
        return data + 1

    @app.task
    async def outer(data: int, ctx: Context) -> tuple[int, int]:
        return inner.delay(data).get(disable_sync_subtasks=False), await inner(data + 1)

    assert outer.delay(1).get() == (2, 3)


def test_an_eager_coroutine_is_retried(app: Celery) -> None:
    """I1: in the same call, as every eager run is."""

    @app.task(max_retries=2)
    async def work(ctx: Context) -> int:
        await asyncio.sleep(0)
        if ctx.attempt < 3:
            raise ctx.retry(delay=0)
        return ctx.attempt

    assert work.delay().get() == 3


@pytest.mark.skipif(sys.version_info < (3, 11), reason="task groups came with Python 3.11")
def test_a_retry_that_leaves_a_task_group_is_one(app: Celery) -> None:
    """I1, M1: the group wraps whatever its tasks raise."""
    task_group: Any = vars(asyncio)["TaskGroup"]

    @app.task(max_retries=2)
    async def work(ctx: Context) -> int:
        async def part() -> None:
            if ctx.attempt < 3:
                raise ctx.retry(delay=0, reason="busy")

        async with task_group() as group, task_group() as inner:
            group.create_task(part())
            inner.create_task(part())
        return ctx.attempt

    assert work.delay().get() == 3


def test_what_a_group_of_exceptions_says_of_the_end() -> None:
    """I1: one kind of word, however deep; with anything else in it, it is a failure, and says all."""

    class Group(Exception):  # noqa: N818 - stands for Python 3.11's
        def __init__(self, *exceptions: BaseException) -> None:
            self.exceptions = exceptions

    retry = RetryError("busy")
    assert word_in(Group(Group(retry), JobAbortedError("shutdown"))) is retry
    assert word_in(Group(retry, ValueError())) is None
    assert word_in(Group()) is None
    assert word_in(ValueError()) is None


def test_a_context_that_aborts_cancels_an_eager_coroutine(app: Celery) -> None:
    """M2: as a job's does."""

    @app.task
    async def work(ctx: Context) -> None:
        ctx.signal.abort("shutdown", "now")
        await asyncio.sleep(60)

    assert isinstance(work.delay().result, JobAbortedError)


def test_one_that_is_cancelled_before_its_first_step_takes_none(app: Celery, recwarn: pytest.WarningsRecorder) -> None:
    """M2: and nothing is said of a coroutine that was never awaited."""

    @app.task
    async def work(ctx: Context) -> None:
        await asyncio.sleep(60)  # where it was quicker than the cancel

    task_call = Handler.call

    def call(self: Handler, task: Any, ctx: Any, args: Any, kwargs: Any) -> Any:
        ctx.signal.abort("shutdown", "now")
        return task_call(self, task, ctx, args, kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Handler, "call", call)
        assert isinstance(work.delay().result, JobAbortedError)
    gc.collect()
    assert not [warning for warning in recwarn if "never awaited" in str(warning.message)]


def test_a_decorated_coroutine_is_one(app: Celery) -> None:
    """M1: a plain wrapper that says what it wraps, as `functools.wraps` does."""

    def logged(fun: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fun)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return fun(*args, **kwargs)

        return wrapper

    @app.task
    @logged
    async def work(data: int, ctx: Context) -> int:
        await asyncio.sleep(0)
        return data

    assert work.delay(3).get() == 3


def test_a_decorator_that_runs_its_coroutine_itself_makes_a_plain_handler(app: Celery) -> None:
    """A4, A6: as people do it today; nothing about it changes, its limits and interruptions are those of plain ones."""

    def to_its_end(fun: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fun)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return asyncio.run(fun(*args, **kwargs))

        return wrapper

    @app.task
    @to_its_end
    async def work(data: int, ctx: Context) -> int:
        ctx.progress(data)
        await asyncio.sleep(0)
        return data

    assert work(3) == 3
    assert work.delay(3).get() == 3


def test_a_decorator_that_collects_an_async_generator_makes_a_plain_handler(app: Celery) -> None:
    """A6: the app starts, as it did."""

    def collected(fun: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fun)
        def wrapper(*args: Any, **kwargs: Any) -> list[Any]:
            async def collect() -> list[Any]:
                return [item async for item in fun(*args, **kwargs)]

            return asyncio.run(collect())

        return wrapper

    @app.task
    @collected
    async def work(ctx: Context) -> AsyncIterator[int]:
        yield 1
        yield 2

    assert work.delay().get() == [1, 2]


def test_a_decorated_coroutine_can_be_called_directly(app: Celery) -> None:
    """A5, M1: whatever it is wrapped in."""

    def logged(fun: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fun)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return fun(*args, **kwargs)

        return wrapper

    @app.task
    @logged
    async def work(data: int, ctx: Context) -> bool:
        await asyncio.sleep(0)
        return current_context() is ctx

    assert asyncio.run(work(3)) is True


def test_pydantic_models_are_made_and_dumped_for_a_coroutine(app: Celery) -> None:
    """A4, M1: Celery's wrapper sees only the coroutine."""

    class Order(BaseModel):
        amount: int

    async def double(order: Order, ctx: Context) -> Order:
        await asyncio.sleep(0)
        return Order(amount=2 * order.amount)

    double.__annotations__ = {"order": Order, "ctx": Context, "return": Order}
    task = app.task(double, pydantic=True, name="double")
    assert task.delay({"amount": 3}).get() == {"amount": 6}
    assert asyncio.run(task({"amount": 3})) == {"amount": 6}


def test_an_async_generator_is_refused_when_it_is_defined(app: Celery) -> None:
    """M1: a job has one result."""

    async def work(ctx: Context) -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TypeError, match=r"task \S*work: its handler is an async generator.*ctx\.progress"):
        app.task(work).name  # noqa: B018 - the task is made when it is first used


@pytest.mark.parametrize("what", ["coroutine", "async_generator", "Future"])
def test_a_plain_handler_that_returns_what_nobody_awaits_fails(app: Celery, what: str) -> None:
    """M1: with an error that says so, instead of one of the serializer's."""

    async def coroutine() -> None:
        """Do nothing."""

    async def generator() -> AsyncIterator[int]:
        yield 1

    def future() -> Any:
        loop = asyncio.new_event_loop()
        try:
            return loop.create_future()
        finally:
            loop.close()

    made: dict[str, Callable[[], Any]] = {"coroutine": coroutine, "async_generator": generator, "Future": future}

    @app.task
    def work(ctx: Context) -> Any:
        return made[what]()

    error = work.delay().result
    assert isinstance(error, TypeError)
    assert str(error) == (
        f"task {work.name}: its handler is a plain function and returned {what!r}, which nobody awaits; "
        "make the handler `async def` and await it there"
    )


@pytest.mark.parametrize("call", ["retry", "requeue"])
@pytest.mark.parametrize("is_async", [False, True])
def test_who_returns_what_has_to_be_raised_is_told_so(app: Celery, call: str, is_async: bool) -> None:
    """I1: Celery's own `self.retry` raises by itself, so people forget to; no result backend could store it."""

    def plain(ctx: Context) -> Any:
        return getattr(ctx, call)(reason="busy")

    async def coroutine(ctx: Context) -> Any:
        return getattr(ctx, call)(reason="busy")

    work = app.task(coroutine if is_async else plain)
    said = f"task {work.name}: its handler returned ctx.{call}(…), which does nothing: raise it"
    assert str(work.delay().result) == said
    run = run_job(work)
    assert (run.state, str(run.exception), run.attempts) == ("FAILURE", said, 1)


def test_sleep_is_refused_where_it_would_block_the_loop(app: Celery) -> None:
    """M3: and allowed in a thread that the handler starts."""

    @app.task
    async def work(ctx: Context) -> str:
        await asyncio.to_thread(ctx.sleep, 0)
        try:
            ctx.sleep(0)
        except NotSupportedError as exc:
            return str(exc)
        return "slept"

    assert "await asyncio.sleep()" in work.delay().get()


def test_a_process_is_refused_where_it_would_block_the_loop(app: Celery) -> None:
    """M3: asyncio has its own, and there are threads."""

    @app.task
    async def work(ctx: Context) -> str:
        done = await asyncio.to_thread(run_process, ctx, ["echo", "hello"], capture_output=True, text=True)
        with pytest.raises(NotSupportedError, match=r"asyncio\.create_subprocess_exec"):
            run_process(ctx, ["echo"])
        return str(done.stdout)

    assert work.delay().get() == "hello\n"


@pytest.mark.parametrize(
    ("reason", "over_limit", "error"),
    [
        ("cancelled", False, JobCancelledError("job-1", "why")),
        ("cancelled", True, JobCancelledError("job-1", "why")),
        ("timeout", False, SoftTimeLimitExceeded()),
        ("shutdown", False, JobAbortedError("shutdown", "why")),
        ("shutdown", True, SoftTimeLimitExceeded()),
        ("superseded", False, JobAbortedError("superseded", "why")),
        (None, True, SoftTimeLimitExceeded()),
        (None, False, HandlerCancelledError("job-1")),
    ],
)
def test_what_a_cancelled_error_stands_for(reason: Any, over_limit: bool, error: Exception) -> None:
    """M2: Celery sees what a plain handler would have raised."""
    ctx = local_context("work", "job-1")
    if reason:
        ctx.signal.abort(reason, "why")
    found = what_cancelled(ctx, over_limit=over_limit)
    assert (type(found), found.args) == (type(error), error.args)


def test_behind_a_plain_revoke_a_cancelled_error_is_the_handlers_own() -> None:
    """G8, M2: the revoke has cancelled nothing; it awaited what somebody else had cancelled."""
    ctx = local_context("work", "job-1")
    ctx.signal.abort("cancelled", "revoked")
    assert isinstance(what_cancelled(ctx, gently=True), HandlerCancelledError)


class Job:
    """Stands for a coroutine on the loop."""

    def __init__(self, *, is_closed: bool = False) -> None:
        self.cancels = 0
        self.is_closed = is_closed
        self.here = True
        self.has_heard = True

    def is_here(self) -> bool:
        return self.here

    def cancel_here(self) -> None:
        self.cancels += 1

    def close(self) -> None:
        self.is_closed = True


class ManualLoop(JobLoop):
    """Calls at once, or when the test says so."""

    def __init__(self, *, answering: bool = True) -> None:
        super().__init__("default")
        self.held: list[Callable[[], object]] | None = None
        self.answering = answering

    def soon(self, action: Callable[[], object]) -> bool:
        if self.held is None:
            action()
        else:
            self.held.append(action)
        return True

    def answers(self) -> bool:
        return self.answering


def interrupt_of(job: Any, loop: ManualLoop | None = None, **options: Any) -> CoroutineInterrupt:
    interrupt = CoroutineInterrupt(local_context().signal, loop or ManualLoop())
    interrupt.open()
    interrupt.begun(job, **options)
    return interrupt


def test_the_signal_cancels_once_and_each_insistence_once_more() -> None:
    """M2, G4: the time limit has told the signal, and does not interrupt the cleaning up."""
    job = Job()
    interrupt = interrupt_of(job)
    interrupt._signal.abort("timeout", "soft_time_limit")
    assert interrupt.fire(SoftTimeLimitExceeded)
    assert job.cancels == 1
    assert interrupt.fire(JobCancelledError)
    assert job.cancels == 2


def test_a_plain_revoke_interrupts_nothing() -> None:
    """G8: the signal fires, and whoever looks at it may stop."""
    job = Job()
    interrupt = interrupt_of(job)
    interrupt.gently = True
    interrupt._signal.abort("cancelled", "revoked")
    assert job.cancels == 0


def test_a_limit_behind_another_signal_cancels_all_the_same() -> None:
    """H1: a handler that took no notice of a shutdown has a time limit still."""
    job = Job()
    interrupt = interrupt_of(job)
    interrupt._signal.abort("shutdown")
    interrupt.fire(SoftTimeLimitExceeded)
    assert (job.cancels, interrupt.over_limit) == (2, True)


def test_a_shield_that_is_entered_while_a_cancel_is_on_its_way_keeps_it() -> None:
    """G4: it is decided on the loop, where the handler is."""
    job, loop = Job(), ManualLoop()
    interrupt = interrupt_of(job, loop)
    loop.held = []
    interrupt._signal.abort("cancelled")
    (deliver,) = loop.held
    shield = interrupt.shield()
    shield.__enter__()
    deliver()
    assert job.cancels == 0
    with pytest.raises(asyncio.CancelledError):
        shield.__exit__(None, None, None)


def test_a_shield_in_a_task_of_the_handlers_leaves_the_cancel_to_the_handler() -> None:
    """G4, M2: raised in a child task, a task group would take it for the child's own end, and go on."""
    job = Job()
    job.here = False
    interrupt = interrupt_of(job)
    with interrupt.shield():
        interrupt._signal.abort("cancelled")
        assert job.cancels == 0
    assert job.cancels == 1


def test_what_is_over_is_not_cancelled() -> None:
    """G4: the next job's coroutine may run by then."""
    job, loop = Job(), ManualLoop()
    interrupt = interrupt_of(job, loop)
    loop.held = []
    interrupt.fire(JobCancelledError)
    interrupt.close()
    loop.held[0]()
    assert job.cancels == 0
    assert not interrupt.fire(JobCancelledError)
    assert not interrupt.end()
    interrupt.ended()
    interrupt._signal.abort("cancelled")
    assert job.cancels == 0


def test_cleaning_up_is_deaf_to_the_signal_that_it_follows() -> None:
    """G5: but not to the end of its grace."""
    job = Job()
    interrupt = CoroutineInterrupt(local_context().signal, ManualLoop())
    interrupt._signal.abort("cancelled")
    interrupt.open()
    interrupt.begun(job, deaf=True)  # type: ignore[arg-type]
    assert job.cancels == 0
    interrupt.fire(JobCancelledError)
    assert job.cancels == 1


@pytest.mark.parametrize(("answering", "ends"), [(True, True), (False, False)])
def test_a_coroutine_is_closed_where_its_loop_answers(answering: bool, ends: bool) -> None:
    """G4: else, or where that was in vain, its process is what is left."""
    job = Job()
    interrupt = interrupt_of(job, ManualLoop(answering=answering))
    assert interrupt.end() is ends
    assert job.is_closed is ends
    assert not interrupt.end()


def test_one_whose_loop_was_blocked_hears_of_its_cancel_before_it_is_closed() -> None:
    """M2, G4: by another job's handler, say; it has a grace to clean up like any other, once."""
    job = Job()
    job.has_heard = False
    interrupt = interrupt_of(job)
    assert interrupt.end()
    assert not job.is_closed
    assert interrupt.end(), "whatever it waits for"
    assert job.is_closed
