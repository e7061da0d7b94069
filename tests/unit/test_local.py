"""Direct calls, `apply()` and `task_always_eager`: a context that lives in memory and needs no Redis (rule A5)."""

# mypy: allow-untyped-decorators, allow-subclassing-any

from __future__ import annotations

import asyncio
import inspect
import math
import threading
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery import Task, chain, group
from celery.exceptions import Ignore, MaxRetriesExceededError, Reject, Retry
from celery.result import AsyncResult

import taskora_celery
from taskora_celery import (
    Context,
    ContextTask,
    EagerJobHandle,
    JobHandle,
    JobNotFoundError,
    LocalContext,
    NoActiveJobError,
    RetryError,
    current_context,
    local_context,
)
from taskora_celery.runtime import Runtime
from tests.support.eager_apps import eager_app, tasks_of_their_own

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery


@pytest.fixture(autouse=True)
def _own_tasks() -> Iterator[None]:
    with tasks_of_their_own():
        yield


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app whose Redis is nowhere; whoever asks for it is found out."""
    app = eager_app(taskora_redis_url="redis://127.0.0.1:1/0")
    yield app
    assert app not in Runtime._by_app


@pytest.fixture
def work(app: Celery) -> Any:
    """A task that says all that it can."""

    @app.task(name="unit.work", max_retries=3)
    def work(data: Any, ctx: Context) -> Any:
        ctx.log.info("working", data=data)
        ctx.heartbeat()
        ctx.checkpoint({"at": data})
        for item in ctx.track([10, 20]):
            ctx.log.debug(f"item {item}")
        ctx.progress({"rows": data})
        return [data, ctx.attempt, ctx.max_attempts, ctx.delivery, ctx.fence, ctx.remaining()]

    return work


# --- direct calls --------------------------------------------------------------------------------------------------------


def test_a_direct_call_needs_nothing(work: Any) -> None:
    """A5: no broker, no Redis, no worker; the handler cannot tell the difference."""
    assert work(5) == [5, 1, 4, 1, 0, None]
    with pytest.raises(NoActiveJobError):
        current_context()


def test_the_context_of_the_caller_wins(app: Celery, work: Any) -> None:
    """A5: by name or by position, and it is the current one meanwhile; afterwards it can be read."""
    ctx = local_context("mine", "id-1", attempt=2, max_attempts=9)
    assert work(7, ctx=ctx) == work(7, ctx) == [7, 2, 9, 1, 0, None]
    assert ctx.get_progress() == {"rows": 7}
    assert list(ctx.values)[:3] == [
        {"current": 1, "total": 2, "percent": 50.0},
        {"current": 2, "total": 2, "percent": 100.0},
        {"rows": 7},
    ]
    assert [entry.message for entry in ctx.get_logs()] == ["working", "item 10", "item 20"] * 2
    assert [(entry.level, entry.meta, entry.attempt) for entry in ctx.get_logs()][:2] == [
        ("info", {"data": 7}, 2),
        ("debug", None, 2),
    ]
    assert ctx.last_checkpoint is None

    @app.task
    def ask(job: Context) -> list[Any]:
        return [job, current_context()]

    assert ask(ctx) == ask(job=ctx) == [ctx, ctx]


def test_a_retry_reaches_a_direct_caller_as_it_is(app: Celery) -> None:
    """A5: nobody would run it again; the caller sees what was asked for."""

    @app.task
    def work(ctx: Context) -> None:
        raise ctx.retry(delay=30, reason="rate limited")

    with pytest.raises(RetryError, match=r"rate limited \(retry in 30 s\)") as caught:
        work()
    assert (caught.value.delay, caught.value.reason) == (30.0, "rate limited")


def test_a_direct_call_inside_a_job_shares_its_context(app: Celery, work: Any) -> None:
    """A5: what the inner task reports is the job's; its own job it has where it is applied, or called with a context."""

    @app.task
    def outer(how: str, ctx: Context) -> Any:
        if how == "call":
            assert work(1)[:2] == [1, 1]
        elif how == "apply":
            assert work.apply((1,)).get_progress() == {"rows": 1}
        else:
            other = local_context("other")
            work(1, ctx=other)
            assert len(other.get_logs()) == 3
        assert current_context() is ctx
        return ctx.id

    shared, apart, other = (outer.delay(how) for how in ("call", "apply", "context"))
    assert shared.get() == shared.id
    assert shared.get_progress() == {"rows": 1}
    assert [len(handle.get_logs()) for handle in (shared, apart, other)] == [3, 0, 0]
    assert (apart.get_progress(), other.get_progress()) == (None, None)


def test_a_thread_of_a_handler_is_outside_the_job(app: Celery, work: Any) -> None:
    """A5, B7: it takes the context along where it wants it; a task that it calls has a context of its own."""

    @app.task
    def outer(ctx: Context) -> list[Any]:
        found: list[Any] = []

        def beside() -> None:
            found.append(current_context(None))
            work(1)
            ctx.log.info("from a thread")

        thread = threading.Thread(target=beside)
        thread.start()
        thread.join()
        return found

    handle = outer.delay()
    assert handle.get() == [None]
    assert [entry.message for entry in handle.get_logs()] == ["from a thread"]


def test_a_task_may_call_itself(app: Celery) -> None:
    """A5: a recursion stays in one job."""

    @app.task(bind=True)
    def count(self: Any, n: int, ctx: Context) -> list[str]:
        return [ctx.id] if not n else [ctx.id, *self(n - 1)]

    handle = count.delay(3)
    assert handle.get() == [handle.id] * 4


# --- eager runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["apply", "delay", "apply_async", "signature"])
def test_an_eager_run_keeps_what_was_reported(work: Any, how: str) -> None:
    """A5: its handle reads under the names that a JobHandle has."""
    runs = {
        "apply": lambda: work.apply((5,)),
        "delay": lambda: work.delay(5),
        "apply_async": lambda: work.apply_async((5,), countdown=100, priority=3, headers={"trace": "t1"}),
        "signature": lambda: work.si(5).set(queue="other").delay(),
    }
    handle = runs[how]()
    assert type(handle) is EagerJobHandle
    assert (handle.state, handle.status, handle.successful(), handle.ready()) == ("SUCCESS", "SUCCESS", True, True)
    assert handle.get() == [5, 1, 4, 1, 0, None]
    assert handle.get_progress() == {"rows": 5}
    assert [(entry.seq, entry.message) for entry in handle.get_logs()] == [(0, "working"), (1, "item 10"), (2, "item 20")]
    assert handle.history() == ()


def test_the_logs_of_an_eager_run_are_filtered_as_those_of_a_job(work: Any) -> None:
    """A5: code that is tested eagerly passes the same arguments in production."""
    handle = work.delay(5)
    assert [entry.seq for entry in handle.get_logs(level="info")] == [0]
    assert [entry.seq for entry in handle.get_logs(after=0, limit=1)] == [2]
    assert handle.get_logs(attempt=2) == []
    with pytest.raises(ValueError, match="limit=-1 is negative"):
        handle.get_logs(limit=-1)


@pytest.fixture
def retried(app: Celery) -> EagerJobHandle[str]:
    """The handle of a job that was tried twice."""

    @app.task(name="unit.retried")
    def work(ctx: Context) -> str:
        ctx.log.info(f"attempt {ctx.attempt}")
        ctx.progress(50 * ctx.attempt)
        if ctx.attempt == 1:
            raise ctx.retry(delay=9, reason="not yet")
        ctx.log.warning("late")
        return "done"

    return work.delay()  # type: ignore[no-any-return]


def test_the_handle_of_an_eager_run_has_all_that_a_job_handle_has() -> None:
    """A5, N1: ``delay()`` is typed as a JobHandle, whose code meets this one in tests."""
    for name, method in vars(JobHandle).items():
        if not name.startswith("_") and callable(method) and not hasattr(AsyncResult, name):  # Celery's own has its own signature
            assert str(inspect.signature(getattr(EagerJobHandle, name))) == str(inspect.signature(method)), name


def test_an_eager_run_is_told_as_a_job_that_has_ended(retried: EagerJobHandle[str]) -> None:
    """A5: where it is, its log with the retry in its place, the last progress, the outcome."""
    events = list(retried.events(timeout=1))
    assert [(event.kind, event.seq) for event in events] == [
        ("state", -1), ("log", 0), ("state", 0), ("log", 1), ("log", 2), ("progress", 2), ("state", 2),
    ]  # fmt: skip
    started, first, retry, _, last, progress, end = [event.data for event in events]
    assert started == {"state": "STARTED", "attempt": 2, "delivery": 1, "worker": ""}
    assert (first, last) == (retried.get_logs()[0], retried.get_logs()[2])
    assert (retry["state"], retry["attempt"], retry["reason"], retry["delay"]) == ("RETRY", 1, "not yet", 9)
    assert (progress, end) == (100, {**started, "state": "SUCCESS"})
    assert [event.seq for event in retried.events(after=1) if event.kind == "log"] == [2]
    assert [event.seq for event in retried.events(after=9)] == [9, 9, 9]
    assert [entry.message for entry in retried.follow_logs(after=0)] == ["attempt 2", "late"]


def test_an_eager_run_has_a_record(retried: EagerJobHandle[str]) -> None:
    """A5: the same by all its roads."""
    record = retried.record()
    assert (record.id, record.name, record.state, record.attempt, record.logs) == (retried.id, "unit.retried", "SUCCESS", 2, 3)
    assert (record.progress, record.reason, record.error) == (100, None, None)
    assert record.created_ms <= record.started_ms <= (record.progress_ms or 0) <= (record.ended_ms or 0)
    assert retried.status() == record


def test_the_record_of_an_eager_failure_says_why(app: Celery) -> None:
    """A5, F7: redacted, as in production; and its last event says it, too."""

    @app.task
    def work(ctx: Context) -> None:
        raise OSError("no answer, password=hunter2")

    handle = work.delay()
    record = handle.record()
    assert (record.state, record.reason, record.error) == ("FAILURE", "no answer, password=[redacted]", "OSError")
    *_, end = handle.events()
    assert (end.data["state"], end.data["reason"], end.data["error"]) == ("FAILURE", record.reason, "OSError")


def test_an_eager_run_can_be_read_without_blocking_a_loop(retried: EagerJobHandle[str]) -> None:
    """A5, M2: what is awaited is what is returned without."""

    async def read() -> list[Any]:
        return [
            await retried.aget(), await retried.aget_progress(), await retried.aget_logs(level="warn"), await retried.astatus(),
            await retried.ahistory(), [event async for event in retried.aevents(after=0)],
            [entry async for entry in retried.afollow_logs()],
        ]  # fmt: skip

    assert asyncio.run(read()) == [
        retried.get(), retried.get_progress(), retried.get_logs(level="warn"), retried.record(), retried.history(),
        list(retried.events(after=0)), retried.get_logs(),
    ]  # fmt: skip


def test_an_eager_run_is_cancelled_too_late(retried: EagerJobHandle[str]) -> None:
    """A5, G2: it has ended; what is wrong in the request is refused as for any job."""
    receipt = retried.cancel("password=hunter2", grace=3, wait=True)
    assert (receipt.id, receipt.outcome, receipt.reason) == (retried.id, "too_late", "password=[redacted]")
    assert asyncio.run(retried.acancel()).outcome == "too_late"
    assert retried.cancel(wait=timedelta(seconds=1)).outcome == "too_late"
    for wrong in ({"reason": 5}, {"grace": -1}, {"wait": -1}):
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            retried.cancel(**wrong)  # type: ignore[arg-type]
    for follow in (retried.events, retried.follow_logs):
        with pytest.raises(ValueError, match=r"timeout=-1\.0 is not a duration"):
            follow(timeout=-1)
    retried.revoke()
    assert retried.cancel().outcome == "cancelled"


def test_what_ran_without_a_context_has_no_record(app: Celery) -> None:
    """A5, A7: a task that is left alone is known to nobody, here as in production."""

    @app.task(tracked=False)
    def work() -> int:
        return 1

    handle = work.delay()
    assert (handle.get(), list(handle.events())) == (1, [])
    with pytest.raises(JobNotFoundError):
        handle.record()


def test_an_eager_run_may_have_any_id(work: Any) -> None:
    """A5: a UUID is shown as text, as in production."""
    job_id = uuid.uuid4()
    handle = work.apply_async((5,), task_id=job_id)
    assert (handle.record().id, handle.cancel().id) == (str(job_id), str(job_id))


def test_retries_are_followed_at_once(app: Celery) -> None:
    """A5: whatever delay they ask for; each attempt finds the one before, and the handle has them all."""

    @app.task(max_retries=5)
    def work(ctx: Context) -> Any:
        ctx.log.info(f"attempt {ctx.attempt}")
        if ctx.attempt == 1:
            ctx.progress(10)
            ctx.checkpoint(["saved"])
            raise ctx.retry(delay=3600, reason="not yet, password=hunter2")
        if ctx.attempt == 2:
            assert ctx.last_checkpoint == ["saved"]
            try:
                raise OSError("no answer")
            except OSError:
                raise ctx.retry(delay=60) from None
        return [ctx.last_checkpoint, [record.number for record in ctx.history], ctx.timestamp, ctx.max_attempts]

    handle = work.delay()
    saved, numbers, timestamp, limit = handle.get()
    assert (saved, numbers, limit) == (["saved"], [1, 2], 6)
    assert timestamp <= handle.history()[1].started_ms
    assert handle.get_progress() == 10
    assert [(entry.message, entry.attempt, entry.seq) for entry in handle.get_logs()] == [
        ("attempt 1", 1, 0),
        ("attempt 2", 2, 1),
        ("attempt 3", 3, 2),
    ]
    first, second = handle.history()
    assert (first.outcome, first.delay, first.error) == ("RETRY", 3600, None)
    assert first.reason is not None
    assert "hunter2" not in first.reason
    assert (second.reason, second.error, second.delay) == ("OSError: no answer", "OSError", 60)


@pytest.mark.parametrize("road", ["self.retry", "autoretry"])
def test_celerys_own_retries_are_followed_and_kept_too(app: Celery, road: str) -> None:
    """A5, B2: by any road the attempt grows by one."""
    options: dict[str, Any] = {"autoretry_for": (OSError,), "default_retry_delay": 9} if road == "autoretry" else {}

    @app.task(bind=True, max_retries=4, **options)
    def work(self: Any, ctx: Context) -> int:
        if ctx.attempt < 4:
            try:
                raise OSError("no answer")
            except OSError as error:
                if road == "autoretry":
                    raise
                raise self.retry(exc=error, countdown=9) from error
        return ctx.attempt

    handle = work.delay()
    assert handle.get() == 4
    assert [(record.number, record.reason, record.error, record.delay) for record in handle.history()] == [
        (number, "no answer", "OSError", 9) for number in (1, 2, 3)
    ]


def test_the_last_retry_fails_the_job(app: Celery) -> None:
    """A5, I2: with the reason, and chained to the cause; Celery's class is a base of ours."""

    @app.task(max_retries=1)
    def work(ctx: Context) -> None:
        try:
            raise OSError("no answer")
        except OSError as error:
            raise ctx.retry(delay=0, reason="the server is away") from error

    handle = work.delay()
    assert handle.state == "FAILURE"
    assert type(handle.result) is taskora_celery.MaxRetriesExceededError
    assert isinstance(handle.result, MaxRetriesExceededError)
    assert handle.result.reason == "the server is away"
    assert "failed in attempt 2 of 2: the server is away" in str(handle.result)
    assert repr(handle.result.__cause__) == "OSError('no answer')"
    assert len(handle.history()) == 1


@pytest.mark.parametrize(
    ("options", "attempts"),
    [
        ({"autoretry_for": (Exception,), "max_retries": 2}, 3),
        ({"autoretry_for": (Exception,), "retry_kwargs": {"max_retries": 5}}, 6),
        ({"autoretry_for": (Exception,), "retry_kwargs": {"max_retries": 1, "countdown": 3}, "max_retries": 9}, 2),
        ({"autoretry_for": (ValueError,), "dont_autoretry_for": (Exception,), "max_retries": 2}, 3),
        ({"max_retries": 0}, 1),
    ],
)
def test_both_roads_to_a_retry_end_at_the_same_attempt(app: Celery, options: dict[str, Any], attempts: int) -> None:
    """A4, I2: autoretry neither forbids ctx.retry nor goes on where it ended; ``retry_kwargs`` hold the limit for both."""
    seen: list[Any] = []

    @app.task(bind=True, **options)
    def work(self: Any, ctx: Context) -> None:
        seen.append((ctx.attempt, ctx.max_attempts))
        raise ctx.retry(delay=0, reason="again")

    handle = work.delay()
    assert type(handle.result) is taskora_celery.MaxRetriesExceededError
    assert seen == [(attempt, attempts) for attempt in range(1, attempts + 1)]


def test_without_a_limit_there_is_no_last_attempt(app: Celery) -> None:
    """B2, I2: ``max_retries=None`` means for ever."""

    @app.task(max_retries=None)
    def work(ctx: Context) -> Any:
        if ctx.attempt < 20:
            raise ctx.retry(delay=0)
        return [ctx.attempt, ctx.max_attempts]

    assert work.delay().get() == [20, None]


def test_the_limit_of_one_retry_is_not_that_of_other_jobs(app: Celery) -> None:
    """B2: ``self.retry(max_retries=…)`` leaves a trace on the task in Celery, which must not reach the next context."""

    @app.task(bind=True, max_retries=3)
    def work(self: Any, ctx: Context) -> Any:
        if ctx.attempt == 1:
            raise self.retry(countdown=0, max_retries=50)
        return ctx.max_attempts

    assert [work.delay().get(), work.delay().get()] == [4, 4]


@pytest.mark.parametrize(
    ("delay", "options", "expected"),
    [
        (None, {}, 180),
        (None, {"default_retry_delay": 7}, 7),
        (None, {"default_retry_delay": 7, "retry_backoff": 3, "retry_jitter": False}, 3),
        (None, {"retry_backoff": 3, "retry_backoff_max": 2, "retry_jitter": False}, 2),
        (0, {"retry_backoff": 3}, 0),
        (1.5, {"retry_backoff": 3}, 1.5),
    ],
)
def test_the_delay_of_a_retry(app: Celery, delay: float | None, options: dict[str, Any], expected: float) -> None:
    """I2: an explicit one exactly, 0 included; else the task's backoff; else its default."""

    @app.task(**options)
    def work(ctx: Context) -> None:
        if ctx.attempt == 1:
            raise ctx.retry(delay=delay)

    (record,) = work.delay().history()
    assert record.delay == expected


def test_an_eager_run_ends_as_under_plain_celery() -> None:
    """A5, A6: same results and states, and the same exceptions where they are to be raised."""
    assert _ends(ContextTask) == _ends(Task)


def _ends(task_cls: type[Any]) -> list[Any]:
    app = eager_app(task_cls)
    raises: dict[str, Exception] = {"ignore": Ignore(), "reject": Reject("no", requeue=False), "fail": ValueError("fail")}

    @app.task(bind=True, max_retries=1, shared=False)
    def work(self: Any, how: str) -> Any:
        if how in raises:
            raise raises[how]
        if how == "retry" and not self.request.retries:
            raise self.retry(countdown=5)
        if how == "retries":
            raise self.retry(exc=KeyError("last"))
        return self.replace(self.si("succeed")) if how == "replace" else how

    found: list[Any] = []
    for how in ("succeed", "fail", "ignore", "reject", "retry", "retries", "replace"):
        for options in ({}, {"throw": True}):
            try:
                result = work.apply((how,), **options)
                found.append((how, result.state, repr(result.result), result.traceback is None))
            except (ValueError, KeyError, Retry, Ignore, Reject) as error:
                found.append((how, type(error), str(error)[:30]))
    found.append((chain(work.si("succeed"), work.si("fail")).apply().state, len(group(work.si("succeed")).apply().get())))
    return found


def test_a_custom_call_on_the_way_to_an_eager_handler(app: Celery) -> None:
    """A4, A5: a base's own ``__call__`` that calls ``run`` keeps reports and retries."""

    class Called(ContextTask):
        abstract = True

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.run(*args, **kwargs)

    @app.task(base=Called)
    def work(ctx: Context) -> int:
        ctx.log.info("called")
        if ctx.attempt == 1:
            raise ctx.retry(delay=0)
        return ctx.attempt

    handle = work.delay()
    assert handle.get() == 2
    assert len(handle.get_logs()) == 2


def test_an_eager_run_that_fails_keeps_its_reports(app: Celery) -> None:
    """A5: a test asks most about what failed."""

    @app.task
    def work(ctx: Context) -> None:
        ctx.progress(1, total=4, message="reading")
        ctx.log.error("broken", token="abc", path="/in")
        raise ValueError("no")

    handle = work.delay()
    assert handle.failed()
    assert handle.get_progress() == {"current": 1, "total": 4, "percent": 25.0, "message": "reading"}
    (entry,) = handle.get_logs()
    assert entry.meta is not None
    assert entry.meta["path"] == "/in"
    assert "abc" not in str(entry.meta)


def test_values_that_no_store_takes_harm_no_eager_run(app: Celery) -> None:
    """A5, E2: as in a worker."""
    circular: list[Any] = []
    circular.append(circular)

    @app.task
    def work(ctx: Context) -> str:
        for value in (object(), math.nan, circular, "x" * 1_000_000):
            ctx.progress(value)
            ctx.log.info("odd", value=value)
        return "done"

    handle = work.delay()
    assert handle.get() == "done"
    assert len(handle.get_logs()) == 4


def test_a_local_context_stands_alone() -> None:
    """A5: made by the caller, it has an id of its own, the time of its creation, and nothing to wait for."""
    one, two = local_context(), local_context()
    assert isinstance(one, LocalContext)
    assert one.id != two.id
    assert (one.name, one.attempt, one.max_attempts, one.deadline, one.history) == ("local", 1, None, None, ())
    assert one.created_at.timestamp() == pytest.approx(one.timestamp / 1000)
    assert (one.get_progress(), one.get_logs()) == (None, [])
    assert "local" in repr(one)
