"""How an execution ends, in Celery's terms."""

from __future__ import annotations

import asyncio
import functools
import pickle
from typing import Any

import pytest
from celery.exceptions import Ignore, Reject

from taskora_celery.context import Context
from taskora_celery.errors import JobAbortedError, JobCancelledError, RequeueError
from taskora_celery.outcomes import Cancelled, GivenBack, as_hook, clean_up, requeues
from taskora_celery.signal import AbortReason


@pytest.fixture
def ctx() -> Context:
    return Context("job-1", "work")


def messages(ctx: Context) -> list[tuple[int, str]]:
    return [(entry[0], entry[2]) for entry in ctx.entries()]


class Task:
    """A task, as far as it has a hook."""

    on_cancel: Any = None


def nobody_runs(coro: Any) -> None:
    raise AssertionError("there is no coroutine here")


# --- on_cancel -------------------------------------------------------------------------------------------------------------


def test_a_task_without_the_hook_has_nothing_to_clean_up(ctx: Context) -> None:
    """G5: most have none."""
    clean_up(Task(), ctx, (1,), {}, nobody_runs)
    clean_up(object(), ctx, (1,), {}, nobody_runs)
    assert messages(ctx) == []


def test_the_hook_gets_the_context_and_the_arguments(ctx: Context) -> None:
    """G5: as the handler had them."""
    calls: list[Any] = []
    task = Task()
    task.on_cancel = lambda *args, **kwargs: calls.append((args, kwargs))
    clean_up(task, ctx, (1, 2), {"three": 3}, nobody_runs)
    assert calls == [((ctx, 1, 2), {"three": 3})]


@pytest.mark.parametrize("error", [OSError("no such file"), JobCancelledError(), RequeueError(), Reject("no"), Ignore()])
def test_what_the_hook_raises_is_logged_and_no_more(ctx: Context, error: Exception) -> None:
    """G5: neither a retry nor an outcome can come of it."""

    def fail(_: Context) -> None:
        raise error

    task = Task()
    task.on_cancel = fail
    clean_up(task, ctx, (), {}, nobody_runs)
    ((code, message),) = messages(ctx)
    assert (code, message) == (4, "on_cancel failed")
    assert type(error).__name__ in str(ctx.entries())


def test_a_hook_that_is_a_coroutine_is_run(ctx: Context) -> None:
    """G5, M1: by whoever knows the loop; what it raises is logged as well."""
    ran: list[str] = []

    async def clean(ctx: Context, data: str) -> None:
        ran.append(data)
        raise OSError("no such file")

    task = Task()
    task.on_cancel = clean
    clean_up(task, ctx, ("file",), {}, asyncio.run)
    assert ran == ["file"]
    assert messages(ctx) == [(4, "on_cancel failed")]


def test_the_end_of_the_process_is_not_held_up_by_the_hook(ctx: Context) -> None:
    """G5: an exit is no error."""

    def leave(_: Context) -> None:
        raise SystemExit(1)

    task = Task()
    task.on_cancel = leave
    with pytest.raises(SystemExit):
        clean_up(task, ctx, (), {}, nobody_runs)


def plain(ctx: Any, *args: Any) -> tuple[Any, ...]:
    return ctx, *args


def method(self: Any, ctx: Any, *args: Any) -> tuple[Any, ...]:
    return type(self).__name__, ctx, *args


class AnObject:
    def __call__(self, ctx: Any, *args: Any) -> tuple[Any, ...]:
        return ctx, *args


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        (plain, ("ctx", 1)),
        (method, ("Hooked", "ctx", 1)),
        (staticmethod(plain), ("ctx", 1)),
        (functools.partial(plain), ("ctx", 1)),
        (AnObject(), ("ctx", 1)),
        (lambda ctx, *args: (ctx, *args), ("ctx", 1)),
        (lambda *args: args, ("ctx", 1)),
    ],
    ids=["function", "method", "staticmethod", "partial", "object", "lambda", "anything"],
)
def test_a_hook_is_a_method_where_it_takes_self_first(hook: Any, expected: tuple[Any, ...]) -> None:
    """G5: the option is a function, the method a method; both are kept on the class."""
    hooked = type("Hooked", (), {"on_cancel": as_hook(hook)})
    assert hooked().on_cancel("ctx", 1) == expected


def test_no_hook_stays_none() -> None:
    """G5: a subclass takes its parent's back so."""
    assert as_hook(None) is None


# --- requeues --------------------------------------------------------------------------------------------------------------


def test_a_requeue_that_was_asked_for_is_one(ctx: Context) -> None:
    """I3: with a shutdown or without."""
    assert requeues(RequeueError("later"), ctx) is True


@pytest.mark.parametrize("fired", [None, "cancelled", "timeout", "shutdown", "superseded"])
@pytest.mark.parametrize("raised", ["cancelled", "timeout", "shutdown", "superseded"])
def test_an_abort_is_one_only_for_a_shutdown_that_there_is(ctx: Context, raised: str, fired: AbortReason | None) -> None:
    """I3: shutdown is not failure; all else is."""
    if fired is not None:
        ctx.signal.abort(fired)
    assert requeues(JobAbortedError(raised), ctx) is (raised == fired == "shutdown")


@pytest.mark.parametrize("error", [OSError(), JobCancelledError(), Ignore(), Reject(requeue=True), SystemExit()])
def test_no_other_error_is_one(ctx: Context, error: BaseException) -> None:
    """I3: also while the worker shuts down."""
    ctx.signal.abort("shutdown")
    assert requeues(error, ctx) is False


def test_what_the_parent_is_told_survives_the_way_there() -> None:
    """G6, I3: a child of a pool sends them as pickles."""
    cancelled = pickle.loads(pickle.dumps(Cancelled("no longer wanted")))
    requeued = pickle.loads(pickle.dumps(GivenBack("the worker shuts down", requeue=True)))
    assert (type(cancelled), cancelled.reason) == (Cancelled, "no longer wanted")
    assert (type(requeued), requeued.reason, requeued.requeue) == (GivenBack, "the worker shuts down", True)
