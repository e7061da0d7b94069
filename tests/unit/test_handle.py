"""What a handle refuses, before anything is read or sent: what people give by mistake."""

# mypy: allow-untyped-decorators

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.signals import before_task_publish

from taskora_celery import JobHandle, cancel_job, server_sent_events
from taskora_celery.store.memory import MemoryStore
from tests.support.eager_apps import eager_app
from tests.support.traced import traced_app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery

SOME_ID = UUID("af1dff0b-db8d-40f1-a314-acdb86a3a88a")


@pytest.fixture
def app() -> Iterator[Celery]:
    with traced_app(MemoryStore(), task_default_queue="of nobody") as app:
        yield app


@pytest.fixture
def handle(app: Celery) -> JobHandle:
    return JobHandle("job-1", app=app)


@pytest.mark.parametrize(
    ("job_id", "way"), [(7, r"str\(id\)"), (("a", "b"), r"str\(id\)"), (True, r"str\(id\)"), (b"job-1", r"id\.decode\(\)")]
)
def test_an_id_is_a_text(app: Celery, job_id: Any, way: str) -> None:
    """J1: Celery takes anything, reads another job's record or none, and fails when the handle is deleted."""
    with pytest.raises(TypeError, match=rf"is not a job's id, which is a text: pass {way}"):
        JobHandle(job_id, app=app)
    with pytest.raises(TypeError, match=rf"pass {way}"):
        cancel_job(app, job_id)


def test_an_id_comes_after_the_app(app: Celery) -> None:
    """G1: in `cancel_job`; the other way round, the error says which is which."""
    as_they_are: Any = app
    with pytest.raises(TypeError, match=r"<Celery traced.*> is not a job's id"):
        cancel_job("job-1", as_they_are)


def test_a_handle_is_not_an_id(app: Celery, handle: JobHandle) -> None:
    """J1: a JSON field of the one who sent the job, say, holds the other."""
    with pytest.raises(TypeError, match="is not a job's id"):
        JobHandle(handle, app=app)


def test_an_id_is_not_a_handle() -> None:
    """J2: what the route has is an id; the stream needs to know whose."""
    as_it_is: Any = "job-1"
    with pytest.raises(TypeError, match=r"'job-1' is no handle: give JobHandle\(id, app=app\)"):
        server_sent_events(as_it_is)


def test_an_id_may_be_a_uuid(app: Celery) -> None:
    """A1: Celery sends a task under one, and so do we; its record is that of its text."""

    @app.task
    def work() -> None:
        """Do nothing."""

    as_it_is: Any = SOME_ID
    handle = work.apply_async(task_id=as_it_is)
    assert (handle.id, handle.cancel("no").outcome) == (SOME_ID, "cancelled")
    assert [JobHandle(job_id, app=app).record().state for job_id in (as_it_is, str(SOME_ID))] == ["REVOKED", "REVOKED"]


def test_nothing_is_sent_under_what_is_no_id(app: Celery) -> None:
    """A2: the caller is told before, not when the message is under way."""

    @app.task
    def work() -> None:
        """Do nothing."""

    sent: list[Any] = []

    def note(sender: Any, **_: Any) -> None:
        sent.append(sender)

    before_task_publish.connect(note, sender=work.name)
    with pytest.raises(TypeError, match="7 is not a job's id"):
        work.apply_async(task_id=7)
    assert not sent
    work.apply_async(task_id="7")
    assert sent


def test_an_app_is_given_by_its_name(app: Celery) -> None:
    """J1: the second argument is Celery's `backend`; the handle would read with another app, and fail when it is deleted."""
    with pytest.raises(TypeError, match=r"is an app, not a result backend: pass it by its name, JobHandle\(id, app=app\)"):
        JobHandle("job-1", app)


@pytest.mark.parametrize("name", ["attempt", "after", "limit"])
def test_a_filter_that_is_a_text_is_refused(handle: JobHandle, name: str) -> None:
    """J1: as it comes from a query string; compared with numbers it would let nothing through, or fail somewhere else."""
    with pytest.raises(TypeError, match=f"{name}='1' is not a whole number"):
        handle.get_logs(**{name: "1"})  # type: ignore[arg-type]


def test_a_position_that_is_a_text_is_refused_at_the_call(app: Celery, handle: JobHandle) -> None:
    """J2: and not when the first event is waited for; of a job that has run in the call, too."""
    eager = eager_app()

    @eager.task
    def work() -> None:
        """Do nothing."""

    follows: list[Callable[..., object]] = [handle.events, handle.follow_logs, handle.aevents, work.delay().events]
    for follow in follows:
        with pytest.raises(TypeError, match="after='3' is not a whole number"):
            follow(after="3")


def test_a_result_is_awaited_for_a_timedelta(handle: JobHandle) -> None:
    """J2: as all durations; what is none is refused in one line."""
    with pytest.raises(CeleryTimeoutError):
        asyncio.run(handle.aget(timeout=timedelta(milliseconds=60)))
    with pytest.raises(TypeError, match="timeout='5' is not a duration"):
        asyncio.run(handle.aget(timeout="5"))  # type: ignore[arg-type]


def test_a_time_that_is_over_is_a_timeout_and_no_error(handle: JobHandle) -> None:
    """J2: who computes what is left of a time may be late."""
    with pytest.raises(CeleryTimeoutError):
        asyncio.run(handle.aget(timeout=-1))
