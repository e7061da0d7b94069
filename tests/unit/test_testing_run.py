"""The test kit: one run, with no broker and no Redis, on the road that a worker takes."""

# mypy: allow-untyped-decorators

from __future__ import annotations

import gc
import logging
import socket
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, group
from kombu.exceptions import EncodeError

from taskora_celery import Context, ContextTask, current_context
from taskora_celery.runtime import Runtime
from taskora_celery.testing import JobRunner, run_job
from tests.support import kit_jobs as jobs


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A port that takes connections, for a test that wants none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@pytest.fixture
def no_logging() -> Iterator[None]:
    """Without log records: pytest keeps them, and they keep tracebacks with all that their frames hold."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_a_run_tells_all_that_a_handler_did() -> None:
    """O1: the result, the state, the attempts, and every report in call order."""
    run = run_job(jobs.greet, "Ada")
    assert (run.result, run.state, run.exception, run.reason) == ("hello Ada", "SUCCESS", None, None)
    assert run.progress == (50, {"current": 1, "total": 1, "percent": 100.0, "message": "done"})
    assert [(entry.level, entry.message, entry.meta) for entry in run.logs] == [("info", "greeting", {"name": "Ada"})]
    assert (run.checkpoints, run.heartbeats, run.sleeps) == (({"name": "Ada"},), 1, (3.0,))
    assert (run.attempts, run.deliveries, run.delays, run.steps, run.elapsed) == (1, 1, (), 6, 3.0)
    assert [(record.number, record.outcome, record.worker) for record in run.history] == [(1, "SUCCESS", "worker-1@test")]
    assert run.get() == "hello Ada"


def test_a_failure_is_the_handlers_own_exception() -> None:
    """O1, A6: with its traceback; the observer's handle raises it, too, as the result backend has it."""
    run = run_job(jobs.fails)
    assert (run.state, run.result, run.reason, run.progress) == ("FAILURE", None, "no such row", (10,))
    assert isinstance(run.exception, LookupError)
    assert run.exception.__traceback__ is not None
    with pytest.raises(LookupError, match="no such row"):
        run.get()
    with pytest.raises(LookupError, match="no such row"):
        run.handle.get(timeout=1)


def test_the_handle_of_a_run_reads_what_production_would_keep() -> None:
    """O1, J2: the record and the journal are the store's, and say the same as what was recorded."""
    run = run_job(jobs.greet, "Ada")
    handle = run.handle
    assert (handle.state, handle.get(timeout=1), handle.get_progress()) == (run.state, run.result, run.progress[-1])
    assert [(e.level, e.message, e.meta, e.timestamp) for e in handle.get_logs()] == [
        (e.level, e.message, e.meta, e.timestamp) for e in run.logs
    ]
    record = handle.record()
    assert (record.state, record.attempt, record.worker, record.ended_ms) == (
        "SUCCESS", 1, "worker-1@test", record.started_ms + 3_000,
    )  # fmt: skip


@pytest.mark.parametrize("by_environment", [False, True])
def test_nothing_connects(listening: socket.socket, monkeypatch: pytest.MonkeyPatch, by_environment: bool) -> None:
    """O1: an app for a real broker and a real Redis is run without them, whatever the handler sends."""
    url = f"redis://127.0.0.1:{listening.getsockname()[1]}/0"
    if by_environment:
        monkeypatch.setenv("CELERY_BROKER_URL", url)
        monkeypatch.setenv("CELERY_RESULT_BACKEND", url)
    app = Celery("shop", broker=url, backend=url, task_cls=ContextTask, set_as_current=False)
    app.conf.taskora_redis_url = url

    @app.task(shared=False)
    def other(number: int) -> None:
        """Be sent."""

    @app.task(bind=True, shared=False, max_retries=1)
    def work(self: Any, ctx: Context) -> str:
        """Do what would need all of them."""
        ctx.progress(1)
        other.delay(1)
        self.app.send_task("elsewhere", (2,))
        self.update_state(state="OWN", meta={"mine": 1})
        other.AsyncResult("unknown").state  # noqa: B018 - it asks the result backend
        if ctx.attempt == 1:
            raise ctx.retry(delay=60)
        ctx.sleep(600)
        return "done"

    run = run_job(work.s().set(link=other.s()))
    assert (run.state, len(run.sent)) == ("SUCCESS", 5)
    with pytest.raises(BlockingIOError):
        listening.accept()
    app.close()


@pytest.mark.parametrize(
    ("task", "args", "result"),
    [
        (jobs.bound, (), ["tests.support.kit_jobs.bound", True, True, True, True]),
        (jobs.summing, (1, 2), 103),
        (jobs.shared, (), "tests.support.kit_jobs.shared"),
        (jobs.untracked, ("left",), "left"),
        (jobs.ignoring, (), 7),
    ],
    ids=["bound", "class", "shared", "untracked", "ignored result"],
)
def test_every_kind_of_task_runs(task: Any, args: tuple[Any, ...], result: Any) -> None:
    """O1, A4: functions, bound ones, classes, shared ones; a bound handler's self is the task itself."""
    if task is jobs.shared:
        task = jobs.app.tasks["tests.support.kit_jobs.shared"]
    run = run_job(task, *args)
    assert (run.state, run.result, run.attempts) == ("SUCCESS", result, 1)


def test_a_handler_that_needs_no_context_has_one() -> None:
    """O1, A3: the context of a handler without the parameter is the current one."""

    @jobs.app.task(shared=False, name="kit.plain_handler")
    def plain_handler() -> int:
        """Report through the current context."""
        current_context().progress(5)
        return 5

    assert run_job(plain_handler).progress == (5,)


def test_arguments_and_results_travel_encoded() -> None:
    """O1, A6: what JSON does to them, and refuses, is what production would show."""
    assert run_job(jobs.echo, (1, 2)).result == [1, 2]
    assert run_job(jobs.returns_a_tuple).result == [1, 2]
    with pytest.raises(EncodeError):
        run_job(jobs.echo, object())
    run = run_job(jobs.returns_a_set)
    assert (run.state, type(run.exception)) == ("FAILURE", EncodeError)
    assert (run.handle.record().state, run.handle.record().error) == ("FAILURE", "EncodeError")


def test_arguments_are_checked_as_by_delay() -> None:
    """O1, A2: the error is plain Celery's, and never counts the context."""
    with pytest.raises(TypeError, match="takes 1 positional argument but 2 were given"):
        run_job(jobs.echo, 1, 2)


def test_progress_and_logs_are_recorded_as_a_reader_sees_them() -> None:
    """O1, F6, F7: redacted, plain; records of the task's own loggers are among them."""
    run = run_job(jobs.logs_elsewhere)
    assert [(entry.level, entry.message, entry.logger) for entry in run.logs] == [
        ("warn", "mine", None),
        ("error", "theirs", "celery.task.kit.tests"),
    ]
    assert run.logs[0].meta != {"password": "hunter2"}
    assert run.steps == 2


def test_what_celery_ends_by_itself_keeps_its_name() -> None:
    """O1, I6: Ignore and Reject pass through; what is rejected with requeue comes again."""
    assert run_job(jobs.ignores).state == "IGNORED"
    run = run_job(jobs.rejects_once)
    assert (run.state, run.result, run.attempts, run.deliveries) == ("SUCCESS", [2, True], 1, 2)


def test_a_handlers_own_parameter_may_have_an_options_name() -> None:
    """O1: on the call it is ambiguous and refused; a runner takes the option, and its run() all that is the handler's."""
    with pytest.raises(TypeError, match=r"cancel_at= is an option of run_job\(\) and a parameter of the handler"):
        run_job(jobs.own_names, cancel_at="noon")
    run = JobRunner(timeout_at=1).run(jobs.own_names, cancel_at="noon", store_down=3)
    assert run.state == "FAILURE"
    assert JobRunner().run(jobs.own_names, cancel_at="noon", store_down=3).result == ["noon", 3]
    assert run_job(jobs.own_names.s(cancel_at="noon"), max_deliveries=3).result == ["noon", 0]


def test_what_is_no_task_of_this_library_is_refused() -> None:
    """O1: Celery's own base knows nothing of a context, and would be sent to its broker."""

    def handler() -> None:
        """Belong to Celery alone."""

    plain = Celery("plain", broker=jobs.NOWHERE, set_as_current=False).task(shared=False)(handler)
    for wrong in (plain, print, group(jobs.echo.s(1))):
        with pytest.raises(TypeError, match="give a task whose base is ContextTask"):
            run_job(wrong)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"cancel_at": -1}, ValueError, "cancel_at=-1: the first report is 1"),
        ({"timeout_at": 0}, ValueError, "timeout_at=0: the first report is 1"),
        ({"shutdown_at": -0.5}, ValueError, "shutdown_at=-0.5 is not a duration: give 0 or more seconds"),
        ({"cancel_at": "3"}, TypeError, "cancel_at='3' is not a duration: give seconds or a timedelta"),
        ({"cancel_at": 1, "cancel_reason": 5}, TypeError, "cancel_reason=5 is not a text"),
        ({"cancel_at": 1, "cancel_grace": -5}, ValueError, "cancel_grace=-5.0 is not a duration: give 0 or more seconds"),
        ({"cancel_at": 1, "cancel_grace": "5"}, TypeError, "cancel_grace='5' is not a duration: give seconds or a timedelta"),
        ({"store_down": (4, 2)}, ValueError, r"store_down=\(4, 2\): give the first and the last report of the outage, or True"),
        ({"store_down": 5}, TypeError, "store_down=5: give the first and the last report of the outage, or True"),
        ({"store_down": (1, 2, 3)}, TypeError, r"store_down=\(1, 2, 3\): give the first and the last report"),
        ({"store_down": ("1", "2")}, TypeError, r"store_down=\('1', '2'\): give the first and the last report"),
        ({"max_deliveries": "3"}, TypeError, "max_deliveries='3' is no whole number"),
        ({"cancle_at": 3}, TypeError, "cancle_at= is no option of a run: there are cancel_at, cancel_grace, "),
        ({"max_deliveries": 0}, ValueError, "max_deliveries=0: a job is delivered at least once"),
        ({"cancel_on": 3}, TypeError, "cancel_on"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(options: dict[str, Any], error: type[Exception], message: str) -> None:
    """O1: a condition that cannot be met would make the test show nothing."""
    with pytest.raises(error, match=message):
        JobRunner(**options)
    with pytest.raises(error, match=message):
        JobRunner(store_down=True)(**options)


@pytest.mark.parametrize("options", [{"cancel_reason": "wrong file"}, {"cancel_grace": 5, "cancel_at": False}])
def test_how_to_cancel_is_refused_where_nobody_cancels(options: dict[str, Any]) -> None:
    """O1: in one run it would be ignored without a word; a runner may hold it for runs that are cancelled."""
    with pytest.raises(ValueError, match="nobody cancels the job; say when with cancel_at, or leave it out"):
        run_job(jobs.greet, "Ada", **options)
    runner = JobRunner(**options)
    assert runner(cancel_at=0).run(jobs.greet, "Ada").state == "REVOKED"


def test_an_app_that_is_always_eager_is_run_all_the_same() -> None:
    """O1, A5: as by a worker, with retries in virtual time, and not in the caller's place."""
    app = Celery("eager", broker=jobs.NOWHERE, task_cls=ContextTask, set_as_current=False)
    app.conf.task_always_eager = True

    @app.task(shared=False)
    def work(ctx: Context) -> int:
        """Retry once."""
        if ctx.attempt == 1:
            raise ctx.retry(delay=99)
        return ctx.attempt

    run = run_job(work)
    assert (run.result, run.delays) == (2, (99.0,))


@pytest.mark.parametrize("options", [{}, {"cancel_at": 2}, {"store_down": True}, {"timeout_at": 1}])
@pytest.mark.usefixtures("no_logging")
def test_a_run_leaves_nothing_behind(options: dict[str, Any]) -> None:
    """O1: no thread, no app, no runtime; the task is its own app's again."""
    threads = set(threading.enumerate())
    run = run_job(jobs.greet, "Ada", **options)
    stand_in = weakref.ref(run.handle.app)
    assert stand_in() is not jobs.app
    assert jobs.greet.app is jobs.app
    assert set(threading.enumerate()) == threads
    del run
    gc.collect()
    assert stand_in() is None
    assert jobs.app not in Runtime._by_app


def test_runs_in_several_threads_do_not_see_each_other() -> None:
    """O1: nothing of a run is global; each has its clock, its store and its queue."""
    runs: dict[int, Any] = {}

    def one(number: int) -> None:
        runs[number] = run_job(jobs.count, number, cancel_at=3 * number if number % 2 else None)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: run.state for number, run in runs.items()} == {
        number: "REVOKED" if number % 2 else "SUCCESS" for number in range(1, 7)
    }
    assert all(run.progress == tuple(range(1, number + 1)) for number, run in runs.items())


def test_a_handler_may_run_a_job_itself() -> None:
    """O1: a run within a run is one of its own."""

    @jobs.app.task(shared=False, name="kit.outer")
    def outer(ctx: Context) -> Any:
        """Run another job."""
        ctx.progress("outer")
        inner = run_job(jobs.greet, "inner")
        jobs.other.delay()
        return [inner.result, len(inner.progress)]

    run = run_job(outer)
    assert (run.result, run.progress, len(run.sent)) == (["hello inner", 2], ("outer",), 1)
