# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""Never run: an app with the stubs of celery-types. Read like api.py, where these are installed (rule N1)."""

from __future__ import annotations

from typing import Any

from celery import Celery, Task, chain, group, shared_task
from celery.app.task import Context as Request
from celery.result import AsyncResult, EagerResult
from typing_extensions import assert_type

import taskora_celery
from taskora_celery import Context, ContextTask, JobHandle

# --- Celery's own app, with one line changed -----------------------------------------------------------------------------------

app = Celery("shop", task_cls=ContextTask)


@app.task(acks_late=True, max_retries=4, retry_backoff=2)
def import_rows(data: dict[str, Any], ctx: Context) -> int:
    return 1


@app.task
def plain(data: dict[str, Any]) -> int:
    return 1


@app.task(bind=True)
def bound(self: ContextTask, data: str, ctx: Context) -> int:
    assert_type(self.request, Request)
    raise self.retry(countdown=3)


@app.task(base=ContextTask)
def based(data: str, ctx: Context) -> int:
    return 1


@shared_task
def shared(count: int) -> str:
    return ""


class Index(ContextTask[[str], int]):
    def run(self, sku: str, ctx: Context) -> int:
        self.update_state(state="INDEXING")
        return 1


index = app.register_task(Index())


def celerys_own_app() -> None:
    assert_type(import_rows.delay({}), JobHandle[Any])
    assert_type(plain.apply_async(({},), countdown=3), JobHandle[Any])
    assert_type(bound.name, str)
    assert_type(based.AsyncResult("id"), JobHandle[Any])
    assert_type(shared.delay(3), AsyncResult[str])
    assert_type(index.delay("a").get(), int)
    index.delay(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# --- the typed app -------------------------------------------------------------------------------------------------------------

typed = taskora_celery.Celery("shop")


@typed.task
def number(count: int, ctx: Context) -> str:
    return ""


@typed.task(bind=True)
async def text(self: ContextTask, sku: str, ctx: Context) -> int:
    assert_type(self.request, Request)
    return 1


def take_task(task: Task[..., Any]) -> AsyncResult[Any]:
    return task.delay()


def take_result(result: AsyncResult[str]) -> str:
    return result.get()


def take_app(app: Celery[Any]) -> None:
    app.send_task("shop.import_rows")


def typed_app() -> None:
    take_app(typed)
    take_app(app)
    take_task(number)
    take_task(text)
    take_task(import_rows)
    take_task(index)
    take_result(number.delay(1))
    eager: EagerResult[str] = number.apply((1,))
    assert_type(eager.get(), str)
    chain(number.s(1), text.s()).apply_async()
    (number.s(1) | text.s()).delay()
    group(number.s(count) for count in range(3)).apply_async()
    number.apply_async((3,), link=text.s(), link_error=[text.s()])
    number.delay("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    take_result(text.delay("a"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
