"""Many waits in one event loop: what they cost, what an outage does to them, and what they leave behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, states
from celery.exceptions import TimeoutError as CeleryTimeoutError

from taskora_celery.errors import StoreUnavailableError
from taskora_celery.handle import JobHandle
from taskora_celery.records import Event
from taskora_celery.runtime import Runtime
from taskora_celery.task import ContextTask
from tests.support.executions import ScriptedExecution
from tests.support.loops import Ticker, clients_of, turns_until
from tests.support.redis_server import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from taskora_celery.store.protocol import JobStore

WAITS = 1000


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    app = Celery("shop", broker="memory://", backend=redis_url, set_as_current=False, task_cls=ContextTask)
    yield app
    Runtime.forget(app)


@pytest.fixture
def store(app: Celery) -> JobStore:
    return Runtime.of(app).readable()


@pytest.fixture
def handle(app: Celery) -> JobHandle:
    return JobHandle("job-1", app=app)


@pytest.fixture
def own_redis(_redis_binary: str) -> Iterator[RedisServer]:
    """A Redis of the test's own, to be hung and killed."""
    with RedisServer(binary=_redis_binary) as server:
        yield server


@pytest.fixture
def own_app(own_redis: RedisServer) -> Iterator[Celery]:
    app = Celery("shop", broker="memory://", backend=own_redis.url(), set_as_current=False, task_cls=ContextTask)
    yield app
    Runtime.forget(app)


def _watched(app: Celery) -> int:
    """How many channels are watched in the running loop."""
    connections = Runtime.of(app).loops._by_loop.get(asyncio.get_running_loop(), [])
    return sum(len(redis._channels.watches) for redis in connections)


async def _follow(handle: JobHandle) -> list[Event]:
    return [event async for event in handle.aevents()]


# --- what they cost ----------------------------------------------------------------------------------------------------------


def test_a_thousand_waits_take_two_connections_and_no_thread(
    app: Celery, store: JobStore, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """J2: `aget`, `aevents` and `acancel(wait=True)`, each of hundreds of jobs, share one loop's connections."""
    for module in ("reading", "awaiting"):
        monkeypatch.setattr(f"taskora_celery.{module}.LOOK_EVERY", 0.5)  # nor when they look by themselves
    ids = [f"job-{n}" for n in range(WAITS)]
    executions = [ScriptedExecution(store, job_id) for job_id in ids]
    handles = [JobHandle(job_id, app=app) for job_id in ids]
    started = _started_threads(monkeypatch)

    async def run() -> tuple[int, list[str], list[Any]]:
        gc.collect()  # connections that others left are closed now, not in between
        clients = len(clients_of(redis_client))
        waits: list[Any] = [asyncio.create_task(handle.aget(timeout=60)) for handle in handles[:400]]
        waits += [asyncio.create_task(_follow(handle)) for handle in handles[400:800]]
        waits += [asyncio.create_task(handle.acancel("enough", wait=60)) for handle in handles[800:]]
        await turns_until(lambda: _watched(app) == WAITS, "all waits")
        looks = _gets(redis_client)
        await turns_until(lambda: _gets(redis_client) > looks + 2 * WAITS, "looks of all of them")
        more_clients, threads = len(clients_of(redis_client)) - clients, list(started)
        ending = threading.Thread(target=end)  # the store that tells is a blocking one
        ending.start()
        ended = await asyncio.gather(*waits)
        ending.join()
        await turns_until(lambda: _watched(app) == 0, "the end of all watches")
        return more_clients, threads, ended

    def end() -> None:
        for n, execution in enumerate(executions):
            execution.logs("last")
            execution.end(states.REVOKED if n >= 800 else states.SUCCESS)
            app.backend.store_result(execution.id, n, states.REVOKED if n >= 800 else states.SUCCESS)

    clients, threads, ended = asyncio.run(run())
    assert (clients, threads) == (2, [])
    assert ended[:400] == list(range(400))
    assert [[event.kind for event in events] for events in ended[400:800]] == [["state", "log", "state"]] * 400
    assert {receipt.outcome for receipt in ended[800:]} == {"cancelled"}


def _started_threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that grows by the name of each thread that is started from now on."""
    started: list[str] = []
    start = threading.Thread.start

    def recorded(thread: threading.Thread) -> None:
        started.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", recorded)
    return started


def _gets(client: redis.Redis) -> int:
    """How many commands the server has run that look at a job."""
    stats: Any = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("get", "evalsha"))


def test_ten_followers_of_one_job_are_one_subscription(app: Celery, store: JobStore, redis_client: redis.Redis) -> None:
    """J2: and each hears all of it."""
    execution = ScriptedExecution(store)

    async def run() -> list[list[str]]:
        async def logs() -> list[str]:
            return [entry.message async for entry in JobHandle("job-1", app=app).afollow_logs()]

        following = [asyncio.create_task(logs()) for _ in range(10)]
        channel = "taskora:{job-1}:changed"
        await turns_until(lambda: redis_client.pubsub_numsub(channel) == [(channel.encode(), 1)], "the subscription")
        await asyncio.to_thread(execution.logs, "a", "b")
        await asyncio.to_thread(execution.end)
        return await asyncio.gather(*following)

    assert asyncio.run(run()) == [["a", "b"]] * 10


# --- outages ---------------------------------------------------------------------------------------------------------------


def test_a_redis_that_hangs_does_not_block_the_loop(own_redis: RedisServer, own_app: Celery) -> None:
    """J2: a black hole is waited for by those who wait for it, and by nobody else; it is told within one timeout."""
    store = Runtime.of(own_app).readable()
    executions = [ScriptedExecution(store, f"job-{n}") for n in range(200)]
    handles = [JobHandle(execution.id, app=own_app) for execution in executions]

    async def run() -> tuple[float, list[Any], list[Any]]:
        waits = [asyncio.create_task(handle.aget(timeout=60)) for handle in handles]
        follows = [asyncio.create_task(_follow(handle)) for handle in handles]
        await turns_until(lambda: _watched(own_app) == 400, "all waits")
        own_redis.pause()
        started = time.monotonic()
        async with Ticker() as ticker:
            reads = [handle.aget_progress() for handle in handles] + [handle.acancel() for handle in handles]
            failures = await asyncio.gather(*reads, return_exceptions=True)
            with pytest.raises(CeleryTimeoutError):
                await JobHandle("job-0", app=own_app).aget(timeout=0.2)
            assert time.monotonic() - started < 15
            own_redis.resume()
            await asyncio.to_thread(end)
            ended = await asyncio.wait_for(asyncio.gather(*waits, *follows), 60)
        return ticker.longest, failures, ended

    def end() -> None:
        for execution in executions:
            execution.logs("last")
            execution.end()
            own_app.backend.store_result(execution.id, execution.id, states.SUCCESS)

    longest, failures, ended = asyncio.run(run())
    assert longest < 2.5, "the loop stood still: each wait for a Redis that hangs takes five seconds"
    assert {type(failure) for failure in failures} == {StoreUnavailableError}
    assert ended[:200] == [handle.id for handle in handles]
    assert all(events[-1].data["state"] == "SUCCESS" for events in ended[200:])
    assert all([event.kind for event in events].count("log") == 1 for events in ended[200:])


def test_a_lost_connection_costs_no_event_and_doubles_none(own_redis: RedisServer, own_app: Celery) -> None:
    """F5: whatever is said between the loss and the next subscription is read behind it."""
    store = Runtime.of(own_app).readable()
    execution = ScriptedExecution(store)
    handle = JobHandle("job-1", app=own_app)

    async def run() -> list[list[str]]:
        async def logs() -> list[str]:
            return [entry.message async for entry in handle.afollow_logs()]

        following = [asyncio.create_task(logs()) for _ in range(5)]
        getting = asyncio.create_task(handle.aget(timeout=60))
        with own_redis.client() as client:
            for n in range(40):
                await asyncio.to_thread(execution.logs, f"{n}")
                if n % 10 == 5:
                    await turns_until(lambda: _watched(own_app) == 2, "the watches")
                    client.client_kill_filter(_type="pubsub")
        await asyncio.to_thread(execution.end)
        await asyncio.to_thread(own_app.backend.store_result, "job-1", 42, states.SUCCESS)
        assert await getting == 42
        return await asyncio.gather(*following)

    assert asyncio.run(run()) == [[f"{n}" for n in range(40)]] * 5


def test_a_redis_that_was_restarted_is_found_again(own_redis: RedisServer, own_app: Celery) -> None:
    """L1: without a record the followers of a job go on to wait, and a result is awaited over the outage."""
    handle = JobHandle("job-1", app=own_app)

    async def run() -> Any:
        getting = asyncio.create_task(handle.aget(timeout=60))
        await turns_until(lambda: _watched(own_app) == 1, "the watch")
        await asyncio.to_thread(own_redis.restart)
        await asyncio.to_thread(own_app.backend.store_result, "job-1", 42, states.SUCCESS)
        return await getting

    assert asyncio.run(run()) == 42


# --- what they leave behind ------------------------------------------------------------------------------------------------


def _waits(handle: JobHandle) -> list[Any]:
    """One of each kind."""

    async def logs() -> None:
        async for _ in handle.afollow_logs():
            pass

    return [handle.aget(), _follow(handle), logs(), handle.acancel(wait=True)]


@pytest.mark.parametrize("how", ["cancelled", "out of time"])
def test_who_stops_waiting_leaves_nothing(
    handle: JobHandle, app: Celery, store: JobStore, redis_client: redis.Redis, how: str
) -> None:
    """J2: neither a task nor a subscription, be it by `cancel()` or by a time limit."""
    ScriptedExecution(store)

    async def run() -> None:
        before, clients = asyncio.all_tasks(), len(clients_of(redis_client, _type="pubsub"))
        waits = [asyncio.ensure_future(_limited(wait, how)) for wait in _waits(handle)]
        await turns_until(lambda: _watched(app) == 2, "both channels")
        if how == "cancelled":
            for wait in waits:
                wait.cancel()
        ended = await asyncio.gather(*waits, return_exceptions=True)
        assert {type(error) for error in ended} <= {asyncio.CancelledError, asyncio.TimeoutError}
        await turns_until(lambda: asyncio.all_tasks() == before, "the end of all tasks")
        assert _watched(app) == 0
        await turns_until(lambda: len(clients_of(redis_client, _type="pubsub")) == clients, "the connection's end")

    asyncio.run(run())


async def _limited(wait: Any, how: str) -> Any:
    return await asyncio.wait_for(wait, 0.5 if how == "out of time" else 30)


def test_one_of_many_that_is_cancelled_does_not_disturb_the_others(app: Celery, store: JobStore) -> None:
    """J2: the connection is shared, and nobody leaves it in the middle of a command."""
    executions = [ScriptedExecution(store, f"job-{n}") for n in range(50)]

    async def run() -> list[Any]:
        waits = [asyncio.create_task(JobHandle(execution.id, app=app).aget(timeout=30)) for execution in executions]
        for turn in range(25):  # in the middle of whatever each of them does
            waits[2 * turn].cancel()
            await asyncio.sleep(0)
        await asyncio.to_thread(end)
        return await asyncio.gather(*waits[1::2])

    def end() -> None:
        for n, execution in enumerate(executions):
            app.backend.store_result(execution.id, n, states.SUCCESS)

    assert asyncio.run(run()) == list(range(1, 50, 2))


def test_a_follower_that_breaks_off_is_released(handle: JobHandle, app: Celery, store: JobStore) -> None:
    """J2: a `break` in an `async for` closes the generator in the loop's next turns."""
    ScriptedExecution(store).logs("a")

    async def run() -> None:
        async for _ in handle.aevents():
            assert _watched(app) == 1
            break
        await turns_until(lambda: _watched(app) == 0, "the release")

    asyncio.run(run())


@pytest.mark.filterwarnings("error::ResourceWarning", "error::pytest.PytestUnraisableExceptionWarning")
def test_loops_that_come_and_go_leave_no_open_connection(app: Celery, store: JobStore) -> None:
    """J2: a loop per test is how pytest plugins do it, and their users make warnings errors."""
    ScriptedExecution(store).progress(50)

    async def run() -> Any:
        abandoned = asyncio.create_task(JobHandle("job-1", app=app).aget())
        await turns_until(lambda: _watched(app) == 1, "the watch")
        assert not abandoned.done()
        return await JobHandle("job-1", app=app).aget_progress()

    gc.collect()  # what others left is not ours
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        for _ in range(5):
            assert asyncio.run(run()) == 50
            gc.collect()
    assert [str(warning.message) for warning in caught if warning.category is ResourceWarning] == []
    assert len(Runtime.of(app).loops) == 0


def test_a_loop_that_ends_with_its_last_wait_leaves_no_open_connection(app: Celery, store: JobStore) -> None:
    """J2: the connection for announcements is being closed just then."""
    execution = ScriptedExecution(store)
    execution.end()
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        for _ in range(10):
            assert len(asyncio.run(_follow(JobHandle("job-1", app=app)))) == 2
        gc.collect()
    assert [str(warning.message) for warning in caught if warning.category is ResourceWarning] == []


def test_a_loop_that_was_closed_without_a_word_is_forgotten(app: Celery, store: JobStore) -> None:
    """J2: the next loop has connections of its own."""
    ScriptedExecution(store).progress(50)
    for _ in range(3):
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(JobHandle("job-1", app=app).aget_progress()) == 50
        loop.close()
    assert len(Runtime.of(app).loops) == 1


def test_loops_in_several_threads_have_their_own_connections(app: Celery, store: JobStore) -> None:
    """J3: one handle, four loops at once."""
    execution = ScriptedExecution(store)
    handle = JobHandle("job-1", app=app)
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(asyncio.run(handle.aget(timeout=30)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    execution.end()
    app.backend.store_result("job-1", 42, states.SUCCESS)
    for thread in threads:
        thread.join(30)
    assert results == [42] * 4
