"""Progress in the result backend: visible to every Celery tool, and never damaging a state."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, states
from celery.app.task import Context as Request
from celery.result import AsyncResult

from taskora_celery.results import BackendSink, RedisSink, sink_for
from taskora_celery.task import ContextTask
from tests.support.apps import pointed_at
from tests.support.eager_apps import tasks_of_their_own

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from tests.support.redis_topologies import RedisSentinel

RACES = 1_000


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    app = Celery("shop", set_as_current=False, task_cls=ContextTask)
    with tasks_of_their_own(), pointed_at(app, redis_url):
        yield app


def request_of(task_id: str, *, retries: int = 0, **fields: Any) -> Request:
    return Request(id=task_id, task="shop.work", args=(), kwargs={}, retries=retries, **fields)


def work() -> None:
    """Do nothing."""


def sink_of(app: Celery, task_id: str = "job-1", *, retries: int = 0) -> BackendSink:
    task = app.task(work, name="shop.work")
    request = request_of(task_id, retries=retries)
    sink = sink_for(task, request)
    assert sink is not None
    sink.__dict__["request"] = request  # a sink holds its request weakly; in a worker it lives as long as the job runs
    return sink


# --- E4: what is seen ----------------------------------------------------------------------------------------------------


def test_a_number_appears_with_the_keys_that_progress_bars_read(app: Celery) -> None:
    """E4: celery-progress and its kin look for `current`, `total` and `percent`."""
    sink_of(app).write(33)
    result = AsyncResult("job-1", app=app)
    assert result.state == "PROGRESS"
    assert result.info == {"progress": 33, "current": 33, "total": 100, "percent": 33.0}


@pytest.mark.parametrize("value", [{"rows": 3, "file": "a.csv"}, ["a", 1], "half way", None, True])
def test_anything_else_appears_as_itself(app: Celery, value: Any) -> None:
    """E4: an object is the user's own shape."""
    sink_of(app).write(value)
    assert AsyncResult("job-1", app=app).info == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), {"rate": float("nan"), "l": [float("inf")]}])
def test_numbers_that_json_lacks_are_written_as_text(app: Celery, redis_client: redis.Redis, value: Any) -> None:
    """E2: strict JSON, so that a reader in any language can parse it."""
    sink_of(app).write(value)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    raw = redis_client.get("celery-task-meta-job-1")
    assert isinstance(raw, bytes)
    assert json.loads(raw, parse_constant=refuse)["status"] == "PROGRESS"
    AsyncResult("job-1", app=app).info  # noqa: B018 - reading it back must not raise


def test_the_metadata_is_what_celery_writes_itself(app: Celery, redis_client: redis.Redis) -> None:
    """E4: every Celery tool can read it, with `result_extended` too."""
    app.conf.result_extended = True
    sink_of(app, "job-1").write({"a": 1})
    app.backend.store_result("job-2", {"a": 1}, "PROGRESS", request=request_of("job-2"))
    ours, theirs = (json.loads(redis_client.get(f"celery-task-meta-job-{n}") or b"") for n in (1, 2))
    assert ours == {**theirs, "task_id": "job-1"}


def test_the_metadata_expires_as_results_do(app: Celery, redis_client: redis.Redis) -> None:
    """L3: a PROGRESS must not stay for ever where the job never ends."""
    sink_of(app).write(1)
    assert 0 < int(redis_client.ttl("celery-task-meta-job-1")) <= 86_400


def test_each_progress_is_published_to_those_who_wait(app: Celery, redis_client: redis.Redis) -> None:
    """E4: `AsyncResult.get(on_message=…)` sees it."""
    sink = sink_of(app)
    with redis_client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("celery-task-meta-job-1")
        pubsub.get_message(timeout=5)
        sink.write(7)
        message = pubsub.get_message(timeout=5)
    assert message is not None
    assert json.loads(message["data"])["result"]["current"] == 7


def test_the_key_prefix_of_the_backend_is_kept(app: Celery, redis_client: redis.Redis) -> None:
    """E4: `global_keyprefix` in the backend's transport options."""
    with pointed_at(app, app.conf.broker_url, result_backend_transport_options={"global_keyprefix": "tenant:"}):
        sink_of(app).write(1)
        assert AsyncResult("job-1", app=app).state == "PROGRESS"
    assert redis_client.exists("tenant:celery-task-meta-job-1")


def test_it_works_behind_a_sentinel(redis_sentinel: RedisSentinel) -> None:
    """E5: with any result backend."""
    app = Celery("shop", set_as_current=False, task_cls=ContextTask)
    options = {"result_backend_transport_options": redis_sentinel.transport_options}
    with pointed_at(app, "memory://", redis_sentinel.url(), **options):
        sink = sink_of(app)
        sink.write(1)
        sink.write(2)
        assert isinstance(sink, RedisSink)
        assert AsyncResult("job-1", app=app).info["current"] == 2


# --- E5: what is never touched -------------------------------------------------------------------------------------------


def _succeed(app: Celery, task_id: str) -> None:
    app.backend.mark_as_done(task_id, 42, request=request_of(task_id))


def _fail(app: Celery, task_id: str) -> None:
    app.backend.mark_as_failure(task_id, ValueError("no"), traceback="tb", request=request_of(task_id))


def _retry(app: Celery, task_id: str) -> None:
    app.backend.mark_as_retry(task_id, ValueError("later"), traceback="tb", request=request_of(task_id))


def _revoke(app: Celery, task_id: str) -> None:
    app.backend.mark_as_revoked(task_id, "wrong file", request=request_of(task_id))


OUTCOMES: dict[str, Callable[[Celery, str], None]] = {
    states.SUCCESS: _succeed,
    states.FAILURE: _fail,
    states.RETRY: _retry,
    states.REVOKED: _revoke,
}


@pytest.mark.parametrize("state", OUTCOMES)
def test_progress_never_wins_a_race_against_an_outcome(app: Celery, redis_client: redis.Redis, state: str) -> None:
    """E5: the worker's parent may store one at any moment; it stays, whatever the child reports meanwhile."""
    outcome = OUTCOMES[state]
    start, end = threading.Barrier(2), threading.Barrier(2)
    tasks = [f"job-{n}" for n in range(RACES)]
    failures: list[BaseException] = []

    def store_outcomes() -> None:
        try:
            for task_id in tasks:
                start.wait(60)
                outcome(app, task_id)
                end.wait(60)
        except BaseException as exc:
            failures.append(exc)
            start.abort()
            end.abort()

    parent = threading.Thread(target=store_outcomes)
    parent.start()
    overwritten, seen = [], 0
    for n, task_id in enumerate(tasks):
        sink = sink_of(app, task_id)
        if n % 2:  # the sink knows the key already: it swaps without looking
            sink.write(0)
        start.wait(60)
        sink.write(1)
        sink.write(2)
        end.wait(60)
        seen += sink._closed
        meta = json.loads(redis_client.get(f"celery-task-meta-{task_id}") or b"{}")
        if meta.get("status") != state:
            overwritten.append(meta)
        sink.write(3)
        assert json.loads(redis_client.get(f"celery-task-meta-{task_id}") or b"{}").get("status") == state
    parent.join(60)
    assert failures == []
    assert overwritten == []
    assert seen > 0, "no race was lost by the sink: both sides did not meet"


@pytest.mark.parametrize("state", OUTCOMES)
def test_an_outcome_that_is_there_already_stays(app: Celery, redis_client: redis.Redis, state: str) -> None:
    """E5: a report that comes after the outcome is dropped, with the first look."""
    OUTCOMES[state](app, "job-1")
    before = redis_client.get("celery-task-meta-job-1")
    sink = sink_of(app)
    sink.write(50)
    sink.write(60)
    assert redis_client.get("celery-task-meta-job-1") == before


def test_the_next_attempt_may_replace_the_retry_before_it(app: Celery) -> None:
    """E4: a job in its second attempt shows its progress again."""
    _retry(app, "job-1")
    sink = sink_of(app, retries=1)
    sink.write(5)
    assert AsyncResult("job-1", app=app).info["current"] == 5


def test_the_retry_of_an_attempt_itself_stays(app: Celery) -> None:
    """E5: a late report must not hide that the second attempt ended."""
    _retry(app, "job-1")
    sink = sink_of(app, retries=1)
    sink.write(5)
    _retry(app, "job-1")
    sink.write(6)
    assert AsyncResult("job-1", app=app).state == states.RETRY


def test_the_retry_of_an_attempt_itself_stays_where_its_first_report_is_late(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E5: the attempt ends in the moment before the report looks at what is there, which is no earlier attempt's RETRY then."""
    _retry(app, "job-1")
    sink = sink_of(app, retries=1)
    client = app.backend.client

    def late(key: Any) -> Any:
        monkeypatch.undo()
        sink.close()
        _retry(app, "job-1")
        return client.get(key)

    monkeypatch.setattr(client, "get", late)
    sink.write(5)
    assert AsyncResult("job-1", app=app).state == states.RETRY


def test_started_is_replaced(app: Celery) -> None:
    """E4: `task_track_started` writes it before the handler runs."""
    app.backend.store_result("job-1", {"pid": 1}, states.STARTED, request=request_of("job-1"))
    sink_of(app).write(5)
    assert AsyncResult("job-1", app=app).info["current"] == 5


def test_nothing_is_written_for_a_task_whose_result_is_ignored(app: Celery) -> None:
    """E5: neither where the task says so nor where the call does."""
    ignoring = app.task(work, name="shop.ignoring", ignore_result=True)
    plain = app.task(work, name="shop.plain")
    assert sink_for(ignoring, request_of("job-1")) is None
    assert sink_for(plain, request_of("job-1", ignore_result=True)) is None
    assert sink_for(ignoring, request_of("job-1", ignore_result=False)) is not None


def test_nothing_is_written_without_a_result_backend() -> None:
    """E5: progress is in the job record alone."""
    app = Celery("shop", broker="memory://", set_as_current=False, task_cls=ContextTask)
    task = app.task(work, name="shop.work")
    assert sink_for(task, request_of("job-1")) is None


def test_a_backend_that_is_away_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """E1, L1: a report may be lost, a job may not be hurt."""
    app = Celery("shop", broker="memory://", backend="redis://127.0.0.1:1/0", set_as_current=False, task_cls=ContextTask)
    app.conf.redis_retry_on_timeout = False
    sink = sink_of(app)
    sink.write(1)
    sink.write(2)
    assert [record.levelname for record in caplog.records if record.name == "taskora_celery.results"] == ["WARNING"]


# --- the other backends --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["database", "filesystem", "cache"])
def other_app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Celery]:
    if request.param == "database":
        pytest.importorskip("sqlalchemy")
    url = {"database": f"db+sqlite:///{tmp_path}/results.db", "filesystem": f"file://{tmp_path}", "cache": "cache+memory://"}
    app = Celery("shop", broker="memory://", backend=url[request.param], set_as_current=False, task_cls=ContextTask)
    yield app
    if request.param == "cache":  # the one dictionary of this process
        app.backend.delete(app.backend.get_key_for_task("job-1"))


def test_progress_appears_in_any_backend(other_app: Celery) -> None:
    """E5: the library asks nothing of a backend but to store and to tell a state."""
    sink = sink_of(other_app)
    sink.write(33)
    sink.write(34)
    assert AsyncResult("job-1", app=other_app).info == {"progress": 34, "current": 34, "total": 100, "percent": 34.0}


def test_no_backend_shows_progress_after_the_sink_is_closed(other_app: Celery) -> None:
    """E5: the outcome comes after `close`, and nothing comes over it."""
    sink = sink_of(other_app)
    sink.close()
    sink.write(33)
    assert AsyncResult("job-1", app=other_app).state == states.PENDING


@pytest.mark.parametrize("state", OUTCOMES)
def test_no_backend_loses_an_outcome_that_is_there(other_app: Celery, state: str) -> None:
    """E5: never over SUCCESS, FAILURE, RETRY or REVOKED."""
    OUTCOMES[state](other_app, "job-1")
    sink_of(other_app).write(33)
    assert AsyncResult("job-1", app=other_app).state == state


@pytest.mark.parametrize("value", [float("nan"), {"a": [float("inf")]}, {"k": "\x00"}])
def test_no_backend_fails_on_odd_values(other_app: Celery, value: Any) -> None:
    """E2: reading them back never raises."""
    sink_of(other_app).write(value)
    assert AsyncResult("job-1", app=other_app).state == "PROGRESS"
    AsyncResult("job-1", app=other_app).info  # noqa: B018


def test_closing_waits_for_the_write_that_is_under_way(other_app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """E5: the worker stores the outcome right after `close` returned, and the backend cannot compare."""
    sink = sink_of(other_app)
    inside, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def slow_write(meta: Any) -> None:
        inside.set()
        go_on.wait(10)

    monkeypatch.setattr(sink, "_write", slow_write)
    writing = threading.Thread(target=sink.write, args=(1,))
    writing.start()
    assert inside.wait(10)

    def close() -> None:
        sink.close()
        closed.set()

    closing = threading.Thread(target=close)
    closing.start()
    assert not closed.wait(0.05)
    go_on.set()
    assert closed.wait(10)
    writing.join(10)
    closing.join(10)


def test_closing_does_not_wait_for_a_redis_that_hangs(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 16, E5: the outcome is stored meanwhile, and the write that comes late finds it and changes nothing."""
    sink = sink_of(app)
    inside, go_on = threading.Event(), threading.Event()
    swap = sink._swap  # type: ignore[attr-defined]

    def late_swap(*arguments: Any) -> bool:
        inside.set()
        go_on.wait(10)
        return bool(swap(*arguments))

    monkeypatch.setattr(sink, "_swap", late_swap)
    writing = threading.Thread(target=sink.write, args=(1,))
    writing.start()
    assert inside.wait(10)
    sink.close()
    app.backend.mark_as_done("job-1", "result")
    go_on.set()
    writing.join(10)
    assert AsyncResult("job-1", app=app).result == "result"
    assert AsyncResult("job-1", app=app).state == states.SUCCESS


# --- a database of Django's ---------------------------------------------------------------------------------------------------

#: A result backend in a database of Django's, whose server is started anew after each write.
_IN_DJANGO = """
import sys
import django
from celery.app.task import Context
from django.conf import settings
database = {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}
settings.configure(DATABASES={"default": database})
django.setup()
from django.db import connection
from taskora_celery.results import BackendSink

class Backend:
    written = []

    def get_state(self, job_id):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return "PENDING"

    def store_result(self, job_id, meta, *_, **__):
        self.written.append(meta["progress"])

sink = BackendSink(Backend(), Context(id="job-1"), first_attempt=True)
for number in range(4):
    sink.write(number)
    if connection.connection is not None:
        connection.connection.close()
print(Backend.written, connection.connection)
"""


def test_a_connection_of_djangos_is_given_up(tmp_path: Path) -> None:
    """E4: as Django and Celery do, each in its own thread: one that the server has closed would be used for ever."""
    pytest.importorskip("django")
    done = subprocess.run(
        [sys.executable, "-c", _IN_DJANGO, str(tmp_path / "shop.sqlite3")],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == "[0, 1, 2, 3] None\n", done.stderr
