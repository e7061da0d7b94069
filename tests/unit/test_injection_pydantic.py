"""Handlers whose arguments and results are pydantic models."""

# mypy: allow-untyped-decorators

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import Task
from pydantic import BaseModel

from taskora_celery import Context, current_context
from tests.support.eager_apps import defined, eager_app, tasks_of_their_own

if TYPE_CHECKING:
    from collections.abc import Iterator


class Order(BaseModel):
    """What a caller passes."""

    number: int


class Receipt(BaseModel):
    """What a handler returns."""

    number: int
    total: float


@pytest.fixture(autouse=True)
def _own_tasks() -> Iterator[None]:
    with tasks_of_their_own():
        yield


#: Newer versions of Celery send a model in its plain form; before, it was for the caller to dump it.
CALLERS_PASS_MODELS = hasattr(Task, "_dump_pydantic_arguments")
SIGNATURES = [
    "def f(order: Order, ctx: Context, count: int = 1) -> Receipt:",
    "def f(ctx: Context, order: Order, count: int = 1) -> Receipt:",
    "def f(order: Order, count: int = 1, *, ctx) -> Receipt:",
    "def f(ctx: Context, /, order: Order, count: int = 1) -> Receipt:",
    "def f(order: Order, count: int = 1, ctx: Context = None) -> Receipt:",
]
BODY = """
    assert isinstance(order, Order) and ctx is current_context()
    return Receipt(number=order.number, total=count)
"""


@pytest.mark.parametrize("signature", SIGNATURES)
@pytest.mark.parametrize("bind", [False, True], ids=["plain", "bound"])
def test_models_go_in_and_come_out(signature: str, *, bind: bool) -> None:
    """A4: a caller passes a model or its plain form, by position or by name; the context is in nobody's way."""
    if bind:
        signature = signature.replace("f(", "f(self, ")
    handler = defined(signature + BODY, Order=Order, Receipt=Receipt, Context=Context, current_context=current_context)
    task = eager_app().task(pydantic=True, bind=bind)(handler)
    for order in (Order(number=7), {"number": 7}) if CALLERS_PASS_MODELS else ({"number": 7},):
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
            ((order,), {}),
            ((), {"order": order}),
            ((order, 2), {}),
            ((order,), {"count": 2}),
        ]
        for args, kwargs in calls:
            found = task.delay(*args, **kwargs).get()
            assert found == {"number": 7, "total": 2.0 if len(args) + len(kwargs) == 2 else 1.0}
            assert task(*args, **kwargs) == found


@pytest.mark.skipif(not CALLERS_PASS_MODELS, reason="this version of Celery does not dump models")
@pytest.mark.parametrize("signature", SIGNATURES)
def test_models_are_sent_in_their_plain_form(signature: str) -> None:
    """A4: the message holds what the worker validates, and no trace of the context."""
    handler = defined(signature + BODY, Order=Order, Receipt=Receipt, Context=Context, current_context=current_context)
    dump = eager_app().task(pydantic=True)(handler)._dump_pydantic_arguments
    order, plain = Order(number=7), {"number": 7}
    assert dump((order,), {}) == ((plain,), {})
    assert dump([order, 2], {}) == ((plain, 2), {})
    assert dump((), {"order": order, "count": 2}) == ((), {"order": plain, "count": 2})
    assert dump(None, {"order": order}) == ((), {"order": plain})
    assert dump((order,), None) == ((plain,), {})
    args, kwargs = (1,), {"count": 2}
    found = dump(args, kwargs)
    assert found[0] is args
    assert found[1] is kwargs
    assert dump(7, None) == (7, None)


def test_wrong_arguments_fail_as_they_do_without_a_context() -> None:
    """A2, A6: Celery does not check the arguments of pydantic tasks at the caller, but in the job, in pydantic's words."""
    names = {"Order": Order, "Receipt": Receipt, "Context": Context}
    ours = eager_app().task(pydantic=True, shared=False)(defined(f"{SIGNATURES[0]} ...", **names))
    plain = eager_app(Task).task(pydantic=True, shared=False)(defined("def f(order: Order, count: int = 1): ...", **names))
    for args, kwargs in [((), {}), ((1,), {"other": 2})]:
        results = [task.delay(*args, **kwargs).result for task in (plain, ours)]
        assert type(results[0]) is type(results[1]) is TypeError
        assert str(results[0]) == str(results[1])


def test_a_model_that_does_not_fit_fails_the_job() -> None:
    """A4: validation happens in the job, as under plain Celery."""
    names = {"Order": Order, "Receipt": Receipt, "Context": Context}
    task = eager_app().task(pydantic=True)(defined(f"{SIGNATURES[0]} ...", **names))
    handle = task.delay({"number": "seven"})
    assert handle.state == "FAILURE"
    assert type(handle.result).__name__ == "ValidationError"
