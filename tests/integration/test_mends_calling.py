"""Mends of a review: callers, handles, captured logging and what a worker checks at its start."""

# mypy: allow-untyped-decorators, allow-subclassing-any

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.utils.log import get_task_logger

from taskora_celery import Context, ContextTask, aio, reading
from taskora_celery.capture import CaptureHandler
from taskora_celery.context import activate, deactivate
from taskora_celery.errors import StoreNotConfiguredError
from taskora_celery.handle import JobHandle
from taskora_celery.local import LocalContext, local_context
from taskora_celery.records import Outcome
from taskora_celery.redaction import Redactor
from taskora_celery.reporter.batches import batches
from taskora_celery.runtime import Runtime
from taskora_celery.store.journal import decode_logs
from taskora_celery.worker.start import CheckSettings
from tests.support.eager_apps import tasks_of_their_own
from tests.support.executions import ScriptedExecution
from tests.support.redis_server import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis


@pytest.fixture
def make_app() -> Iterator[Callable[..., Celery]]:
    apps: list[Celery] = []

    def make(backend: str | None, broker: str = "memory://", **conf: Any) -> Celery:
        app = Celery("shop", broker=broker, backend=backend, set_as_current=False, task_cls=ContextTask)
        app.conf.update(conf)
        apps.append(app)
        return app

    with tasks_of_their_own():
        yield make
    for app in apps:
        Runtime.forget(app)


# --- A6: a UUID for an id ------------------------------------------------------------------------------------------------


def test_an_id_may_be_a_uuid(make_app: Callable[..., Celery], redis_url: str) -> None:
    """A6: Celery takes one; the handle reads, and other jobs of the process go on."""
    app = make_app(redis_url)

    @app.task
    def work(ctx: Context) -> None: ...

    job_id = uuid.uuid4()
    handle = work.apply_async(task_id=job_id)
    assert str(handle.id) == str(job_id)
    assert (handle.get_progress(), handle.get_logs(), handle.history()) == (None, [], [])
    execution = ScriptedExecution(Runtime.of(app).readable(), str(job_id))
    execution.logs("entry")
    execution.progress(50)
    execution.end()
    assert (handle.get_progress(), [entry.message for entry in handle.get_logs()]) == (50, ["entry"])
    assert handle.record().id == str(job_id)
    assert handle.status().state == Outcome.SUCCESS
    assert asyncio.run(handle.aget_progress()) == 50
    assert [event.kind for event in handle.events(timeout=30)] == ["state", "log", "progress", "state"]


# --- J2: handles without a result backend, or without a store --------------------------------------------------------------


def test_a_handle_works_without_a_result_backend(make_app: Callable[..., Celery], redis_url: str) -> None:
    """J2, L2: the record is all there is, and it is enough."""
    app = make_app(None, taskora_redis_url=redis_url)
    handle = JobHandle("job-1", app=app)
    execution = ScriptedExecution(Runtime.of(app).readable())
    execution.progress(50)
    assert (handle.status().progress, handle._is_over()) == (50, False)
    execution.end()
    assert [event.kind for event in handle.events(timeout=30)] == ["state", "progress", "state"]
    assert not handle._is_over()


def test_an_awaited_result_needs_no_store(make_app: Callable[..., Celery]) -> None:
    """J2, L2: where no Redis is configured it is `get()` in a thread, with its results, errors and timeouts."""
    app, job_id, other_id = make_app("cache+memory://"), str(uuid.uuid4()), str(uuid.uuid4())  # its memory is one for all apps
    handle = JobHandle(job_id, app=app)
    with pytest.raises(CeleryTimeoutError):
        asyncio.run(handle.aget(timeout=0.05))
    app.backend.store_result(job_id, 42, "SUCCESS")
    assert asyncio.run(handle.aget(timeout=30)) == 42
    app.backend.mark_as_failure(other_id, KeyError("missing"))
    with pytest.raises(KeyError):
        asyncio.run(JobHandle(other_id, app=app).aget(timeout=30))
    with pytest.raises(StoreNotConfiguredError):
        asyncio.run(handle.aget_progress())


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_an_awaited_result_that_is_there_needs_no_answer_of_the_store(
    make_app: Callable[..., Celery], monkeypatch: pytest.MonkeyPatch, timeout: float | None
) -> None:
    """L1: the result backend knows that the job is over, so an outage of the store does not keep its result back."""
    monkeypatch.setattr(reading, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(reading, "outage_pause", lambda _failures: 0.05)
    monkeypatch.setattr(aio, "outage_pause", lambda _failures: 0.05)
    app = make_app("cache+memory://", taskora_redis_url=f"redis://127.0.0.1:{free_port()}/0")
    job_id = str(uuid.uuid4())
    app.backend.store_result(job_id, 42, "SUCCESS")
    handle = JobHandle(job_id, app=app)
    assert asyncio.run(asyncio.wait_for(handle.aget(timeout=timeout), 30)) == 42
    assert list(handle.events(timeout=60)) == []


def test_loops_that_come_and_go_leave_one_reader_at_most(make_app: Callable[..., Celery], redis_url: str) -> None:
    """J2: connections of a closed loop are given up with it."""
    app = make_app(redis_url)
    ScriptedExecution(Runtime.of(app).readable()).progress(50)
    handle = JobHandle("job-1", app=app)
    for _ in range(20):
        assert asyncio.run(handle.aget_progress()) == 50
    assert len(Runtime.of(app).loops) <= 1


# --- F6: captured logging ------------------------------------------------------------------------------------------------------


@pytest.fixture
def captured() -> Iterator[LocalContext]:
    """A job whose process captures all of logging."""
    ctx, handler, root = local_context(), CaptureHandler(), logging.getLogger()
    root.addHandler(handler)
    token = activate(ctx)
    try:
        yield ctx
    finally:
        deactivate(token)
        root.removeHandler(handler)


def test_only_loggers_of_the_machinery_are_left_out(captured: LocalContext) -> None:
    """F6: a package whose name begins like that of a driver is the user's own."""
    for name in ("redistribution.orders", "redis", "redis.connection", "kombu.pidbox", "taskora_celery.reporter", "redisx"):
        logging.getLogger(name).warning("from %s", name)
    assert [entry.logger for entry in captured.get_logs()] == ["redistribution.orders", "redisx"]


def test_extra_fields_of_any_name_are_kept(captured: LocalContext) -> None:
    """F6: what came in with `extra=` is meta, also where Celery's own records have a field of the name."""
    logging.getLogger("shop.orders").warning("entry", extra={"data": 1, "order": 7})
    (entry,) = captured.get_logs()
    assert entry.meta == {"data": 1, "order": 7}


def test_a_captured_record_is_the_users_own(captured: LocalContext, caplog: pytest.LogCaptureFixture) -> None:
    """F6: other handlers show no field that nobody gave; those in JSON show all but what begins with an underscore."""
    logging.getLogger("shop.orders").warning("entry", extra={"order": 7})
    (record,) = caplog.records
    shown = {name for name in set(vars(record)) - set(vars(logging.makeLogRecord({}))) if name[0] != "_"}
    assert shown - {"message", "asctime"} == {"order"}
    assert len(captured.get_logs()) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", type("Name", (str,), {})("shop")), ("name", 5), ("name", "shop\udcff"),
        ("created", float("nan")), ("created", float("inf")), ("created", -1.0),
    ],
)  # fmt: skip
def test_a_record_that_was_made_by_hand_costs_no_entry(captured: LocalContext, field: str, value: Any) -> None:
    """F6, F4: whatever is in it, it is stored, and so are those beside it."""
    captured.log.info("before")
    logging.getLogger().handle(logging.makeLogRecord({"name": "shop", "levelno": 20, "msg": "by hand", field: value}))
    _, fields = captured.take_logs()
    found = list(batches(1, fields, Redactor(), 1_000, 1_000))
    stored = decode_logs([b"0 %d 0 %b" % (batch.entries, batch.data) for batch, _ in found])
    assert [entry.message for entry in stored] == ["before", "by hand"]


def test_a_task_named_like_a_package_leaves_its_logger_alone(make_app: Callable[..., Celery]) -> None:
    """F6: `get_task_logger` would make Celery's task logger its parent, and take its records away from its handlers."""
    package = logging.getLogger("shop_mends")
    parent = package.parent
    app = make_app("cache+memory://")

    @app.task(name="shop_mends")
    def work(ctx: Context) -> None: ...

    assert work.taskora_logger is not package
    assert package.parent is parent
    assert package.propagate
    logger: logging.Logger | None = work.taskora_logger
    while logger is not None and logger.name != "celery.task":
        logger = logger.parent
    assert logger is get_task_logger("any").parent


# --- L4, A7: what a worker checks, and what is Celery's ------------------------------------------------------------------------


def start(app: Celery) -> None:
    CheckSettings(SimpleNamespace(app=app))


@pytest.mark.parametrize(
    ("options", "interval", "limit"),
    [({}, 3_600.0, 3_600), ({}, 5_000.0, 3_600), ({"visibility_timeout": 30}, 30.0, 30)],
)
def test_a_lease_interval_that_is_not_below_the_visibility_timeout_stops_the_worker(
    make_app: Callable[..., Celery], redis_url: str, options: dict[str, Any], interval: float, limit: int
) -> None:
    """L4: kombu's default counts where nothing is set."""
    app = make_app(redis_url, redis_url, broker_transport_options=options, taskora_lease_interval=interval)
    with pytest.raises(SystemExit, match=f"taskora_lease_interval={interval:g}.*{limit}"):
        start(app)
    app.conf.taskora_lease_interval = limit - 1
    start(app)


def test_a_visibility_timeout_that_is_no_number_stops_the_worker(make_app: Callable[..., Celery], redis_url: str) -> None:
    """L4: with its name, its value and where it stands."""
    app = make_app(redis_url, redis_url, broker_transport_options={"visibility_timeout": "30"})
    with pytest.raises(SystemExit, match="visibility_timeout='30' in broker_transport_options is wrong: not a number"):
        start(app)


@pytest.mark.parametrize("timeout", [0, -30])
def test_a_visibility_timeout_that_holds_nothing_stops_the_worker(
    make_app: Callable[..., Celery], redis_url: str, timeout: int
) -> None:
    """L4: each message would be delivered again at once."""
    app = make_app(redis_url, redis_url, broker_transport_options={"visibility_timeout": timeout})
    with pytest.raises(SystemExit, match=f"visibility_timeout={timeout} in broker_transport_options is wrong: no message"):
        start(app)


def test_a_heartbeat_timeout_on_a_message_that_is_acknowledged_early_is_warned_of(
    make_app: Callable[..., Celery], redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """D8: at the worker's start, by the task's name; what sets neither is acknowledged late."""

    def work() -> None:
        """Do nothing."""

    app = make_app(redis_url, redis_url)
    app.task(name="shop.early", heartbeat_timeout=20, acks_late=False)(work)
    app.task(name="shop.late", heartbeat_timeout=20)(work)
    app.finalize()
    start(app)
    (warned,) = [record.getMessage() for record in caplog.records if "heartbeat_timeout" in record.getMessage()]
    assert warned.startswith("task shop.early: heartbeat_timeout=20 with acks_late=False: ")


def test_a_lease_interval_is_free_where_the_broker_has_no_such_timeout(make_app: Callable[..., Celery], redis_url: str) -> None:
    """L4: only kombu's Redis has the default."""
    start(make_app(redis_url, "memory://", taskora_lease_interval=5_000.0))


def test_an_unknown_option_in_the_stores_url_stops_the_worker(make_app: Callable[..., Celery], redis_url: str) -> None:
    """L4: at its start, not as an outage that never ends."""
    with pytest.raises(SystemExit, match="no_such_option"):
        start(make_app("cache+memory://", taskora_redis_url=redis_url + "?no_such_option=1"))


def test_celerys_own_tasks_are_left_alone(make_app: Callable[..., Celery], redis_url: str, redis_client: redis.Redis) -> None:
    """A7: `celery.chord_unlock` polls once a second; it is nobody's job. Those that run the user's tasks are jobs."""
    app = make_app(redis_url)

    @app.task(name="celery_shop.work")
    def work(ctx: Context) -> None: ...

    app.finalize()
    own = {name: task for name, task in app.tasks.items() if name.startswith("celery.") and isinstance(task, ContextTask)}
    assert {name for name, task in own.items() if task.tracked} <= {"celery.map", "celery.starmap", "celery.chunks"}
    assert not own["celery.chord_unlock"].tracked
    assert work.tracked
    threads = threading.active_count()
    assert app.tasks["celery.accumulate"].apply(args=(1, 2)).get() == (1, 2)
    assert threading.active_count() == threads
    assert not list(redis_client.scan_iter("taskora:*"))
