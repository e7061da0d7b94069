"""`get` where nobody heard that the result is there: it is read anew every other second."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery, states
from celery.exceptions import BackendGetMetaError
from celery.exceptions import TimeoutError as CeleryTimeoutError

from taskora_celery import awaiting
from taskora_celery.handle import JobHandle
from taskora_celery.runtime import Runtime
from taskora_celery.task import ContextTask
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def make_app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Celery]]:
    monkeypatch.setattr(awaiting, "LOOK_EVERY", 0.1)
    made: list[Celery] = []

    def make(url: str) -> Celery:
        app = Celery("shop", broker="memory://", backend=url, set_as_current=False, task_cls=ContextTask)
        made.append(app)
        return app

    yield make
    for app in made:
        Runtime.forget(app)


def stored(app: Celery, value: Any, state: str = states.SUCCESS) -> bytes:
    """What Celery keeps of a result."""
    result = app.backend.encode_result(value, state)
    found = app.backend._get_result_meta(result, state, None, None) | {"task_id": "job-1"}
    encoded: str | bytes = app.backend.encode(found)
    return encoded.encode() if isinstance(encoded, str) else encoded


def test_a_result_that_was_stored_unheard_is_found(make_app: Callable[[str], Celery], redis_url: str) -> None:
    """J1, fault 13: as it is where the result comes while the connection for the announcements is replaced."""
    app = make_app(redis_url)
    handle: JobHandle[int] = JobHandle("job-1", app=app)
    key = app.backend.get_key_for_task("job-1")
    with redis.Redis.from_url(redis_url) as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(handle.get, timeout=20)
        wait_until(lambda: client.pubsub_numsub(key)[0][1] == 1, "the subscription")
        client.set(key, stored(app, 42))
        assert waiting.result() == 42
        assert handle.wait(20) == 42


def away() -> BackendGetMetaError:
    return BackendGetMetaError("failed to get meta", task_id="job-1")


def test_a_look_that_falls_into_an_outage_is_no_error(make_app: Callable[[str], Celery], redis_url: str) -> None:
    """J1, fault 13: the wait goes on, as Celery's own does."""
    handle: JobHandle[int] = JobHandle("job-1", app=make_app(redis_url))
    outcomes: list[Any] = [None, away(), away(), None, away(), 42]

    def get(timeout: float | None) -> Any:
        found = outcomes.pop(0)
        if isinstance(found, Exception):
            raise found
        if found is None:
            assert timeout is not None
            threading.Event().wait(timeout)
            raise CeleryTimeoutError
        return found

    assert awaiting.get_anyway(get, handle, None) == 42
    assert not outcomes


@pytest.mark.parametrize("answers", [["away"], ["timeout", "away", "away", "away"]], ids=["at its begin", "to its end"])
def test_an_outage_is_an_error(make_app: Callable[[str], Celery], redis_url: str, answers: list[str]) -> None:
    """J1, fault 13: one in which the wait begins, as in Celery, and one that is longer than it."""
    handle: JobHandle[int] = JobHandle("job-1", app=make_app(redis_url))

    def get(timeout: float | None) -> Any:
        if len(answers) > 1 and answers.pop(0) == "timeout":
            assert timeout is not None
            threading.Event().wait(timeout)
            raise CeleryTimeoutError
        raise away()

    with pytest.raises(BackendGetMetaError):
        awaiting.get_anyway(get, handle, 0.3)


def test_its_time_is_kept(make_app: Callable[[str], Celery], redis_url: str) -> None:
    """J1: a wait of several looks ends when it is over, one of no time at once."""
    handle: JobHandle[int] = JobHandle("job-1", app=make_app(redis_url))
    for timeout in (0.35, 0):
        begun = time.monotonic()
        with pytest.raises(CeleryTimeoutError, match="timed out"):
            handle.get(timeout)
        assert time.monotonic() - begun >= timeout


@pytest.mark.parametrize("of_parent", [False, True])
def test_a_job_that_failed_with_that_error_is_not_asked_again(
    make_app: Callable[[str], Celery], redis_url: str, of_parent: bool
) -> None:
    """J1: Celery's TimeoutError is the job's own error here, or its parent's, and no end of the wait."""
    app = make_app(redis_url)
    parent: JobHandle[int] = JobHandle("parent", app=app)
    handle: JobHandle[int] = JobHandle("job-1", app=app, parent=parent)
    app.backend.store_result("parent" if of_parent else "job-1", CeleryTimeoutError("the job's"), states.FAILURE)
    with pytest.raises(CeleryTimeoutError, match="the job's"):
        handle.get()
