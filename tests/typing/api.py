"""Never run: read by mypy --strict and by pyright in strict mode (rule N1).

Each line that must be an error carries the name of that error, for both checkers. Both complain of one that is not needed, so a
check that stops working is seen.
"""

from __future__ import annotations

from typing import Any, TypedDict

from typing_extensions import assert_type

from taskora_celery import (
    CancelReceipt,
    Celery,
    Context,
    ContextTask,
    EagerJobHandle,
    Event,
    JobHandle,
    JobStatus,
    LogEntry,
    current_context,
    shared_task,
)


class Row(TypedDict):
    sku: str
    count: int


app = Celery("shop", broker="redis://", backend="redis://")
app.conf.task_acks_late = True
app.conf.update(taskora_max_stalls=3)


# --- the context in the second parameter, the usual form ---------------------------------------------------------------------


@app.task
def import_rows(data: dict[str, Any], ctx: Context, batch: int = 100) -> list[Row]:
    assert_type(ctx.attempt, int)
    assert_type(ctx.remaining(), float | None)
    for row in ctx.track([Row(sku="a", count=1)]):
        assert_type(row, Row)
    ctx.log.info("starting", {"source": data["source"]}, batch=batch)
    ctx.progress({"done": 1})
    ctx.checkpoint(3)
    if ctx.signal.aborted:
        raise ctx.retry(delay=1.5, reason="later")
    return []


def second_parameter(ctx: Context) -> None:
    handle = import_rows.delay({"source": "orders.csv"}, batch=5)
    assert_type(handle, JobHandle[list[Row]])
    assert_type(handle.get(timeout=1), list[Row])
    assert_type(import_rows({}), list[Row])
    assert_type(import_rows({}, ctx), list[Row])
    assert_type(import_rows({}, ctx=ctx, batch=3), list[Row])
    assert_type(import_rows.apply(({},)), EagerJobHandle[list[Row]])
    assert_type(import_rows.apply(({},)).get(), list[Row])
    assert_type(import_rows.AsyncResult("id").get(), list[Row])

    import_rows.delay(["orders.csv"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    import_rows.delay()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    import_rows.delay({}, batch="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    import_rows.delay({}, size=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    import_rows.delay({}, ctx)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    import_rows.delay({}, ctx=ctx)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    import_rows.si(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    import_rows.si({}, ctx)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    import_rows(3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    wrong: str = handle.get()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    del wrong


def signatures() -> None:
    assert_type(import_rows.si({}).apply_async(countdown=3), JobHandle[list[Row]])
    assert_type(import_rows.s({}, batch=5).set(queue="slow").delay().get(), list[Row])
    assert_type(import_rows.s().clone(({},)).apply().get(), list[Row])
    (import_rows.s({}) | without.s()).delay()


def options_of_apply_async(ctx: Context) -> None:
    assert_type(import_rows.apply_async(({"source": "orders.csv"},), countdown=10, queue="slow"), JobHandle[list[Row]])
    assert_type(import_rows.apply_async([{"source": "orders.csv"}]), JobHandle[list[Row]])
    assert_type(import_rows.apply_async(({},), {"batch": 5}), JobHandle[list[Row]])
    assert_type(import_rows.apply_async(kwargs={"data": {}}, task_id="1"), JobHandle[list[Row]])

    import_rows.apply_async(("orders.csv",))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    import_rows.apply_async(({}, ctx))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    import_rows.apply_async()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    import_rows.apply_async(({},), countdown="10")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    import_rows.apply_async(({},), countdwn=10)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


# --- the context elsewhere ---------------------------------------------------------------------------------------------------


@app.task
def first(ctx: Context, sku: str, count: int = 1) -> int:
    return count


@app.task
def third(sku: str, count: int, ctx: Context, note: str | None = None) -> None: ...


@app.task
def keyword_only(sku: str, *, ctx: Context) -> float:
    return 1.5


@app.task
def optional(sku: str, ctx: Context | None = None) -> str:
    return sku


@app.task
def alone(ctx: Context) -> bytes:
    return b""


@app.task
def without(sku: str, count: int = 1) -> int:
    assert_type(current_context(), Context)
    return count


@app.task
def anything(data: Any, ctx: Context) -> int:
    return 1


def elsewhere(ctx: Context) -> None:
    assert_type(first.delay(sku="a", count=3).get(), int)
    assert_type(first.apply_async(("a", 3)).get(), int)
    assert_type(first("a"), int)
    first.delay(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    first.delay("a", count="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    first.delay(ctx, "a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    assert_type(third.delay("a", 3, note="n"), JobHandle[None])
    third.delay("a", "3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    third.delay("a", 3, ctx)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    # Where the context is keyword-only, the result is known, the arguments are not checked.
    assert_type(keyword_only.delay(sku="a").get(), float)
    assert_type(keyword_only.apply_async(("a",)).get(), float)

    assert_type(optional.delay("a").get(), str)
    optional.delay("a", ctx)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

    assert_type(alone.delay().get(), bytes)
    assert_type(alone.apply_async(countdown=1).get(), bytes)
    alone.delay(ctx)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

    assert_type(without.delay(sku="a", count=3).get(), int)
    without.delay(sku=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    without.delay("a", 3, ctx)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

    assert_type(anything.delay(object()).get(), int)
    anything.delay(1, ctx)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


# --- coroutines --------------------------------------------------------------------------------------------------------------


@app.task(max_retries=4, retry_backoff=2, heartbeat_timeout=30)
async def fetch(url: str, ctx: Context, *, retries: int = 0) -> bytes:
    return b""


async def coroutines(ctx: Context) -> None:
    assert_type(fetch.delay("https://example.org", retries=1), JobHandle[bytes])
    assert_type(fetch.delay("https://example.org").get(), bytes)
    assert_type(await fetch.delay("https://example.org").aget(timeout=3), bytes)
    assert_type(fetch.apply_async(("https://example.org",)).get(), bytes)
    assert_type(await fetch("https://example.org"), bytes)
    fetch.delay(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    fetch.delay("https://example.org", ctx=ctx)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    wrong: str = fetch.delay("https://example.org").get()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    del wrong


# --- bound tasks -------------------------------------------------------------------------------------------------------------


@app.task(bind=True, max_retries=3)
def bound(self: ContextTask, sku: str, ctx: Context) -> int:
    assert_type(self.ctx, Context)
    return 1


@app.task(bind=True)
async def bound_async(self: ContextTask, sku: str, ctx: Context) -> int:
    return 1


@app.task(bind=True, ignore_result=True)
def bound_without(self: ContextTask, sku: str) -> None:
    self.ctx.progress(50)


async def bound_tasks(ctx: Context) -> None:
    assert_type(bound.delay("a").get(), int)
    assert_type(bound_async.delay("a").get(), int)
    assert_type(await bound_async("a"), int)
    assert_type(bound_without.delay(sku="a").get(), None)
    bound.delay(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bound.delay("a", ctx)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    bound.apply_async((3,))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    bound_async.delay(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bound_async.delay("a", ctx)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    wrong: str = bound.delay("a").get()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    wrong = bound_async.delay("a").get()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    del wrong


# --- classes of tasks --------------------------------------------------------------------------------------------------------


class Index(ContextTask[[str], int]):
    queue = "search"

    def run(self, sku: str, ctx: Context) -> int:
        return 1

    def on_cancel(self, ctx: Context, sku: str) -> None: ...


class Fetch(ContextTask[[str], bytes]):
    async def run(self, url: str, ctx: Context) -> bytes:
        return b""


class AnyArguments(ContextTask[..., int]):
    def run(self, sku: str, ctx: Context) -> int:
        return 1


class Untyped(ContextTask):
    def run(self, sku: str, ctx: Context) -> int:
        return 1


class Mistaken(ContextTask[[str], int]):
    def run(self, sku: str, ctx: Context) -> str:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return ""


class Audited(ContextTask):
    """A base of the user's own, as Celery users write them."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)

    def delay(self, *args: Any, **kwargs: Any) -> JobHandle:
        return super().delay(*args, **kwargs)

    def apply_async(self, *args: Any, **kwargs: Any) -> Any:
        return super().apply_async(*args, **kwargs)


index = app.register_task(Index())
fetch_index = app.register_task(Fetch)


def classes_of_tasks(ctx: Context) -> None:
    assert_type(index, Index)
    assert_type(index.delay("a"), JobHandle[int])
    assert_type(index.delay("a").get(), int)
    assert_type(index.apply_async(("a",), countdown=3).get(), int)
    assert_type(index("a"), int)
    assert_type(fetch_index, Fetch)
    assert_type(fetch_index.delay("https://example.org").get(), bytes)
    assert_type(AnyArguments().delay(1, 2).get(), int)
    assert_type(Untyped().delay(1, 2), JobHandle[Any])
    index.delay(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    index.delay("a", ctx)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    index.apply_async((3,))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    index.apply_async(("a", ctx))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    fetch_index.delay(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    wrong: str = index.delay("a").get()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    wrong = fetch_index.delay("a").get()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    del wrong


# --- the decorator's options -------------------------------------------------------------------------------------------------


@shared_task(name="shop.mail", acks_late=True, max_stalls=None, on_cancel=print)
def mail(address: str, ctx: Context) -> bool:
    return True


@shared_task
def mail_all(ctx: Context, addresses: list[str]) -> int:
    return 1


@app.task(base=Audited, autoretry_for=(OSError,), throws=(KeyError,), soft_time_limit=60, attribute_of_mine=3)
def audited(sku: str, ctx: Context) -> int:
    return 1


@app.task(pydantic=True, bind=True)
def validated(self: ContextTask, row: Row, ctx: Context) -> Row:
    return row


@app.task(max_retries="4")  # type: ignore[call-overload, untyped-decorator]  # pyright: ignore[reportArgumentType]
def mistaken(sku: str, ctx: Context) -> int:
    return 1


def options_of_the_decorator() -> None:
    assert_type(mail.delay("a@example.org").get(), bool)
    assert_type(mail_all.delay(addresses=[]).get(), int)
    assert_type(audited.delay("a").get(), int)
    mail.delay(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    # pydantic makes models of what callers pass, and plain values of what the handler returns: neither is checked.
    assert_type(validated.delay({"sku": "a", "count": 1}), JobHandle[Any])


# --- the handle --------------------------------------------------------------------------------------------------------------


async def handles() -> None:
    handle = import_rows.delay({})
    assert_type(handle.id, str)
    assert_type(handle.state, str)
    assert_type(handle.ready(), bool)
    assert_type(handle.record(), JobStatus)
    assert_type(handle.status(), JobStatus)
    assert_type(handle.get_logs(level="warn"), list[LogEntry])
    assert_type(handle.cancel(reason="wrong file", wait=3.0), CancelReceipt)
    assert_type(await handle.acancel(), CancelReceipt)
    assert_type(await handle.aget(timeout=3), list[Row])
    for event in handle.events(after=3):
        assert_type(event, Event)
    async for entry in handle.afollow_logs():
        assert_type(entry, LogEntry)

    assert_type(JobHandle("id", app=app), JobHandle[Any])
    attached: JobHandle[int] = JobHandle("id", app=app)
    assert_type(attached.get(), int)
    assert_type(JobHandle[int]("id", app=app).get(), int)


def take_any_task(task: ContextTask[..., int]) -> JobHandle[int]:
    return task.delay()


def pass_tasks() -> None:
    take_any_task(first)
    take_any_task(index)
