"""`get` where nobody heard that the result is there: it is read anew every other second."""

from __future__ import annotations

import inspect
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery, states, uuid
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import AsyncResult

from taskora_celery import waiting
from taskora_celery.errors import StoreUnavailableError
from taskora_celery.handle import JobHandle
from taskora_celery.runtime import Runtime
from taskora_celery.store.connect import Endpoint
from taskora_celery.store.values import RedisValues
from taskora_celery.task import ContextTask
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@pytest.fixture
def make_app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Celery]]:
    monkeypatch.setattr(waiting, "LOOK_EVERY", 0.1)
    made: list[Celery] = []

    def make(url: str) -> Celery:
        app = Celery("shop", broker="memory://", backend=url, set_as_current=False, task_cls=ContextTask)
        made.append(app)
        return app

    yield make
    for app in made:
        Runtime.forget(app)
        consumer = app.backend.result_consumer
        consumer.stop()
        consumer._pubsub = None  # else a handle that is garbage later asks a Redis that has ended, and waits for it to come back


def store_unheard(handle: JobHandle[Any], value: Any, state: str = states.SUCCESS) -> None:
    """Store what Celery keeps of a result, and announce it to nobody."""
    backend = handle.backend
    meta = backend._get_result_meta(backend.encode_result(value, state), state, None, None) | {"task_id": handle.id}
    with redis.Redis.from_url(backend.url) as client:
        client.set(backend.get_key_for_task(handle.id), backend.encode(meta))


def waiting_on(handle: JobHandle[Any]) -> list[Any]:
    """Who waits for the job."""
    found = handle.backend._pending_results.concrete.get(handle.id, {})
    return list(found.values()) if isinstance(found, dict) else [found]  # before Celery 5.7 it is one only


def job(app: Celery, **options: Any) -> JobHandle[int]:
    """A job of its own: what Celery hears is heard in all databases of a Redis."""
    return JobHandle(uuid(), app=app, **options)


def get_unheard(handles: Sequence[JobHandle[Any]], value: Any, state: str = states.SUCCESS, **options: Any) -> list[Future[Any]]:
    """Wait for a job by each of these handles; its end is stored when all do, and announced to nobody."""
    with ThreadPoolExecutor(len(handles)) as pool:
        waits = [threading.Event() for _ in handles]
        found = [
            pool.submit(handle.get, timeout=20, on_interval=begun.set, **options)
            for handle, begun in zip(handles, waits, strict=True)
        ]
        assert all(begun.wait(20) for begun in waits)
        store_unheard(handles[0], value, state)
    return found


def test_a_result_that_was_stored_unheard_is_found(make_app: Callable[[str], Celery], redis_url: str) -> None:
    """J1, fault 13: as it is where the result comes while the connection for the announcements is replaced."""
    handle = job(make_app(redis_url))
    messages: list[dict[str, Any]] = []
    called: list[tuple[str, int]] = []
    (found,) = get_unheard([handle], 42, on_message=messages.append, callback=lambda *told: called.append(told))
    assert found.result() == 42
    assert called == [(handle.id, 42)]
    assert [message["result"] for message in messages] == [42]
    assert handle.wait(20) == 42
    assert waiting_on(handle) == []  # Celery keeps who waits until the end


def test_all_who_wait_for_it_find_it(make_app: Callable[[str], Celery], redis_url: str) -> None:
    """J1, fault 13: threads may share a handle, or have their own."""
    shared = job(make_app(redis_url))
    own: JobHandle[int] = JobHandle(str(shared.id), app=shared.app)
    assert [found.result() for found in get_unheard([shared, shared, own], 42)] == [42, 42, 42]


def test_a_look_that_falls_into_an_outage_is_no_error(
    make_app: Callable[[str], Celery], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """J1, fault 13: the wait goes on, as Celery's own does."""
    failures: list[str | bytes] = []
    read = RedisValues.get

    def get(self: RedisValues, key: str | bytes) -> bytes | None:
        if len(failures) < 2:
            failures.append(key)
            raise StoreUnavailableError("away")
        return read(self, key)

    monkeypatch.setattr(RedisValues, "get", get)
    (found,) = get_unheard([job(make_app(redis_url))], 42)
    assert (found.result(), len(failures)) == (42, 2)


def test_a_redis_that_hangs_delays_no_timeout(make_app: Callable[[str], Celery]) -> None:
    """J1, fault 13: a look waits for a second at most, whatever Celery's own connection would wait for."""
    waits = threading.Event()
    with RedisServer() as server, ThreadPoolExecutor(1) as pool:
        handle = job(make_app(server.url()))
        begun = time.monotonic()
        found = pool.submit(handle.get, timeout=4, on_interval=waits.set)
        assert waits.wait(20)
        server.pause()
        try:
            with pytest.raises(CeleryTimeoutError, match="timed out"):
                found.result(timeout=30)
            assert time.monotonic() - begun < 10
        finally:
            server.resume()


def test_who_looks_at_once_shares_one_connection(redis_url: str) -> None:
    """J1, fault 13: many threads that began to wait together also look together."""
    with redis.Redis.from_url(redis_url) as client, ThreadPoolExecutor(8) as pool:
        client.set("key", b"value", ex=60)
        before = {one["id"] for one in client.client_list()}
        values = RedisValues(Endpoint(redis_url))
        assert set(pool.map(values.get, ["key"] * 200)) == {b"value"}
        assert len({one["id"] for one in client.client_list()} - before) == 1
        values.close()


def test_nobody_waits_behind_others_for_long() -> None:
    """J1, fault 13: where Redis hangs, who waits for another thread is told of it, too."""
    with RedisServer() as server, ThreadPoolExecutor(8) as pool:
        values = RedisValues(Endpoint(server.url()), timeout=0.5)
        server.pause()
        try:
            begun = time.monotonic()
            for found in [pool.submit(values.get, "key") for _ in range(8)]:
                with pytest.raises(StoreUnavailableError):
                    found.result(timeout=30)
            assert time.monotonic() - begun < 0.5 * 8  # one after the other it would be more
        finally:
            server.resume()
            values.close()


def test_its_time_is_kept(make_app: Callable[[str], Celery], redis_url: str) -> None:
    """J1: a wait of several looks ends when it is over, one of no time at once, unless the result is there."""
    app = make_app(redis_url)
    handle = job(app)
    for timeout in (1.35, -1):
        begun = time.monotonic()
        with pytest.raises(CeleryTimeoutError, match="timed out"):
            handle.get(timeout)
        assert time.monotonic() - begun >= timeout
    app.backend.store_result(handle.id, 42, states.SUCCESS)
    assert JobHandle(str(handle.id), app=app).get(timeout=0) == 42


def test_a_job_that_failed_with_that_error_is_not_asked_again(make_app: Callable[[str], Celery], redis_url: str) -> None:
    """J1: Celery's TimeoutError is the job's own error here, and no end of the wait."""
    (found,) = get_unheard([job(make_app(redis_url))], CeleryTimeoutError("the job's"), states.FAILURE)
    with pytest.raises(CeleryTimeoutError, match="the job's"):
        found.result()


def test_a_parent_that_fails_ends_the_wait(make_app: Callable[[str], Celery], redis_url: str) -> None:
    """J1: its error is looked for at each interval, as Celery does."""
    app = make_app(redis_url)
    handle = job(app, parent=job(app))
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(handle.get, timeout=20)
        wait_until(lambda: waiting_on(handle), "the wait")
        app.backend.store_result(handle.parent.id, ValueError("the parent's"), states.FAILURE)
        with pytest.raises(ValueError, match="the parent's"):
            found.result()


def test_a_callback_that_fails_so_is_called_once(make_app: Callable[[str], Celery], redis_url: str) -> None:
    """J1: one that waits for another job, in vain."""
    handle = job(make_app(redis_url))
    called: list[str] = []

    def callback(job_id: str, _: int) -> None:
        called.append(job_id)
        job(handle.app).get(timeout=0.3)

    (found,) = get_unheard([handle], 42, callback=callback)
    with pytest.raises(CeleryTimeoutError, match="timed out"):
        found.result()
    assert called == [handle.id]


def test_it_takes_what_celerys_get_takes() -> None:
    """J1: the same names in the same order, with the same defaults."""
    celerys = dict(inspect.signature(AsyncResult.get).parameters)
    ours = dict(inspect.signature(waiting.get).parameters)
    told = [(name, one.default) for name, one in celerys.items() if name != "self"]
    assert [(name, one.default) for name, one in ours.items() if name != "handle"] == told
