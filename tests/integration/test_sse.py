"""Server-Sent Events, end to end: a real ASGI application under uvicorn, and a client that reads, leaves and comes back."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, states
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from taskora_celery import JobHandle, StoreNotConfiguredError, server_sent_events
from taskora_celery.records import Outcome
from taskora_celery.runtime import Runtime
from taskora_celery.sse import EVENT_STREAM
from taskora_celery.task import ContextTask
from tests.support.browser import Frame, Reading, read, served, shown
from tests.support.executions import ScriptedExecution
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from taskora_celery.store.protocol import JobStore


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    app = Celery("shop", broker="memory://", backend=redis_url, set_as_current=False, task_cls=ContextTask)
    yield app
    Runtime.forget(app)


@pytest.fixture
def store(app: Celery) -> JobStore:
    return Runtime.of(app).readable()


@pytest.fixture
def url(app: Celery) -> Iterator[str]:
    """The address of a server, whose path is the id of a job; the query may set `heartbeat` and `timeout`."""

    async def events(request: Request) -> Response:
        options: Any = {name: float(value) for name, value in request.query_params.items()}
        handle = JobHandle(request.path_params["job_id"], app=app)
        frames = server_sent_events(handle, after=request.headers.get("last-event-id"), **options)
        return StreamingResponse(frames, headers=EVENT_STREAM)

    with served(Starlette(routes=[Route("/{job_id}", events)])) as address:
        yield address


def test_a_browser_is_told_all_and_the_outcome(url: str, store: JobStore) -> None:
    """J2: progress, log, state, and an end that is one; line breaks are escaped."""
    execution = ScriptedExecution(store)
    with read(f"{url}/job-1") as reading:
        assert reading.response.headers["content-type"].startswith("text/event-stream")
        assert (reading.response.headers["cache-control"], reading.response.headers["x-accel-buffering"]) == ("no-cache", "no")
        first = reading.next()
        assert first is not None
        assert (first.name, first.data["state"], first.data["worker"]) == ("state", "STARTED", "w1@host")
        execution.logs("one\ntwo\r\nthree\u2028four\x85five")
        assert shown([reading.next()]) == [("log", "one\ntwo\r\nthree\u2028four\x85five")]  # type: ignore[list-item]
        execution.progress({"percent": 50})
        assert shown([reading.next()]) == [("progress", {"percent": 50})]  # type: ignore[list-item]
        execution.end(Outcome.FAILURE, "no", "ValueError")
        (last,) = reading.rest()
    assert (last.name, last.data["state"], last.data["reason"], last.data["error"]) == ("outcome", "FAILURE", "no", "ValueError")


@pytest.mark.parametrize("leave_after", range(1, 9))
def test_a_client_that_comes_back_misses_nothing_and_is_told_nothing_twice(url: str, store: JobStore, leave_after: int) -> None:
    """J2: by the `Last-Event-ID` that a browser sends, wherever it left; and what came meanwhile."""
    first = ScriptedExecution(store)
    first.logs("a", "b")
    first.progress(10)
    frames: list[Frame] = []
    with read(f"{url}/job-1") as reading:
        _take(reading, frames, min(leave_after, 4))
        if leave_after > 4:
            first.logs("c")
            first.end_in_retry()
            second = ScriptedExecution(store, attempt=2)
            second.logs("d")
            _take(reading, frames, leave_after - 4)
    if leave_after <= 4:
        first.logs("c")
        first.end_in_retry()
        second = ScriptedExecution(store, attempt=2)
        second.logs("d")
    second.progress(20)
    second.logs("e")
    second.end()
    with read(f"{url}/job-1", frames[-1].id) as reading:
        frames += reading.rest()
    told = shown(frames)
    assert [what for kind, what in told if kind == "log"] == ["a", "b", "c", "d", "e"]
    assert [what for kind, what in told if kind == "state"] in (
        ["STARTED", "RETRY", "STARTED"],
        ["STARTED", "STARTED", "RETRY"],  # it left before: the first event says where the job is
    )
    assert [what for kind, what in told if kind == "progress"] in ([10, 20], [20])
    assert [what for kind, what in told if kind == "outcome"] == ["SUCCESS"]
    assert len({frame.id for frame in frames}) == len(frames) - 1, "only the outcome stands where the last of the others does"


def _take(reading: Reading, frames: list[Frame], number: int) -> None:
    for _ in range(number):
        frame = reading.next()
        assert frame is not None
        frames.append(frame)


def test_who_comes_back_behind_the_end_is_told_the_outcome_again(url: str, store: JobStore) -> None:
    """J2: a client that did not close its source; it is told nothing else."""
    execution = ScriptedExecution(store)
    execution.logs("a")
    execution.progress(5)
    execution.end()
    with read(f"{url}/job-1") as reading:
        frames = reading.rest()
    with read(f"{url}/job-1", frames[-1].id) as reading:
        assert shown(reading.rest()) == [("outcome", "SUCCESS")]


@pytest.mark.parametrize("last_id", ["", "junk", "1_2", "9" * 40, "1_1.1_\x7f", "0; drop", "-"])
def test_an_id_that_is_none_of_ours_counts_as_none(url: str, store: JobStore, last_id: str) -> None:
    """J2: it comes from outside, and may be anything."""
    execution = ScriptedExecution(store)
    execution.logs("a")
    execution.end()
    with read(f"{url}/job-1", last_id) as reading:
        assert shown(reading.rest()) == [("state", "STARTED"), ("log", "a"), ("outcome", "SUCCESS")]


def test_silence_is_filled_with_comments(url: str, store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """J2: so that no proxy closes the connection; one at once where there is nothing to tell yet."""
    monkeypatch.setattr("taskora_celery.reading.LOOK_EVERY", 0.05)
    with read(f"{url}/job-1?heartbeat=0.1") as reading:
        for line in reading.lines:
            reading.comments += line == ":"
            if reading.comments == 3:
                execution = ScriptedExecution(store)
                execution.end()
                break
        assert shown(reading.rest()) == [("state", "STARTED"), ("outcome", "SUCCESS")]


def test_a_job_of_which_nothing_is_heard_ends_the_stream_without_an_outcome(url: str) -> None:
    """J4: never a hang; the client comes back by itself."""
    with read(f"{url}/no-such-job?timeout=0.2") as reading:
        assert reading.rest() == []


def test_an_outcome_that_only_the_result_backend_knows_is_told(
    url: str, store: JobStore, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """J4: a killed process writes no end into the record."""
    monkeypatch.setattr("taskora_celery.reading.LOOK_EVERY", 0.05)
    monkeypatch.setattr("taskora_celery.reading.END_GRACE", 0.05)
    ScriptedExecution(store).logs("last words")
    app.backend.store_result("job-1", ValueError("killed"), states.FAILURE)
    with read(f"{url}/job-1") as reading:
        assert shown(reading.rest()) == [("state", "STARTED"), ("log", "last words"), ("outcome", "FAILURE")]


def test_a_client_that_leaves_releases_its_subscription(
    url: str, store: JobStore, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """J2: the connection for announcements is closed with the last who listens."""
    monkeypatch.setattr("taskora_celery.reading.LOOK_EVERY", 0.05)
    ScriptedExecution(store)
    channel = "taskora:{job-1}:changed"
    with contextlib.ExitStack() as clients:
        for _ in range(5):
            reading = clients.enter_context(read(f"{url}/job-1?heartbeat=0.05"))
            assert reading.next() is not None
        assert redis_client.pubsub_numsub(channel) == [(channel.encode(), 1)]
    wait_until(lambda: redis_client.pubsub_numsub(channel) == [(channel.encode(), 0)], "the release")


def test_a_server_without_a_store_says_so_before_it_answers() -> None:
    """L2: as an error, not as a stream that breaks off."""
    app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False, task_cls=ContextTask)

    async def run() -> None:
        with pytest.raises(StoreNotConfiguredError):
            server_sent_events(JobHandle("job-1", app=app))

    asyncio.run(run())
    Runtime.forget(app)
