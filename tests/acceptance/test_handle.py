"""The handle, against jobs that run in real workers."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from celery.result import AsyncResult
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from taskora_celery import Event, JobHandle, JobNotFoundError, server_sent_events
from taskora_celery.sse import EVENT_STREAM
from tests.support import gates, jobs, reporting_jobs
from tests.support.browser import read, served, shown
from tests.support.recorded import recorded
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from celery import Celery

    from tests.support.worker_fixtures import SharedWorker

pytestmark = pytest.mark.usefixtures("shared_worker")


def test_a_handle_is_an_async_result(jobs_app: Celery) -> None:
    """J1: delay, apply_async and task.AsyncResult give one, and Celery's own reading works on it."""
    handle = jobs.add.delay(1, 2)
    assert isinstance(handle, JobHandle)
    assert isinstance(handle, AsyncResult)
    assert isinstance(jobs.add.AsyncResult(handle.id), JobHandle)
    assert handle.get(timeout=20) == 3
    assert (handle.ready(), handle.successful(), handle.state, handle.status) == (True, True, "SUCCESS", "SUCCESS")
    assert handle.as_tuple()[0][0] == handle.id


def test_another_process_can_attach_to_a_running_job(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """J1, J2: ``JobHandle(id, app=app)`` reads progress, logs, record and history while the job runs."""
    sent = reporting_jobs.log_over_retry.delay()
    gates.wait_at(sent.id)
    handle = JobHandle(sent.id, app=jobs_app)
    wait_until(lambda: len(handle.get_logs()) == 1, "the first entry", timeout=10)
    status = handle.status()
    assert (status.id, status.name, status.state) == (sent.id, "tests.support.reporting_jobs.log_over_retry", "STARTED")
    assert (status.attempt, status.delivery, status.worker) == (1, 1, shared_worker.hostname)
    assert status.created_ms <= status.started_ms <= status.alive_ms
    assert status.ended_ms is None
    (now,) = handle.history()
    assert (now.number, now.outcome, now.duration) == (1, None, None)
    gates.open_gate(sent.id)
    gates.wait_at(sent.id)
    gates.open_gate(sent.id)
    assert handle.get(timeout=20) == "done"
    assert [(record.number, record.outcome) for record in handle.history()] == [(1, "RETRY"), (2, "SUCCESS")]


def test_events_tell_all_in_one_order_and_go_on_where_one_left_off(jobs_app: Celery) -> None:
    """J2: state, progress and log in one stream; with ``after=`` it resumes without gap or repeat."""
    handle = reporting_jobs.report_and_return.delay(7)
    assert handle.get(timeout=20) == 7
    events = list(handle.events())
    assert [event.kind for event in events] == ["state", "log", "progress", "state"]
    assert [event.data["state"] for event in events if event.kind == "state"] == ["STARTED", "SUCCESS"]

    handle = reporting_jobs.log_over_retry.delay()
    gates.open_gate(handle.id)
    gates.open_gate(handle.id)
    handle.get(timeout=20)
    whole = [event for event in handle.events() if event.kind == "log"]
    for position, event in enumerate(whole):
        assert [later for later in handle.events(after=event.seq) if later.kind == "log"] == whole[position + 1 :]
    retries = [event for event in handle.events() if event.kind == "state" and event.data["state"] == "RETRY"]
    assert [event.data["reason"] for event in retries] == ["second half"]


def test_a_follower_may_leave_and_come_back(jobs_app: Celery) -> None:
    """J2, F5: stopped in the middle of a running job, resumed with the seq of the last entry."""
    handle = reporting_jobs.log_over_retry.delay()
    gates.wait_at(handle.id)
    first = next(iter(handle.follow_logs()))
    gates.open_gate(handle.id)
    gates.open_gate(handle.id)
    rest = list(handle.follow_logs(after=first.seq))
    assert [first, *rest] == handle.get_logs()
    assert [entry.message for entry in rest] == ["end", "begin", "end"]
    handle.get(timeout=20)


def test_several_threads_read_one_handle_at_once(jobs_app: Celery) -> None:
    """J3: reads have connections of their own, not the result backend's consumer."""
    handle = reporting_jobs.log_over_retry.delay()
    gates.wait_at(handle.id)
    wait_until(handle.get_logs, "the first entry", timeout=10)
    barrier = threading.Barrier(8)

    def read(_: int) -> tuple[int, str, int]:
        barrier.wait(20)
        for _n in range(20):
            handle.get_progress()
            handle.get_logs()
            handle.record()
            handle.history()
        return len(handle.get_logs()), handle.record().state, len(list(handle.follow_logs(timeout=20)))

    with ThreadPoolExecutor(8) as executor:
        reads = executor.map(read, range(8))
        gates.open_gate(handle.id)
        gates.open_gate(handle.id)
        assert {follow for _, _, follow in reads} == {4}
    assert handle.get(timeout=20) == "done"


def test_an_event_loop_reads_without_blocking(jobs_app: Celery) -> None:
    """J2: the async twins, while the job runs; a ticking coroutine on the same loop is never held up."""

    async def read(handle: Any) -> None:
        events: list[Event] = []
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1
                if ticks > 1:
                    ticked.set()

        async def follow() -> None:
            async for event in handle.aevents(timeout=20):
                events.append(event)  # noqa: PERF401

        ticking, following = asyncio.create_task(tick()), asyncio.create_task(follow())
        logs = [entry async for entry in handle.afollow_logs(timeout=20)]
        assert await handle.aget(timeout=20) == "done"
        await following
        ticking.cancel()
        assert ticks > 1
        assert [entry.message for entry in logs] == ["begin", "end", "begin", "end"]
        assert [event.data for event in events if event.kind == "log"] == logs == await handle.aget_logs()
        assert await handle.aget_logs(attempt=2) == logs[2:]
        assert await handle.aget_progress() is None
        assert (await handle.astatus()).attempt == 2
        assert [record.outcome for record in await handle.ahistory()] == ["RETRY", "SUCCESS"]

    handle = reporting_jobs.log_over_retry.delay()
    ticked = threading.Event()  # the job goes on only when the loop has gone round while it was read
    opener = threading.Thread(target=_open_twice, args=(handle.id, ticked))
    opener.start()
    asyncio.run(read(handle))
    opener.join()


def _open_twice(job_id: str, ticked: threading.Event) -> None:
    for _ in range(2):
        gates.wait_at(job_id)
        assert ticked.wait(20)
        gates.open_gate(job_id)


def test_a_browser_follows_a_job_that_it_leaves_and_comes_back_to(jobs_app: Celery) -> None:
    """J2: Server-Sent Events of a real job, over a retry, resumed by the last id."""

    async def events(request: Request) -> Response:
        job = reporting_jobs.log_over_retry.AsyncResult(request.path_params["job_id"])
        return StreamingResponse(server_sent_events(job, after=request.headers.get("last-event-id")), headers=EVENT_STREAM)

    with served(Starlette(routes=[Route("/{job_id}", events)])) as url:
        handle = reporting_jobs.log_over_retry.delay()
        with read(f"{url}/{handle.id}") as reading:
            frames = [reading.next(), reading.next()]
        gates.wait_at(handle.id)
        gates.open_gate(handle.id)
        gates.wait_at(handle.id)
        assert frames[-1] is not None
        with read(f"{url}/{handle.id}", frames[-1].id) as reading:
            gates.open_gate(handle.id)
            frames += reading.rest()
    told = shown([frame for frame in frames if frame is not None])
    assert [what for name, what in told if name == "log"] == ["begin", "end", "begin", "end"]
    assert sorted(what for name, what in told if name == "state") == ["RETRY", "STARTED", "STARTED"]
    assert told[-1] == ("outcome", "SUCCESS")


def test_an_unknown_job_is_said_to_be_unknown(jobs_app: Celery) -> None:
    """J4: None, an empty list, or JobNotFoundError; never a hang."""
    handle = JobHandle("no-such-job", app=jobs_app)
    assert (handle.get_progress(), handle.get_logs(), list(handle.history())) == (None, [], [])
    with pytest.raises(JobNotFoundError, match="no-such-job"):
        handle.record()
    with pytest.raises(JobNotFoundError):
        handle.status()
    with pytest.raises(JobNotFoundError):
        list(handle.follow_logs())
    with pytest.raises(TimeoutError):
        list(handle.events(timeout=0.3))

    async def read() -> None:
        assert (await handle.aget_progress(), await handle.aget_logs()) == (None, [])
        with pytest.raises(JobNotFoundError):
            await handle.astatus()
        with pytest.raises(JobNotFoundError):
            [entry async for entry in handle.afollow_logs()]

    asyncio.run(read())


def test_a_record_that_expired_reads_as_unknown(jobs_app: Celery) -> None:
    """J4, L3: every key of a job has a TTL; once they are gone the job is unknown."""
    handle = reporting_jobs.keep_over_retry.delay()
    gates.open_gate(handle.id)
    handle.get(timeout=20)
    recorded(handle)
    keys = [f"taskora:{{{handle.id}}}:{part}" for part in ("job", "journal", "attempts")]
    with gates.gate_client() as client:
        for key in keys:
            assert 0 < int(client.ttl(key)) <= 600, key
            client.pexpire(key, 1)
        wait_until(lambda: not client.exists(*keys), "the expiry", timeout=5)
    assert handle.get_progress() is None
    with pytest.raises(JobNotFoundError):
        handle.record()
