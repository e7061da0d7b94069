"""Mends of a review, one delivery at a time: what Celery's tracer makes of a job, and what its record says."""

# mypy: allow-untyped-decorators, allow-subclassing-any

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import Reject, SoftTimeLimitExceeded
from kombu.exceptions import OperationalError

from taskora_celery import Context, ContextTask, current_context
from taskora_celery.execution import Execution
from taskora_celery.reading import logs_of, status_of
from taskora_celery.records import Outcome
from taskora_celery.runtime import Runtime
from tests.support.landing import Landing
from tests.support.scripted_store import ScriptedStore
from tests.support.traced import traced, traced_app
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

    from celery import Celery

    from taskora_celery.store.protocol import Begin, Begun, Reply, Report


class InterruptedStore(ScriptedStore):
    """Sends the soft limit's signal while it writes the end of a job."""

    def __init__(self) -> None:
        super().__init__()
        self.interrupt: Callable[[], None] | None = None
        self.survived = 0

    def report(self, reports: Sequence[Report]) -> list[Reply]:
        """As the scripted store, and be interrupted before."""
        interrupt, on_main = self.interrupt, threading.current_thread() is threading.main_thread()
        if interrupt is not None and on_main and any(report.ended for report in reports):
            self.interrupt = None
            interrupt()
            self.survived += 1
        return super().report(reports)


@pytest.fixture
def store() -> InterruptedStore:
    return InterruptedStore()


@pytest.fixture
def app(store: InterruptedStore) -> Iterator[Celery]:
    with traced_app(store) as app:
        yield app


@pytest.fixture
def _soft_limit() -> Iterator[None]:
    """What a prefork child does at the soft limit."""

    def reached(_number: int, _frame: FrameType | None) -> None:
        raise SoftTimeLimitExceeded

    before = signal.signal(signal.SIGUSR1, reached)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def messages(store: ScriptedStore, job_id: str) -> list[str]:
    snapshot = store.read(job_id, 0)
    return [entry.message for entry in logs_of(snapshot, 100, level=None, attempt=None, after=None, limit=None)]


def ended(store: ScriptedStore, job_id: str) -> str | None:
    found = store.read(job_id)
    return None if found is None else found.fields["s"]


# --- H1: the soft limit in our own lines ---------------------------------------------------------------------------------


def to_this_thread() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


def to_the_process() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


@pytest.fixture
def _another_thread() -> Iterator[None]:
    """A library's thread, as many processes have one: it may take the signal, whose handler runs in the main thread."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.mark.usefixtures("_soft_limit", "_another_thread")
@pytest.mark.parametrize("send", [to_this_thread, to_the_process])
def test_a_soft_limit_during_the_last_flush_comes_too_late(
    app: Celery, store: InterruptedStore, send: Callable[[], None]
) -> None:
    """H1: the handler has returned; its result stands, its record is whole, and nothing of it stays behind."""

    @app.task
    def work(ctx: Context) -> str:
        ctx.log.info("entry")
        ctx.progress(1)
        return "done"

    store.interrupt = send
    assert traced(work, task_id="job-1") == ("SUCCESS", "done")
    assert store.survived == 1
    assert (ended(store, "job-1"), messages(store, "job-1")) == (Outcome.SUCCESS, ["entry"])
    reporter = Runtime.of(app).reporter
    assert not reporter._live
    assert not reporter._lock.locked()
    with pytest.raises(SoftTimeLimitExceeded):  # and the signal is held back no longer
        to_this_thread()


@pytest.mark.usefixtures("_soft_limit")
def test_a_soft_limit_in_the_handler_still_fails_the_job(app: Celery, store: InterruptedStore) -> None:
    """H2: what is held back is held back in our lines only."""

    @app.task
    def work(ctx: Context) -> None:
        ctx.log.info("entry")
        to_this_thread()
        threading.Event().wait(30)

    state, error = traced(work, task_id="job-1")
    assert (state, type(error)) == ("FAILURE", SoftTimeLimitExceeded)
    assert (ended(store, "job-1"), messages(store, "job-1")) == (Outcome.FAILURE, ["entry"])


@pytest.mark.usefixtures("_soft_limit")
@pytest.mark.parametrize("ends", ["returns", "raises"])
def test_a_soft_limit_that_lands_in_any_line_leaves_no_half_written_record(
    app: Celery, store: InterruptedStore, ends: str
) -> None:
    """H1, H2, fault 20: Celery and the record agree on how the job ended, and nothing of it stays behind."""

    @app.task
    def work(ctx: Context) -> None:
        ctx.log.info("entry", row=1)
        ctx.progress(1)
        if ends == "raises":
            raise ValueError("no")

    reporter = Runtime.of(app).reporter
    found: list[tuple[Any, ...]] = []
    for number in range(1, 100_000, 23):
        job_id = f"job-{number}"
        landing = Landing(number)
        with landing:
            state, _ = traced(work, task_id=job_id)
        if landing.where is None:
            break
        told = ended(store, job_id)  # None: it came before the job began
        if told not in {state, None} or reporter._live or reporter._lock.locked() or current_context(None) is not None:
            found.append((landing.where, state, told))
    assert number > 1_000
    assert found == []


@pytest.mark.usefixtures("_soft_limit")
def test_a_soft_limit_that_comes_while_the_job_begins_fails_it(
    app: Celery, store: InterruptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H2, L1: a store that lets one wait for a second is enough; the record says how the job ended, and nobody holds it."""

    @app.task
    def work(ctx: Context) -> None:
        ctx.log.info("never")

    begin = store.begin

    def slowly(what: Begin) -> Begun:
        to_this_thread()
        return begin(what)

    monkeypatch.setattr(store, "begin", slowly)
    state, error = traced(work, task_id="job-1")
    assert (state, type(error)) == ("FAILURE", SoftTimeLimitExceeded)
    assert (ended(store, "job-1"), messages(store, "job-1")) == (Outcome.FAILURE, [])
    assert not Runtime.of(app).reporter._live
    assert current_context(None) is None


@pytest.mark.usefixtures("_soft_limit")
def test_a_soft_limit_in_a_retry_of_the_handlers_own_leaves_nothing_locked(app: Celery, store: InterruptedStore) -> None:
    """H1: `self.retry` writes the end of the attempt while the handler is at work."""

    @app.task(bind=True, max_retries=3)
    def work(self: Any, ctx: Context) -> None:
        ctx.log.info("entry")
        raise self.retry(countdown=0)

    store.interrupt = to_this_thread
    state, error = traced(work, task_id="job-1")
    assert (state, type(error), store.survived) == ("FAILURE", SoftTimeLimitExceeded, 1)
    assert ended(store, "job-1") == Outcome.FAILURE
    reporter = Runtime.of(app).reporter
    assert not reporter._lock.locked()
    assert not reporter._live


# --- I2: a retry that cannot be sent -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("acks_late", [True, False])
def test_a_retry_whose_message_cannot_be_made_fails_the_job(app: Celery, store: InterruptedStore, acks_late: bool) -> None:
    """I2: arguments that were changed can never be sent; to give the message back would go on for ever."""

    @app.task(acks_late=acks_late, serializer="json", max_retries=3)
    def work(data: list[Any], ctx: Context) -> None:
        ctx.log.info("entry")
        data.append(object())
        raise ctx.retry(delay=0, reason="once more")

    state, error = traced(work, ["plain"], task_id="job-1")
    assert state == "FAILURE"
    assert "not JSON serializable" in str(error)
    status = status_of("job-1", store.read("job-1"), 100)
    assert (status.state, messages(store, "job-1")) == (Outcome.FAILURE, ["entry"])
    assert not Runtime.of(app).reporter._live


@pytest.mark.parametrize("acks_late", [True, False])
def test_a_retry_that_the_broker_cannot_take_gives_the_message_back(app: Celery, acks_late: bool) -> None:
    """I2: where it is acknowledged late, the job runs again when the broker is there; else Celery's own error stands."""

    @app.task(acks_late=acks_late, max_retries=3)
    def work(ctx: Context) -> None:
        raise ctx.retry(delay=0, reason="once more")

    def away(*_: Any, **__: Any) -> None:
        raise OperationalError("no broker")

    work.apply_async = away
    state, error = traced(work, task_id="job-1")
    if acks_late:
        assert (state, type(error), error.requeue) == ("REJECTED", Reject, True)
    else:
        assert (state, type(error)) == ("FAILURE", OperationalError)
    assert not Runtime.of(app).reporter._live


# --- F4: a body that runs twice, and a task that is replaced -----------------------------------------------------------------


class Twice(ContextTask):
    """Runs the body again when it has failed."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with contextlib.suppress(KeyError):
            return self.run(*args, **kwargs)
        return self.run(*args, **kwargs)


def test_a_body_that_runs_twice_keeps_the_log_of_the_first_run(app: Celery, store: InterruptedStore) -> None:
    """A4, F2: the same delivery goes on; its record is not begun anew."""
    runs: list[int] = []

    @app.task(base=Twice)
    def work(ctx: Context) -> str:
        runs.append(1)
        ctx.log.info(f"run {len(runs)}")
        if len(runs) == 1:
            raise KeyError("once")
        return "done"

    assert traced(work, task_id="job-1") == ("SUCCESS", "done")
    assert (ended(store, "job-1"), messages(store, "job-1")) == (Outcome.SUCCESS, ["run 1", "run 2"])


def test_a_replaced_task_keeps_the_log_of_its_first_stage(app: Celery, store: InterruptedStore) -> None:
    """F2, A6: the replacement has the same id, and may begin before the first stage's tracer has ended."""
    outcomes: list[tuple[str, Any]] = []

    @app.task
    def second(ctx: Context) -> str:
        ctx.log.info("second stage")
        return "done"

    @app.task(bind=True)
    def first(self: Any, ctx: Context) -> Any:
        ctx.log.info("first stage")
        raise self.replace(second.si())

    def run_at_once(*_: Any, **__: Any) -> None:
        """Be another worker, which takes the message as soon as it is sent."""
        worker = threading.Thread(target=lambda: outcomes.append(traced(second, task_id="job-1")))
        worker.start()
        worker.join(30)

    second.apply_async = run_at_once
    state, _ = traced(first, task_id="job-1")
    assert (state, outcomes) == ("IGNORED", [("SUCCESS", "done")])
    status = status_of("job-1", store.read("job-1"), 100)
    assert (status.state, status.delivery, messages(store, "job-1")) == (Outcome.SUCCESS, 1, ["first stage", "second stage"])


class Grumbling(ContextTask):
    """Has a `retry` that fails before it comes to ours."""

    abstract = True

    def retry(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no retry today")


def test_nothing_of_a_job_outlives_its_request_where_a_retry_never_comes_to_ours(
    app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    """A4: autoretry calls a subclass's `retry`, which raises before `super()`."""
    caplog.set_level(logging.CRITICAL, "celery.app.trace")  # pytest keeps records, and they the traceback with the request

    @app.task(base=Grumbling, autoretry_for=(OSError,))
    def work(ctx: Context) -> None:
        ctx.log.info("entry")
        raise OSError("no answer")

    state, error = traced(work, task_id="job-1")
    assert (state, type(error)) == ("FAILURE", RuntimeError)
    del error
    gc.collect()
    assert not Runtime.of(app).reporter._live
    wait_until(lambda: not Runtime.of(app).reporter._backlog, "the last entries to be written")


def test_a_job_that_has_ended_is_gone_without_the_garbage_collector(app: Celery) -> None:
    """P6: who waits for the collector makes it look through the process's whole memory the more often."""
    seen: list[weakref.ref[Any]] = []

    @app.task
    def work(ctx: Context) -> None:
        ctx.progress(50)
        ctx.log.info("entry")
        seen.extend(weakref.ref(each) for each in (ctx, ctx.control))

    traced(work, task_id="warm-up")
    seen.clear()
    gc.disable()
    try:
        traced(work, task_id="job-1")
        wait_until(lambda: [each() for each in seen] == [None, None], "the context and what stops the job to go")
    finally:
        gc.enable()


def test_the_outcome_of_a_job_keeps_no_execution_alive(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    """A4: a pool's process has the last outcome until its next job has ended; the causes of an error count, too."""
    caplog.set_level(logging.CRITICAL, "celery.app.trace")
    places: list[str] = []

    @app.task(max_retries=0)
    def work(ctx: Context) -> None:
        places.append("of the handler's own")
        raise ctx.retry(reason="no answer", exc=OSError("no answer"))

    state, error = traced(work, task_id="job-1")
    gc.collect()
    assert (state, type(error.__cause__)) == ("FAILURE", OSError)
    assert not [each for each in gc.get_objects() if type(each) is Execution and each.ctx.id == "job-1"]
    raised = error.__context__.__traceback__
    while raised.tb_next is not None:
        raised = raised.tb_next
    assert raised.tb_frame.f_locals["places"] is places, "a handler's variables stay, for reports of errors"
