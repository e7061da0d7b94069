"""`aget` is `get`, but for the thread: the same results, the same errors, the same options."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, states
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import GroupResult, denied_join_result

from taskora_celery import awaiting
from taskora_celery.handle import JobHandle
from taskora_celery.runtime import Runtime, result_endpoint
from taskora_celery.task import ContextTask
from tests.support.executions import ScriptedExecution
from tests.support.loops import Ticker, turns_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def make_app() -> Iterator[Callable[..., Celery]]:
    apps: list[Celery] = []

    def make(backend: str, **conf: Any) -> Celery:
        app = Celery("shop", broker="memory://", backend=backend, set_as_current=False, task_cls=ContextTask)
        app.conf.update(conf)
        apps.append(app)
        return app

    yield make
    for app in apps:
        Runtime.forget(app)


@pytest.fixture
def app(make_app: Callable[..., Celery], redis_url: str) -> Celery:
    return make_app(redis_url)


def outcome(run: Callable[[], Any]) -> tuple[str, Any]:
    """What came of a call: a value, or an error."""
    try:
        return "returned", run()
    except Exception as exc:
        return "raised", (type(exc), exc.args)


def both(app: Celery, **options: Any) -> list[tuple[str, Any]]:
    """What `get` and `aget` make of the same job, each with a handle of its own."""
    return [
        outcome(lambda: JobHandle("job-1", app=app).get(timeout=5, **options)),
        outcome(lambda: asyncio.run(JobHandle("job-1", app=app).aget(timeout=5, **options))),
    ]


@pytest.mark.parametrize("propagate", [True, False])
@pytest.mark.parametrize(
    ("result", "state"),
    [
        ({"rows": 3}, states.SUCCESS), (None, states.SUCCESS), (ValueError("no", 3), states.FAILURE),
        (KeyError("gone"), states.REVOKED), ("x" * 300_000, states.SUCCESS),
    ],
    ids=["value", "none", "failure", "revoked", "large"],
)  # fmt: skip
def test_it_returns_or_raises_what_get_does(app: Celery, result: Any, state: str, propagate: bool) -> None:
    """J2: for each outcome, and as a value where the error is not to be raised."""
    app.backend.store_result("job-1", result, state)
    called: list[Any] = []
    first, second = both(app, propagate=propagate, callback=lambda job_id, value: called.append((job_id, value)))
    if propagate or state == states.SUCCESS:
        assert first == second
    else:
        assert (type(first[1]), first[1].args) == (type(second[1]), second[1].args) == (type(result), result.args)
    assert [job_id for job_id, _ in called] == ([] if propagate and state != states.SUCCESS else ["job-1"] * 2)


def test_a_result_that_comes_later_is_awaited(app: Celery) -> None:
    """J2: with the messages on the way, and the intervals; `then` is told, too."""
    messages: list[str] = []
    intervals: list[None] = []
    fulfilled: list[Any] = []
    handle = JobHandle("job-1", app=app)
    handle.on_ready.then(fulfilled.append)

    async def run() -> Any:
        options = {"on_message": lambda meta: messages.append(meta["status"]), "on_interval": lambda: intervals.append(None)}
        waiting = asyncio.create_task(handle.aget(timeout=20, interval=0.01, **options))
        await asyncio.to_thread(app.backend.store_result, "job-1", {"percent": 50}, "PROGRESS")
        await turns_until(lambda: messages[-1:] == ["PROGRESS"] and len(intervals) > 3, "the progress")
        await asyncio.to_thread(app.backend.store_result, "job-1", 42, states.SUCCESS)
        return await waiting

    assert asyncio.run(run()) == 42
    assert (messages[-1], set(messages)) == ("SUCCESS", {"PROGRESS", "SUCCESS"})
    assert fulfilled == [handle]
    assert (handle.state, handle.get(), asyncio.run(handle.aget())) == ("SUCCESS", 42, 42)


@pytest.mark.parametrize("in_group", [False, True])
def test_a_parent_that_failed_is_raised(app: Celery, in_group: bool) -> None:
    """J2: the job itself will never run; with `follow_parents=False` it is waited for."""
    parent: Any = JobHandle("parent", app=app)
    if in_group:
        parent = GroupResult("all", [JobHandle("other", app=app), parent], app=app)
        app.backend.store_result("other", 1, states.SUCCESS)
    handle = JobHandle("job-1", app=app, parent=parent)

    async def run() -> None:
        waiting = asyncio.create_task(handle.aget(timeout=20, interval=0.01))
        await asyncio.to_thread(app.backend.store_result, "parent", ValueError("no"), states.FAILURE)
        with pytest.raises(ValueError, match="no"):
            await waiting
        with pytest.raises(ValueError, match="no"):
            await handle.aget(timeout=20)
        for options in ({"follow_parents": False}, {"propagate": False}):
            with pytest.raises(CeleryTimeoutError):
                await handle.aget(timeout=0.1, **options)

    asyncio.run(run())


def test_a_chain_and_a_group_are_awaited(app: Celery) -> None:
    """J2: the last of a chain behind its parents; the members of a group by `asyncio.gather`."""
    app.backend.store_result("parent", 1, states.SUCCESS)
    for n in range(3):
        app.backend.store_result(f"member-{n}", n, states.SUCCESS)
    chained = JobHandle("member-2", app=app, parent=JobHandle("parent", app=app))
    results = GroupResult("all", [JobHandle(f"member-{n}", app=app) for n in range(3)], app=app)

    async def run() -> tuple[Any, list[Any]]:
        return await chained.aget(timeout=5), await asyncio.gather(*(result.aget(timeout=5) for result in results))

    assert asyncio.run(run()) == (2, [0, 1, 2])


def test_a_result_that_is_there_needs_no_time(app: Celery) -> None:
    """J2: as with `get`, what is there comes before a time that is over."""
    app.backend.store_result("job-1", 42, states.SUCCESS)
    assert asyncio.run(JobHandle("job-1", app=app).aget(timeout=0)) == 42
    with pytest.raises(CeleryTimeoutError, match="timed out"):
        asyncio.run(JobHandle("job-2", app=app).aget(timeout=0))


def test_an_ignored_result_is_none_and_a_task_may_not_wait_for_another(app: Celery) -> None:
    """J2: Celery's guards hold."""
    ignored = JobHandle("job-1", app=app)
    ignored.ignored = True
    assert asyncio.run(ignored.aget()) is None
    app.backend.store_result("job-2", 42, states.SUCCESS)
    with denied_join_result():
        with pytest.raises(RuntimeError, match="within a task"):
            asyncio.run(JobHandle("job-2", app=app).aget())
        assert asyncio.run(JobHandle("job-2", app=app).aget(disable_sync_subtasks=False)) == 42
    with pytest.raises(TypeError, match="unheard"):
        asyncio.run(JobHandle("job-2", app=app).aget(unheard=True))


def test_results_are_found_under_the_backends_own_keys(make_app: Callable[..., Celery], redis_url: str) -> None:
    """J2: with Celery's prefix, compression and serialiser; the backend decodes them."""
    app = make_app(
        redis_url, result_backend_transport_options={"global_keyprefix": "tenant"}, result_serializer="pickle",
        accept_content=["pickle"], result_compression="gzip",
    )  # fmt: skip
    app.backend.store_result("job-1", {1, 2}, states.SUCCESS)
    assert both(app) == [("returned", {1, 2})] * 2


# --- other backends --------------------------------------------------------------------------------------------------------


def test_another_backend_is_asked_when_the_record_has_ended(
    make_app: Callable[..., Celery], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """J2: until then no thread is taken, and the loop is free; a result that is late is asked for again."""
    app = make_app("cache+memory://", taskora_redis_url=redis_url)
    execution = ScriptedExecution(Runtime.of(app).readable(), "asked-late")
    handle = JobHandle(execution.id, app=app)
    asked = threading.Event()
    ask = awaiting._OtherResults._load

    def load(handle: Any, on_message: Any) -> bool:
        asked.set()
        return ask(handle, on_message)

    monkeypatch.setattr(awaiting._OtherResults, "_load", staticmethod(load))

    async def run() -> Any:
        async with Ticker() as ticker:
            waiting = asyncio.create_task(handle.aget(timeout=20))
            await turns_until(lambda: ticker.ticks > 10, "some turns")
            assert not asked.is_set()
            await asyncio.to_thread(execution.end)
            await asyncio.to_thread(asked.wait, 20)
            await asyncio.to_thread(app.backend.store_result, execution.id, 42, states.SUCCESS)
            return await waiting

    assert asyncio.run(run()) == 42


def test_without_a_store_another_backend_is_asked_now_and_then(make_app: Callable[..., Celery]) -> None:
    """J2, L2: no thread is held in between."""
    app = make_app("cache+memory://")  # its memory is the process's

    async def run() -> list[Any]:
        waits = [asyncio.create_task(JobHandle(f"polled-{n}", app=app).aget(timeout=20)) for n in range(40)]
        await asyncio.sleep(0)
        for n in range(40):
            app.backend.store_result(f"polled-{n}", n, states.SUCCESS)
        return await asyncio.gather(*waits)

    assert asyncio.run(run()) == list(range(40))


def test_without_a_result_backend_it_is_said(make_app: Callable[..., Celery], redis_url: str) -> None:
    """J2: in Celery's words."""
    app = make_app("disabled://", taskora_redis_url=redis_url)
    ScriptedExecution(Runtime.of(app).readable()).end()
    with pytest.raises(NotImplementedError, match="No result backend"):
        asyncio.run(JobHandle("job-1", app=app).aget(timeout=20))


def test_a_backend_that_is_reached_by_more_than_its_url_is_asked_by_itself(
    make_app: Callable[..., Celery], redis_url: str
) -> None:
    """J2: Celery's settings beside the URL are its backend's to heed."""
    app = make_app(redis_url)
    assert result_endpoint(app, app.backend) is not None
    app = make_app(redis_url, redis_username="default")
    assert result_endpoint(app, app.backend) is None
    other = make_app("cache+memory://")
    assert result_endpoint(app, other.backend) is None
    assert result_endpoint(other, other.backend) is None
