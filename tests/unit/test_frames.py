"""What a handler's exception shows of the lines that it passed (rule A6)."""

# mypy: allow-untyped-decorators

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

import pytest

from taskora_celery import Context
from taskora_celery.frames import from_handler
from taskora_celery.store.memory import MemoryStore
from tests.support.traced import traced, traced_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery


@pytest.fixture
def app() -> Iterator[Celery]:
    with traced_app(MemoryStore()) as app:
        yield app


def shown(exc: BaseException) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(exc.__traceback__)]


def test_a_traceback_leads_from_celerys_tracer_to_the_handler(app: Celery) -> None:
    """A6: as plain Celery's does; it is also sent to the worker's parent, where each of our functions would double its size."""

    def store_row() -> None:
        raise ValueError("no such row")

    @app.task(name="frames.fails")
    def fails(ctx: Context) -> None:
        ctx.log.info("storing")
        store_row()

    state, exc = traced(fails)
    assert (state, str(exc)) == ("FAILURE", "no such row")
    assert shown(exc) == ["trace_task", "run", "fails", "store_row"]


def test_so_does_that_of_a_coroutine(app: Celery) -> None:
    """A6, M1: the loop's lines are nobody's either."""

    @app.task(name="frames.fails_on_loop")
    async def fails_on_loop(ctx: Context) -> None:
        raise ValueError(ctx.name)

    _, exc = traced(fails_on_loop)
    assert shown(exc) == ["trace_task", "run", "fails_on_loop"]


def test_that_of_a_retry_leads_to_celerys_own(app: Celery) -> None:
    """A6, I6: what Celery raises is Celery's."""

    @app.task(name="frames.retries", max_retries=1)
    def retries(ctx: Context) -> None:
        raise ctx.retry(delay=60, reason="busy")

    state, exc = traced(retries)
    assert state == "RETRY"
    assert shown(exc) == ["trace_task", "run", "retry"]


def test_a_cause_keeps_its_own(app: Celery) -> None:
    """A6: an exception that is raised again is the same one, with its cause."""

    @app.task(name="frames.chains")
    def chains(ctx: Context) -> None:
        try:
            int(ctx.name)
        except ValueError as exc:
            raise LookupError("no number") from exc

    _, exc = traced(chains)
    assert isinstance(exc.__cause__, ValueError)
    assert exc.__context__ is exc.__cause__
    assert shown(exc.__cause__) == ["chains"]


def test_what_is_all_ours_is_shown_whole() -> None:
    """A fault of this library must be found: nothing of it is hidden where no handler is to be seen."""
    with pytest.raises(TypeError) as raised:
        Context("job-1", "work").checkpoint(object())
    assert raised.tb.tb_next is not None
    own = raised.tb.tb_next  # behind this test's
    assert from_handler(own) is own
    assert from_handler(None) is None
