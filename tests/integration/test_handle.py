"""A job seen from outside: reads that need no worker, written to the store directly."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, states
from celery.result import AsyncResult

from taskora_celery.errors import JobNotFoundError, StoreNotConfiguredError, StoreUnavailableError
from taskora_celery.handle import JobHandle
from taskora_celery.records import Event, LogEntry, Outcome
from taskora_celery.runtime import Runtime
from taskora_celery.sse import server_sent_events
from taskora_celery.store.protocol import JobStore, Reply, Report
from taskora_celery.task import ContextTask
from tests.support.eager_apps import tasks_of_their_own
from tests.support.executions import NOW_MS, ScriptedExecution
from tests.support.redis_server import free_port
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from tests.support.redis_topologies import RedisCluster, RedisSentinel, TlsRedisServer


@pytest.fixture
def make_app() -> Iterator[Callable[..., Celery]]:
    apps: list[Celery] = []

    def make(url: str, **conf: Any) -> Celery:
        app = Celery("shop", broker="memory://", backend=url, set_as_current=False, task_cls=ContextTask)
        app.conf.update(conf)
        apps.append(app)
        return app

    with tasks_of_their_own():
        yield make
    for app in apps:
        Runtime.forget(app)


@pytest.fixture
def app(make_app: Callable[..., Celery], redis_url: str) -> Celery:
    return make_app(redis_url)


@pytest.fixture
def store(app: Celery) -> JobStore:
    return Runtime.of(app).readable()


@pytest.fixture
def handle(app: Celery) -> JobHandle:
    return JobHandle("job-1", app=app)


def shown(event: Event) -> tuple[str, Any]:
    if event.kind == "log":
        return "log", event.data.message
    return event.kind, event.data["state"] if event.kind == "state" else event.data


class Following:
    """Somebody who follows a job in a thread of their own."""

    def __init__(self, events: Iterator[Any]) -> None:
        self.seen: list[Any] = []
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(events,), daemon=True)
        self.thread.start()

    def _run(self, events: Iterator[Any]) -> None:
        try:
            for event in events:
                self.seen.append(event)
        except BaseException as exc:
            self.error = exc

    def ended(self) -> list[Any]:
        self.thread.join(20)
        assert not self.thread.is_alive(), f"still following after {self.seen}"
        assert self.error is None
        return self.seen


# --- reads ---------------------------------------------------------------------------------------------------------------


def test_an_unknown_job_reads_as_nothing(handle: JobHandle) -> None:
    """J4: None, `[]`, or an error where a value cannot say it; never a hang."""
    assert (handle.get_progress(), handle.get_logs(), list(handle.history())) == (None, [], [])
    for read in (handle.status, handle.record, lambda: list(handle.events()), lambda: list(handle.follow_logs())):
        with pytest.raises(JobNotFoundError, match="job-1"):
            read()


def test_a_job_is_read_while_it_runs(handle: JobHandle, store: JobStore) -> None:
    """J2: progress, logs, history, status."""
    execution = ScriptedExecution(store)
    execution.progress({"rows": 3})
    execution.logs("a", "b")
    assert handle.get_progress() == {"rows": 3}
    assert [entry.message for entry in handle.get_logs()] == ["a", "b"]
    status = handle.status()
    assert (status.state, status.progress, status.attempt, status.worker, status.alive_ms) == (
        "STARTED",
        {"rows": 3},
        1,
        "w1@host",
        NOW_MS,
    )
    assert [record.outcome for record in handle.history()] == [None]


def test_status_still_is_celerys_state_name(handle: JobHandle, app: Celery) -> None:
    """J1: everything that Celery does with an `AsyncResult` still works."""
    app.backend.store_result("job-1", 42, states.SUCCESS)
    assert handle.status == handle.state == "SUCCESS"
    assert handle.get(timeout=5) == 42


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"attempt": 1}, ["a", "b"]), ({"attempt": 2}, ["c"]), ({"after": 0}, ["b", "c"]), ({"limit": 1}, ["c"]),
        ({"level": "info"}, ["a", "b", "c"]), ({"level": "error"}, []),
    ],
)  # fmt: skip
def test_logs_are_filtered(handle: JobHandle, store: JobStore, filters: dict[str, Any], expected: list[str]) -> None:
    """F2: by level, attempt, position and number."""
    first = ScriptedExecution(store)
    first.logs("a", "b")
    first.end_in_retry()
    ScriptedExecution(store, attempt=2).logs("c")
    assert [entry.message for entry in handle.get_logs(**filters)] == expected


def test_any_handle_of_the_app_reaches_the_job(app: Celery, store: JobStore) -> None:
    """J1: re-attached by its id, or made by the task."""
    ScriptedExecution(store).progress(7)
    task = app.task(work, name="shop.work")
    assert JobHandle("job-1", app=app).get_progress() == task.AsyncResult("job-1").get_progress() == 7


def work() -> None:
    """Do nothing."""


def test_reads_use_neither_the_backend_nor_its_shared_consumer(
    app: Celery, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """J3: the shared pub/sub consumer is not made for several threads."""
    execution = ScriptedExecution(store)
    execution.logs("a")
    execution.progress(5)
    handle = JobHandle("job-1", app=app)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the result backend was asked")

    for name in ("get_task_meta", "get_state", "get_result", "wait_for_pending", "add_pending_result"):
        monkeypatch.setattr(app.backend, name, refuse)
    monkeypatch.setattr(app.backend.result_consumer, "start", refuse)
    assert (handle.get_progress(), [entry.message for entry in handle.get_logs()]) == (5, ["a"])
    assert ([run.outcome for run in handle.history()], handle.record().state) == ([None], "STARTED")


def test_eight_threads_may_read_at_once(handle: JobHandle, store: JobStore) -> None:
    """J3: through one handle."""
    execution = ScriptedExecution(store)
    execution.logs(*[f"{n}" for n in range(100)])
    execution.progress(5)
    start = threading.Barrier(8)
    answers: list[Any] = []

    def read() -> None:
        start.wait()
        answers.extend(
            (handle.get_progress(), len(handle.get_logs()), handle.record().state, len(handle.history())) for _ in range(20)
        )

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [(5, 100, "STARTED", 1)] * 160


def test_reading_ten_thousand_entries_gives_all(handle: JobHandle, store: JobStore) -> None:
    """F2: up to the limit that is kept by default."""
    execution = ScriptedExecution(store)
    for n in range(20):
        execution.logs(*[f"{n}" for _ in range(500)])
    assert [entry.seq for entry in handle.get_logs()] == list(range(10_000))


# --- following -----------------------------------------------------------------------------------------------------------


def test_events_come_in_order_until_the_job_ends(handle: JobHandle, store: JobStore) -> None:
    """J2: progress, log and state in one stream."""
    execution = ScriptedExecution(store)
    execution.logs("past")
    following = Following(handle.events())
    wait_until(lambda: len(following.seen) == 2, "what had been there")
    execution.logs("a")
    wait_until(lambda: len(following.seen) == 3, "the entry")
    execution.progress(50)
    wait_until(lambda: len(following.seen) == 4, "the progress")
    execution.logs("b")
    execution.end(Outcome.FAILURE, "no")
    seen = following.ended()
    assert [shown(event) for event in seen] == [
        ("state", "STARTED"), ("log", "past"), ("log", "a"), ("progress", 50), ("log", "b"), ("state", "FAILURE"),
    ]  # fmt: skip
    assert [event.seq for event in seen] == sorted(event.seq for event in seen)


def test_following_logs_crosses_retries(handle: JobHandle, store: JobStore) -> None:
    """F5: past entries, then new ones, of all attempts."""
    first = ScriptedExecution(store)
    first.logs("a")
    following = Following(handle.follow_logs())
    wait_until(lambda: following.seen, "the past entry")
    first.end_in_retry()
    second = ScriptedExecution(store, attempt=2)
    second.logs("b")
    second.end()
    seen = following.ended()
    assert all(isinstance(entry, LogEntry) for entry in seen)
    assert [(entry.message, entry.attempt) for entry in seen] == [("a", 1), ("b", 2)]


def test_following_an_ended_job_gives_all_and_ends(handle: JobHandle, store: JobStore) -> None:
    """F5: no waiting for what will not come."""
    execution = ScriptedExecution(store)
    execution.logs("a", "b")
    execution.end()
    assert [entry.message for entry in handle.follow_logs()] == ["a", "b"]
    assert [entry.message for entry in handle.follow_logs(after=0)] == ["b"]


def test_a_new_entry_is_there_in_less_than_a_fifth_of_a_second(handle: JobHandle, store: JobStore) -> None:
    """F5: announced, not polled."""
    execution = ScriptedExecution(store)
    following = Following(handle.follow_logs())
    delays = []
    for n in range(11):
        sent = time.monotonic()
        execution.logs(f"{n}")
        wait_until(lambda n=n: len(following.seen) > n, "the entry", interval=0.001)  # type: ignore[misc]
        delays.append(time.monotonic() - sent)
    execution.end()
    following.ended()
    assert sorted(delays)[5] < 0.2


def test_following_resumes_after_its_connections_were_killed(
    handle: JobHandle, store: JobStore, redis_client: redis.Redis
) -> None:
    """F5: without gap or repeat."""
    execution = ScriptedExecution(store)
    following = Following(handle.follow_logs())
    for n in range(60):
        report = execution.made(f"{n}")
        wait_until(lambda report=report: _sent(execution, report), "the report to be written")  # type: ignore[misc]
        if n % 20 == 10:
            wait_until(lambda n=n: len(following.seen) >= n // 2, "some entries")  # type: ignore[misc]
            redis_client.client_kill_filter(_type="pubsub")
            redis_client.client_kill_filter(_type="normal", skipme=True)
    execution.end()
    assert [entry.message for entry in following.ended()] == [f"{n}" for n in range(60)]


def _sent(execution: ScriptedExecution, report: Report) -> bool:
    try:
        return execution.send(report) is Reply.ACCEPTED
    except StoreUnavailableError:  # its connection was killed, too; a repeat changes nothing more
        return False


def test_an_announcement_that_was_lost_delays_and_does_not_lose(
    handle: JobHandle, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F5: pub/sub promises nothing, so a follower also looks by itself."""
    monkeypatch.setattr("taskora_celery.reading.LOOK_EVERY", 0.05)
    execution = ScriptedExecution(store)
    keys = Runtime.of(handle.app).store.keys  # type: ignore[union-attr]
    monkeypatch.setattr(type(keys), "channel", lambda self, job_id: "elsewhere")
    following = Following(handle.follow_logs())
    monkeypatch.undo()
    monkeypatch.setattr("taskora_celery.reading.LOOK_EVERY", 0.05)
    execution.logs("unheard")
    execution.end()
    assert [entry.message for entry in following.ended()] == ["unheard"]


def test_a_job_that_this_handle_sent_may_wait_in_its_queue(app: Celery, store: JobStore) -> None:
    """J4: it has no record yet, and will have."""
    handle = app.task(work, name="shop.work").apply_async(task_id="job-1")
    following = Following(handle.events())
    execution = ScriptedExecution(store)
    execution.end()
    assert [shown(event) for event in following.ended()][-1] == ("state", "SUCCESS")


def test_nothing_heard_for_the_timeout_is_a_timeout_error(handle: JobHandle, store: JobStore) -> None:
    """J4: never a hang; the job is not stopped by it."""
    with pytest.raises(TimeoutError, match="job-1"):
        list(handle.follow_logs(timeout=0.1))
    ScriptedExecution(store)
    with pytest.raises(TimeoutError):
        list(handle.events(timeout=0.1))
    with pytest.raises(TimeoutError):
        list(handle.events(timeout=timedelta(seconds=0.1)))


@pytest.mark.parametrize(("timeout", "error"), [("5", TypeError), (True, TypeError), (-1, ValueError), (math.inf, ValueError)])
def test_what_is_no_duration_is_refused_at_the_call(handle: JobHandle, timeout: Any, error: type[Exception]) -> None:
    """J4: and not when the first event is waited for, in whatever arithmetic comes first."""
    for follow in (handle.events, handle.follow_logs, handle.aevents, partial(server_sent_events, handle)):
        with pytest.raises(error, match=r"timeout=.* is not a duration"):
            follow(timeout=timeout)
    with pytest.raises(error, match=r"heartbeat=.* is not a duration"):
        server_sent_events(handle, heartbeat=timeout)


def test_a_job_that_only_the_backend_saw_ending_ends_for_its_followers(
    handle: JobHandle, store: JobStore, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """J4: a killed process writes no end into the record; the worker's parent writes one to the backend."""
    monkeypatch.setattr("taskora_celery.reading.LOOK_EVERY", 0.05)
    monkeypatch.setattr("taskora_celery.reading.END_GRACE", 0.05)
    ScriptedExecution(store).logs("last words")
    app.backend.store_result("job-1", ValueError("killed"), states.FAILURE)
    assert [shown(event) for event in handle.events(timeout=20)] == [("state", "STARTED"), ("log", "last words")]


# --- without blocking a loop ---------------------------------------------------------------------------------------------


def test_the_asynchronous_twins_return_the_same(handle: JobHandle, store: JobStore) -> None:
    """J2: `aget_progress`, `aget_logs`, `astatus`, `ahistory`."""
    execution = ScriptedExecution(store)
    execution.progress([1])
    execution.logs("a", "b")

    async def read() -> tuple[Any, ...]:
        return await handle.aget_progress(), await handle.aget_logs(limit=1), await handle.astatus(), await handle.ahistory()

    assert asyncio.run(read()) == (handle.get_progress(), handle.get_logs(limit=1), handle.record(), handle.history())


def test_an_unknown_job_reads_as_nothing_in_a_loop_too(handle: JobHandle) -> None:
    """J4: the same answers."""

    async def read() -> None:
        assert (await handle.aget_progress(), await handle.aget_logs(), await handle.ahistory()) == (None, [], [])
        with pytest.raises(JobNotFoundError):
            await handle.astatus()
        with pytest.raises(JobNotFoundError):
            async for _ in handle.aevents():
                pass

    asyncio.run(read())


def test_following_in_a_loop_leaves_the_loop_free(handle: JobHandle, store: JobStore) -> None:
    """J2, F5: while it waits, other coroutines run; it resumes after a lost connection, too."""
    execution = ScriptedExecution(store)
    execution.logs("past")

    async def run() -> tuple[list[str], float]:
        seen: list[str] = []
        longest = 0.0

        async def follow() -> None:
            async for entry in handle.afollow_logs():
                seen.append(entry.message)  # noqa: PERF401 - looked at meanwhile

        task = asyncio.create_task(follow())
        for n in range(30):
            await asyncio.to_thread(execution.logs, f"{n}")
            if n == 15:
                await asyncio.to_thread(_kill_followers, store)
            before = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - before)
        await asyncio.to_thread(execution.end)
        await asyncio.wait_for(task, 20)
        return seen, longest

    seen, longest = asyncio.run(run())
    assert seen == ["past", *[f"{n}" for n in range(30)]]
    assert longest < 0.5


def _kill_followers(store: Any) -> None:
    store._read_client().client_kill_filter(_type="pubsub")


def test_a_result_is_awaited_without_blocking_the_loop(handle: JobHandle, app: Celery, store: JobStore) -> None:
    """J2: `aget`."""
    execution = ScriptedExecution(store)

    async def run() -> tuple[Any, int]:
        task = asyncio.create_task(handle.aget(timeout=20))
        turns = 0
        while not task.done():
            turns += 1
            if turns == 5:
                await asyncio.to_thread(app.backend.store_result, "job-1", 42, states.SUCCESS)
                await asyncio.to_thread(execution.end)
            await asyncio.sleep(0.005)
        return await task, turns

    result, turns = asyncio.run(run())
    assert result == 42
    assert turns >= 5


def test_an_awaited_result_that_does_not_come_is_celerys_timeout(handle: JobHandle, store: JobStore) -> None:
    """J4: in the words that `get` has for it."""
    from celery.exceptions import TimeoutError as CeleryTimeoutError

    ScriptedExecution(store)
    with pytest.raises(CeleryTimeoutError):
        asyncio.run(handle.aget(timeout=0.1))


def test_each_loop_has_its_own_connections(handle: JobHandle, store: JobStore) -> None:
    """J2: `asyncio.run` twice in one process is ordinary."""
    ScriptedExecution(store).progress(3)
    assert [asyncio.run(handle.aget_progress()) for _ in range(3)] == [3, 3, 3]


# --- where the store is --------------------------------------------------------------------------------------------------


def test_without_a_redis_reads_say_what_to_set(make_app: Callable[..., Celery]) -> None:
    """L2: the one way out is in the message."""
    handle = JobHandle("job-1", app=make_app("cache+memory://"))
    for read in (
        handle.get_progress,
        handle.get_logs,
        handle.history,
        handle.status,
        handle.record,
        lambda: list(handle.events()),
    ):
        with pytest.raises(StoreNotConfiguredError, match="taskora_redis_url"):
            read()

    async def aread() -> None:
        await handle.aget_progress()

    with pytest.raises(StoreNotConfiguredError):
        asyncio.run(aread())


def test_a_dead_redis_is_said_to_be_so_in_bounded_time(make_app: Callable[..., Celery]) -> None:
    """J4: with its address, without its password, and at once."""
    port = free_port()
    app = make_app("cache+memory://", taskora_redis_url=f"redis://:hunter2@127.0.0.1:{port}/0")
    handle = JobHandle("job-1", app=app)

    async def aread() -> None:
        await handle.aget_logs()

    started = time.monotonic()
    for read in (handle.get_progress, handle.get_logs, handle.history, handle.record, lambda: asyncio.run(aread())):
        with pytest.raises(StoreUnavailableError) as caught:
            read()
        assert f"127.0.0.1:{port}" in str(caught.value)
        assert "hunter2" not in str(caught.value)
    with pytest.raises(TimeoutError):
        list(handle.follow_logs(timeout=0.2))
    assert time.monotonic() - started < 5


def test_records_are_read_over_tls(make_app: Callable[..., Celery], tls_redis: TlsRedisServer) -> None:
    """L3: both sides of the handle."""
    _read_both_ways(make_app("cache+memory://", taskora_redis_url=tls_redis.url()))


def test_records_are_read_behind_a_sentinel(make_app: Callable[..., Celery], redis_sentinel: RedisSentinel) -> None:
    """L3: the master's name may stand in the URL."""
    url = f"{redis_sentinel.url()}?master_name={redis_sentinel.service_name}"
    _read_both_ways(make_app("cache+memory://", taskora_redis_url=url))


def test_records_are_read_from_a_cluster(make_app: Callable[..., Celery], redis_cluster: RedisCluster) -> None:
    """L3: keys of one job share a slot."""
    _read_both_ways(make_app("cache+memory://", taskora_redis_url=redis_cluster.url().replace("redis://", "redis+cluster://")))


def test_records_are_read_under_a_prefix(make_app: Callable[..., Celery], redis_url: str, redis_client: redis.Redis) -> None:
    """L3: that of the result backend's transport, and our own."""
    options = {"global_keyprefix": "tenant:"}
    _read_both_ways(make_app(redis_url, result_backend_transport_options=options, taskora_key_prefix="jobs.taskora:"))
    assert {key.startswith(b"tenant:jobs.taskora:") for key in redis_client.scan_iter()} == {True}


def _read_both_ways(app: Celery) -> None:
    execution = ScriptedExecution(Runtime.of(app).readable())
    execution.logs("a")
    execution.progress(5)
    execution.end()
    handle = JobHandle("job-1", app=app)
    assert (handle.get_progress(), [entry.message for entry in handle.follow_logs()]) == (5, ["a"])

    async def read() -> tuple[Any, list[str]]:
        return await handle.aget_progress(), [entry.message async for entry in handle.afollow_logs()]

    assert asyncio.run(read()) == (5, ["a"])


def test_a_plain_async_result_is_left_alone(app: Celery, store: JobStore) -> None:
    """A6: Celery's own class knows nothing of this."""
    ScriptedExecution(store)
    assert AsyncResult("job-1", app=app).state == states.PENDING
