"""Jobs that are cancelled, requeued and timed out, one delivery at a time: what Celery's tracer sees, and what is stored."""

# mypy: allow-untyped-decorators, allow-subclassing-any

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import pickle
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from celery import current_task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded, TaskRevokedError

from taskora_celery import Context, ContextTask, JobAbortedError, JobCancelledError, JobHandle, current_context, reading
from taskora_celery.cancelling import cancel_job, mend_revoked, request_of
from taskora_celery.delivery import STAMP
from taskora_celery.errors import StoreUnavailableError
from taskora_celery.outcomes import Cancelled, GivenBack
from taskora_celery.reading import history_of, logs_of, status_of
from taskora_celery.records import CancelReceipt, Outcome
from taskora_celery.runtime import Runtime
from taskora_celery.stopping import JobStop
from taskora_celery.store.journal import decode
from taskora_celery.store.protocol import Shutdown
from tests.support.cancels import job_in
from tests.support.executions import ScriptedExecution
from tests.support.scripted_store import ScriptedStore
from tests.support.traced import traced, traced_app
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from celery import Celery

JOB = "job-1"
TIMEOUT = 10.0  # seconds
#: What the worker's parent says of a first delivery that was not cancelled before.
CHECKED = {STAMP: (0, 0, None)}


@pytest.fixture
def store() -> ScriptedStore:
    return ScriptedStore()


@pytest.fixture
def app(store: ScriptedStore) -> Iterator[Celery]:
    with traced_app(store) as app:
        app.backend.forget(JOB)  # the backend in memory is that of all apps of the process
        yield app
        app.backend.forget(JOB)


@pytest.fixture
def sent(app: Celery, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of every message that is sent."""
    messages: list[dict[str, Any]] = []
    monkeypatch.setattr(app, "send_task", lambda name, *_, **options: messages.append({"name": name, **options}))
    monkeypatch.setattr(ContextTask, "apply_async", lambda self, *_, **options: messages.append({"name": self.name, **options}))
    return messages


class Failures:
    """What a backend was told of failed jobs, which is where chords and ``link_error`` begin."""

    def __init__(self, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[tuple[str, str, str | None, bool]] = []
        original = backend.mark_as_failure

        def mark_as_failure(task_id: str, exc: Any, **options: Any) -> Any:
            reason = getattr(exc, "reason", None)
            assert options["request"].id == task_id, "without its request nobody finds the chord and the callbacks"
            self.told.append((task_id, options.get("state", "FAILURE"), reason, options.get("store_result", True)))
            return original(task_id, exc, **options)

        monkeypatch.setattr(backend, "mark_as_failure", mark_as_failure)


@pytest.fixture
def failures(app: Celery, monkeypatch: pytest.MonkeyPatch) -> Failures:
    return Failures(app.backend, monkeypatch)


def record(store: ScriptedStore) -> tuple[str, str | None, str | None]:
    status = status_of(JOB, store.read(JOB), 100)
    return status.state, status.error, status.reason


def messages(store: ScriptedStore) -> list[str]:
    return [entry.message for entry in logs_of(store.read(JOB, 0), 100, level=None, attempt=None, after=None, limit=None)]


def phases(store: ScriptedStore) -> list[str]:
    found = store.read(JOB, 0)
    assert found is not None
    return [event.data["phase"] for event in decode(found.journal) if event.kind == "cancel"]


def cancelled_meanwhile(ctx: Context, app: Celery, reason: str | None = "no longer wanted", **options: Any) -> CancelReceipt:
    """In a handler: be cancelled by another process, and hear of it."""
    receipt = cancel_job(app, ctx.id, reason, **options)
    assert ctx.signal.wait(TIMEOUT)
    return receipt


def cancelled_unheard(ctx: Context, app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a handler: be cancelled by another process, and not hear of it before the end."""
    monkeypatch.setattr(Runtime.of(app).stopper, "announced", lambda _: None)
    monkeypatch.setattr(Runtime.of(app).stopper, "cancel", lambda _: None)
    assert cancel_job(app, ctx.id, "no longer wanted").outcome == "requested"
    assert not ctx.signal.aborted


CANCELLED = (Outcome.REVOKED, "JobCancelledError", "no longer wanted")


# --- G3, G6: how a handler may end after a cancel ----------------------------------------------------------------------


def returns(ctx: Context) -> str:
    return f"a result of {ctx.id} that nobody wants"


def raises(ctx: Context) -> None:
    raise OSError("closed in the middle of it")


def raises_if_aborted(ctx: Context) -> None:
    ctx.signal.raise_if_aborted()


def swallows(ctx: Context) -> str:
    try:
        ctx.sleep(30)
    except JobAbortedError:
        return "went on"
    return "slept"


def asks_for_a_retry(ctx: Context) -> None:
    raise ctx.retry(delay=0, reason="once more")


def asks_to_be_requeued(ctx: Context) -> None:
    raise ctx.requeue()


def ignores(ctx: Context) -> None:
    raise Ignore("not mine")


def rejects(ctx: Context) -> None:
    raise Reject("not mine", requeue=True)


def is_cancelled_elsewhere(ctx: Context) -> None:
    raise JobCancelledError("another-job", "of another")


ENDS = [
    returns,
    raises,
    raises_if_aborted,
    swallows,
    asks_for_a_retry,
    asks_to_be_requeued,
    ignores,
    rejects,
    is_cancelled_elsewhere,
]


@pytest.mark.parametrize("acks_late", [True, False])
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_however_its_handler_ends_a_cancelled_job_is_revoked(
    app: Celery,
    store: ScriptedStore,
    failures: Failures,
    sent: list[dict[str, Any]],
    end: Callable[[Context], Any],
    acks_late: bool,
) -> None:
    """G3, G6: its result is discarded; nothing is sent, retried or requeued; chords and ``link_error`` see a failure, once."""

    @app.task(acks_late=acks_late, max_retries=3)
    def work(ctx: Context) -> Any:
        assert cancelled_meanwhile(ctx, app).outcome == "requested"
        return end(ctx)

    state, error = traced(work, task_id=JOB)
    assert (state, type(error), error.reason) == ("IGNORED", Cancelled, "no longer wanted")
    assert (record(store), sent) == (CANCELLED, [])
    assert failures.told == [(JOB, "REVOKED", "no longer wanted", True)]
    with pytest.raises(JobCancelledError) as caught:
        JobHandle(JOB, app=app).get(timeout=TIMEOUT)
    assert isinstance(caught.value, TaskRevokedError)
    assert (caught.value.job_id, caught.value.reason) == (JOB, "no longer wanted")
    assert not Runtime.of(app).reporter._live


@pytest.mark.parametrize("end", [*ENDS[:2], *ENDS[4:8]], ids=lambda end: end.__name__)
def test_a_job_that_has_not_heard_of_its_cancel_cannot_end_otherwise(
    app: Celery,
    store: ScriptedStore,
    failures: Failures,
    sent: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    end: Callable[[Context], Any],
) -> None:
    """G7: the cancel was acknowledged, the announcement was lost: the end itself is refused."""

    @app.task(acks_late=True, max_retries=3)
    def work(ctx: Context) -> Any:
        cancelled_unheard(ctx, app, monkeypatch)
        return end(ctx)

    state, error = traced(work, task_id=JOB)
    assert (state, type(error)) == ("IGNORED", Cancelled)
    assert (record(store), sent) == (CANCELLED, [])
    assert failures.told == [(JOB, "REVOKED", "no longer wanted", True)]


def test_the_entries_of_a_cancelled_job_are_kept(app: Celery, store: ScriptedStore) -> None:
    """G3, F4: what it wrote until then, and how it was told."""

    @app.task
    def work(ctx: Context) -> None:
        ctx.log.info("before")
        cancelled_meanwhile(ctx, app)
        ctx.log.info("after")

    traced(work, task_id=JOB)
    assert (messages(store), phases(store)) == (["before", "after"], ["requested", "delivered"])


@pytest.mark.parametrize("ignored", [True, False])
def test_a_job_whose_result_is_ignored_stores_none_and_still_tells_its_chord(
    app: Celery, failures: Failures, ignored: bool
) -> None:
    """G6: also where the caller says so, for one call."""

    @app.task(ignore_result=ignored)
    def work(ctx: Context) -> None:
        cancelled_meanwhile(ctx, app, None)

    traced(work, task_id=JOB)
    assert failures.told == [(JOB, "REVOKED", None, not ignored)]
    assert app.backend.get_state(JOB) == ("PENDING" if ignored else "REVOKED")


def test_a_backend_that_fails_does_not_keep_the_job_from_ending(
    app: Celery, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """G6: the record says it, and the message is acknowledged."""

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no backend")

    monkeypatch.setattr(app.backend, "mark_as_failure", fail)

    @app.task
    def work(ctx: Context) -> None:
        cancelled_meanwhile(ctx, app)

    state, _ = traced(work, task_id=JOB)
    assert (state, record(store)) == ("IGNORED", CANCELLED)
    assert "its result could not be stored" in caplog.text


def retries_as_celery_does(ctx: Context) -> None:
    raise current_task.retry(countdown=0)


@pytest.mark.parametrize(
    "end",
    [returns, raises, asks_for_a_retry, asks_to_be_requeued, is_cancelled_elsewhere, retries_as_celery_does],
    ids=lambda end: end.__name__,
)
def test_a_job_that_has_heard_of_its_cancel_is_revoked_also_where_the_store_is_away(
    app: Celery, store: ScriptedStore, failures: Failures, sent: list[dict[str, Any]], end: Callable[[Context], Any]
) -> None:
    """G6, G7, L1: nobody can refuse its end, or its retry, then; the record says so when the store is back."""

    @app.task(acks_late=True, max_retries=3)
    def work(ctx: Context) -> Any:
        cancelled_meanwhile(ctx, app)
        store.away = True
        return end(ctx)

    state, error = traced(work, task_id=JOB)
    assert (state, type(error), sent) == ("IGNORED", Cancelled, [])
    assert failures.told == [(JOB, "REVOKED", "no longer wanted", True)]
    store.away = False
    wait_until(lambda: record(store) == CANCELLED, "the end to be written", TIMEOUT)


def test_a_job_that_was_delivered_again_says_nothing_of_its_cancel(app: Celery, store: ScriptedStore, failures: Failures) -> None:
    """D7: the newer delivery ends the job; this one counts no more."""

    @app.task
    def work(ctx: Context) -> None:
        cancelled_meanwhile(ctx, app)
        store.memory._jobs[JOB].fields["f"] += 1

    state, error = traced(work, task_id=JOB)
    assert (state, type(error)) == ("REJECTED", GivenBack)
    assert failures.told == []


@pytest.mark.parametrize("silent", [False, True])
def test_a_cancel_whose_announcement_was_missed_arrives_all_the_same(
    app: Celery, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    """G1: with the next report; and, of a job that says nothing, as soon as announcements are heard again."""
    runtime = Runtime.of(app)
    listener = runtime.listener
    assert listener is not None

    @app.task
    def work(ctx: Context) -> None:
        monkeypatch.setattr(runtime.stopper, "announced", lambda _: None)
        assert cancel_job(app, ctx.id, "no longer wanted").outcome == "requested"
        assert not ctx.signal.wait(0.05)
        listener._on_ready() if silent else ctx.progress(1)
        assert ctx.signal.wait(TIMEOUT)
        assert (ctx.signal.reason, ctx.signal.message) == ("cancelled", "no longer wanted")

    traced(work, task_id=JOB)
    assert (record(store), phases(store)) == (CANCELLED, ["requested", "delivered"])


# --- G6: the roads to a retry --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heard", [True, False])
def test_celerys_own_retry_is_refused(
    app: Celery, store: ScriptedStore, sent: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, heard: bool
) -> None:
    """G6: a cancelled job is never retried; its handler learns of it where it asked."""
    caught: list[BaseException] = []

    @app.task(bind=True, max_retries=3)
    def work(self: Any, ctx: Context) -> None:
        cancelled_meanwhile(ctx, app) if heard else cancelled_unheard(ctx, app, monkeypatch)
        try:
            self.retry(countdown=0)
        except JobCancelledError as exc:
            caught.append(exc)
            assert ctx.signal.reason == "cancelled"
            raise

    state, error = traced(work, task_id=JOB)
    assert (state, type(error)) == ("IGNORED", Cancelled)
    assert [str(exc) for exc in caught] == [f"job {JOB} was cancelled: no longer wanted"]
    assert (record(store), sent) == (CANCELLED, [])


@pytest.mark.parametrize("heard", [True, False])
def test_celerys_own_retry_is_refused_as_often_as_it_is_asked_for(
    app: Celery, store: ScriptedStore, sent: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, heard: bool
) -> None:
    """G6: a handler that retries whatever its lines raise has taken the refusal for an error of theirs."""
    asked: list[str] = []

    @app.task(bind=True, max_retries=3)
    def work(self: Any, ctx: Context) -> None:
        cancelled_meanwhile(ctx, app) if heard else cancelled_unheard(ctx, app, monkeypatch)
        try:
            asked.append("first")
            self.retry(countdown=0)
        except Exception as exc:
            asked.append("again")
            raise self.retry(exc=exc, countdown=60) from exc

    state, error = traced(work, task_id=JOB)
    assert (state, type(error), asked) == ("IGNORED", Cancelled, ["first", "again"])
    assert (record(store), sent) == (CANCELLED, [])


@pytest.mark.parametrize("heard", [True, False])
def test_celerys_autoretry_is_refused(
    app: Celery,
    store: ScriptedStore,
    failures: Failures,
    sent: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    heard: bool,
) -> None:
    """G6: whatever `autoretry_for` names."""

    @app.task(autoretry_for=(Exception,), max_retries=3, retry_backoff=False)
    def work(ctx: Context) -> None:
        cancelled_meanwhile(ctx, app) if heard else cancelled_unheard(ctx, app, monkeypatch)
        raise OSError("no answer")

    state, error = traced(work, task_id=JOB)
    assert (state, type(error)) == ("IGNORED", Cancelled)
    assert (record(store), sent) == (CANCELLED, [])
    assert failures.told == [(JOB, "REVOKED", "no longer wanted", True)]


def test_a_retry_that_was_sent_before_the_cancel_is_not_taken_back(app: Celery, store: ScriptedStore) -> None:
    """G2: from then on it waits for its retry, and is cancelled as what has not begun."""
    receipts: list[str] = []

    @app.task(bind=True, max_retries=3)
    def work(self: Any, ctx: Context) -> None:
        try:
            self.retry(countdown=60)
        finally:
            receipts.append(cancel_job(app, ctx.id, "no longer wanted").outcome)

    state, _ = traced(work, task_id=JOB)
    assert (state, receipts, record(store)) == ("RETRY", ["cancelled"], CANCELLED)


# --- G2: what has not begun --------------------------------------------------------------------------------------------


def test_the_message_of_a_cancelled_job_is_dropped_and_its_chord_told(
    app: Celery, store: ScriptedStore, failures: Failures
) -> None:
    """G2, G6: the handler never runs."""
    runs: list[str] = []

    @app.task
    def work(ctx: Context) -> None:
        runs.append(ctx.id)

    assert cancel_job(app, JOB, "no longer wanted", queued=True).outcome == "cancelled"
    state, error = traced(work, task_id=JOB)
    assert (state, type(error), error.reason, runs) == ("IGNORED", Cancelled, "no longer wanted", [])
    assert (record(store), failures.told) == (CANCELLED, [(JOB, "REVOKED", "no longer wanted", True)])
    assert not Runtime.of(app).reporter._live


def test_every_delivery_is_registered_before_its_handler_is_called(app: Celery, store: ScriptedStore) -> None:
    """G2, J2: a cancel is decided against it, so nobody is told that a job will never run which does."""

    @app.task
    def work(ctx: Context) -> str:
        return cancel_job(app, JOB, "no longer wanted", queued=True).outcome

    state, _ = traced(work, task_id=JOB, **CHECKED)
    assert len(store.begins) == 1
    assert (state, record(store)) == ("IGNORED", CANCELLED)
    found = store.read(JOB, 0)
    assert found is not None
    assert [event.data["phase"] for event in decode(found.journal) if event.kind == "cancel"][:1] == ["requested"]


def test_a_cancel_before_the_start_is_seen_by_the_first_delivery(app: Celery, store: ScriptedStore) -> None:
    """G2: whatever this process has heard."""
    ran: list[bool] = []

    @app.task
    def work(ctx: Context) -> None:
        ran.append(True)

    assert cancel_job(app, JOB, "no longer wanted", queued=True).outcome == "cancelled"
    state, _ = traced(work, task_id=JOB, **CHECKED)
    assert (state, ran, record(store)) == ("IGNORED", [], CANCELLED)


# --- G5: cleaning up -------------------------------------------------------------------------------------------------------


def test_on_cancel_runs_behind_the_handler_and_before_the_outcome(app: Celery, store: ScriptedStore, failures: Failures) -> None:
    """G5: with the context and the job's arguments; its entries are the job's."""
    order: list[Any] = []

    def clean(ctx: Context, *args: Any, **kwargs: Any) -> None:
        order.append((args, kwargs, record(store)[0], list(failures.told), ctx is current_context()))
        ctx.log.info("cleaned")

    @app.task(on_cancel=clean)
    def work(data: str, ctx: Context) -> None:
        cancelled_meanwhile(ctx, app)
        order.append("handler")

    traced(work, "data", task_id=JOB)
    assert order == ["handler", (("data",), {}, "STARTED", [], True)]
    assert (record(store), messages(store)) == (CANCELLED, ["cleaned"])


def test_on_cancel_may_be_a_method(app: Celery, store: ScriptedStore) -> None:
    """G5: of the task's class."""
    seen: list[Any] = []

    class Cleaning(ContextTask):
        abstract = True

        def on_cancel(self, ctx: Context, *args: Any) -> None:
            seen.append((self.name, ctx.id, args))

    @app.task(base=Cleaning, name="cleaning.work")
    def work(data: int, ctx: Context) -> None:
        cancelled_meanwhile(ctx, app)
        raise OSError("stopped")

    traced(work, 7, task_id=JOB)
    assert (seen, record(store)) == ([("cleaning.work", JOB, (7,))], CANCELLED)


def test_on_cancel_may_be_a_function_that_an_abstract_class_is_given(app: Celery) -> None:
    """G5: it is no method of that class, and gets no ``self``."""
    calls: list[Any] = []

    def clean(ctx: Context, *args: Any) -> None:
        calls.append((ctx.id, args))

    class Cleaning(ContextTask):
        abstract = True
        on_cancel = clean

    @app.task(base=Cleaning)
    def work(data: int, ctx: Context) -> None:
        cancelled_meanwhile(ctx, app)

    traced(work, 7, task_id=JOB)
    assert calls == [(JOB, (7,))]


def test_an_error_of_on_cancel_is_logged_and_changes_no_outcome(app: Celery, store: ScriptedStore, failures: Failures) -> None:
    """G5: it is not the job's."""

    def clean(ctx: Context) -> None:
        ctx.log.info("begun")
        raise ValueError("no such file")

    @app.task(on_cancel=clean)
    def work(ctx: Context) -> None:
        cancelled_meanwhile(ctx, app)

    state, _ = traced(work, task_id=JOB)
    assert (state, record(store), messages(store)) == ("IGNORED", CANCELLED, ["begun", "on_cancel failed"])
    assert failures.told == [(JOB, "REVOKED", "no longer wanted", True)]


def test_on_cancel_is_not_called_for_a_job_that_ends_otherwise(app: Celery) -> None:
    """G5: nor for one that never ran."""
    calls: list[str] = []

    @app.task(on_cancel=lambda ctx: calls.append(ctx.id))
    def work(ctx: Context) -> str:
        return "done"

    assert traced(work, task_id="job-2") == ("SUCCESS", "done")
    cancel_job(app, JOB, queued=True)
    traced(work, task_id=JOB)
    assert calls == []


def test_on_cancel_is_called_where_the_end_was_refused(
    app: Celery, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G5, G7: the handler had returned and heard of nothing: what it did is to be cleaned up all the same."""
    calls: list[str] = []

    @app.task(on_cancel=lambda ctx: calls.append(ctx.id))
    def work(ctx: Context) -> str:
        cancelled_unheard(ctx, app, monkeypatch)
        return "done"

    traced(work, task_id=JOB)
    assert (calls, record(store)) == ([JOB], CANCELLED)


def test_on_cancel_has_its_own_grace(app: Celery, store: ScriptedStore) -> None:
    """G5: one that hangs is interrupted, and the job ends."""

    @app.task(cancel_grace=0.05, on_cancel=lambda ctx: threading.Event().wait(30))
    def work(ctx: Context) -> None:
        cancelled_meanwhile(ctx, app)

    traced(work, task_id=JOB)
    assert (record(store), messages(store)) == (CANCELLED, ["on_cancel failed"])
    assert phases(store) == ["requested", "delivered", "interrupted"]


# --- G4: a handler that does not stop ------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_main", [True, False])
def test_a_handler_that_ignores_the_signal_is_interrupted(app: Celery, store: ScriptedStore, in_main: bool) -> None:
    """G4: after its grace; in the main thread out of a blocking call, in another between two bytecodes."""

    @app.task(cancel_grace=0.05)
    def work(ctx: Context) -> None:
        cancel_job(app, ctx.id, "no longer wanted")
        for _ in range(3000):
            threading.Event().wait(30 if in_main else 0.01)

    outcomes: list[Any] = []

    def run() -> None:
        outcomes.append(traced(work, task_id=JOB))

    if in_main:
        run()
    else:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join(TIMEOUT)
    ((state, error),) = outcomes
    assert (state, type(error), record(store)) == ("IGNORED", Cancelled, CANCELLED)
    assert phases(store) == ["requested", "delivered", "interrupted"]


def test_an_interruption_in_the_last_line_of_a_handlers_part_still_ends_it(
    app: Celery, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G4: it lands before the end is noted; behind it nothing is raised any more."""
    stops: list[JobStop] = []
    close = JobStop.close

    def closing(stop: JobStop) -> None:
        stops.append(stop)
        if len(stops) == 1:
            raise SoftTimeLimitExceeded
        close(stop)

    monkeypatch.setattr(JobStop, "close", closing)

    @app.task
    def work(ctx: Context) -> str:
        return "done"

    assert traced(work, task_id=JOB)[0] == "FAILURE"
    assert not stops[0].interrupt.fire(JobCancelledError)


@pytest.mark.parametrize("in_main", [True, False], ids=["main thread", "other thread"])
def test_what_interrupts_a_handler_says_why(app: Celery, store: ScriptedStore, in_main: bool) -> None:
    """G4: the reason that was given; and it can be handed to another process, as any error."""
    caught: list[JobCancelledError] = []

    @app.task(cancel_grace=0.01)
    def work(ctx: Context) -> None:
        cancel_job(app, ctx.id, "no longer wanted")
        try:
            while True:
                time.sleep(0.005)
        except JobCancelledError as exc:
            caught.append(exc)
            raise

    thread = threading.Thread(target=lambda: traced(work, task_id=JOB))
    if in_main:
        traced(work, task_id=JOB)
    else:
        thread.start()
        thread.join(TIMEOUT)
    (error,) = caught
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.reason, error.reason, error.job_id) == (JobCancelledError, *["no longer wanted"] * 2, JOB)
    assert str(error) == f"job {JOB} was cancelled: no longer wanted"
    assert record(store) == CANCELLED


def test_a_gentle_request_never_interrupts(app: Celery, store: ScriptedStore) -> None:
    """G8: a plain revoke fires the signal and lets the handler end."""

    @app.task(cancel_grace=0.01)
    def work(ctx: Context) -> None:
        store.cancel(request_of(app, ctx.id, "revoked", None, gently=True))
        assert ctx.signal.wait(TIMEOUT)

    traced(work, task_id=JOB)
    assert (record(store), phases(store)) == ((Outcome.REVOKED, "JobCancelledError", "revoked"), ["requested", "delivered"])


def revoked_plainly(app: Celery, store: ScriptedStore, current: Context) -> None:
    """In a handler that takes no context: somebody calls Celery's revoke."""
    store.cancel(request_of(app, JOB, "revoked", None, gently=True))
    assert current.signal.wait(TIMEOUT)


def test_a_plain_revoke_lets_a_handler_without_a_context_succeed(app: Celery, store: ScriptedStore, failures: Failures) -> None:
    """G8: it could not know, and plain Celery would keep its result."""

    @app.task
    def work() -> int:
        revoked_plainly(app, store, current_context())
        return 7

    assert traced(work, task_id=JOB) == ("SUCCESS", 7)
    assert (record(store)[0], failures.told, phases(store)) == (Outcome.SUCCESS, [], ["requested", "delivered"])


def test_a_plain_revoke_lets_a_handler_without_a_context_fail(app: Celery, store: ScriptedStore) -> None:
    """G8: with its own error, as in plain Celery."""

    @app.task
    def work() -> None:
        revoked_plainly(app, store, current_context())
        raise OSError("disk full")

    state, error = traced(work, task_id=JOB)
    assert (state, type(error), record(store)) == ("FAILURE", OSError, (Outcome.FAILURE, "OSError", "disk full"))


@pytest.mark.parametrize("by", ["celery", "autoretry"])
def test_behind_a_plain_revoke_no_retry_is_begun(app: Celery, store: ScriptedStore, sent: list[dict[str, Any]], by: str) -> None:
    """G6, G8: plain Celery drops the next attempt when it comes; here its message is not sent."""

    @app.task(bind=True, max_retries=3, autoretry_for=(OSError,) if by == "autoretry" else ())
    def work(self: Any) -> None:
        revoked_plainly(app, store, current_context())
        if by == "celery":
            self.retry(countdown=0)
        raise OSError("disk full")

    state, error = traced(work, task_id=JOB)
    assert (state, type(error), sent) == ("IGNORED", Cancelled, [])
    assert record(store) == (Outcome.REVOKED, "JobCancelledError", "revoked")


def test_a_cancel_behind_a_plain_revoke_is_a_cancel(app: Celery, store: ScriptedStore) -> None:
    """G3, G4, G8: it interrupts, and its reason is the job's, though the signal has fired before."""

    @app.task(cancel_grace=0.05)
    def work() -> None:
        revoked_plainly(app, store, current_context())
        cancel_job(app, JOB, "no longer wanted")
        while True:
            time.sleep(0.01)

    state, error = traced(work, task_id=JOB)
    assert (state, type(error), record(store)) == ("IGNORED", Cancelled, CANCELLED)
    assert sorted(phases(store)) == ["delivered", "delivered", "interrupted", "requested", "requested"]


def test_a_cancel_behind_a_plain_revoke_is_heard_of_without_its_announcement(
    app: Celery, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G3, G4: the store says it again with each report, also behind the revoke."""
    monkeypatch.setattr(Runtime.of(app).stopper, "announced", lambda _: None)

    @app.task(cancel_grace=0.05)
    def work() -> None:
        ctx = current_context()
        store.cancel(request_of(app, JOB, "revoked", None, gently=True))
        for n in itertools.count():
            ctx.progress(n)
            time.sleep(0.005)
            if ctx.signal.aborted and not asked:
                asked.append(cancel_job(app, JOB, "no longer wanted").outcome)

    asked: list[str] = []
    state, error = traced(work, task_id=JOB)
    assert (state, type(error), record(store), asked) == ("IGNORED", Cancelled, CANCELLED, ["requested"])


def test_a_cancel_behind_a_plain_revoke_cancels_a_coroutine_at_once(app: Celery, store: ScriptedStore) -> None:
    """G4, M2: the plain revoke left it running."""

    @app.task
    async def work() -> None:
        store.cancel(request_of(app, JOB, "revoked", None, gently=True))
        await current_context().signal.wait_async()
        await asyncio.to_thread(cancel_job, app, JOB, "no longer wanted")
        await asyncio.sleep(60)

    state, error = traced(work, task_id=JOB)
    assert (state, type(error), record(store)) == ("IGNORED", Cancelled, CANCELLED)


def test_the_time_limit_holds_behind_a_plain_revoke(app: Celery, store: ScriptedStore) -> None:
    """G8, H1: the revoke does not end the job, so nothing is taken from what does."""

    @app.task(soft_time_limit=0.3)
    def work() -> None:
        revoked_plainly(app, store, current_context())
        while True:
            time.sleep(0.01)

    state, error = traced(work, task_id=JOB)
    assert (state, type(error)) == ("FAILURE", SoftTimeLimitExceeded)


def test_a_shielded_block_is_finished_first(app: Celery, store: ScriptedStore) -> None:
    """G4: what was to interrupt it does so at its end."""
    steps: list[str] = []

    @app.task(cancel_grace=0.01)
    def work(ctx: Context) -> None:
        with ctx.shield():
            cancel_job(app, ctx.id, "no longer wanted", grace=0)
            wait_until(lambda: "interrupted" in phases(store), "the interruption to be due", TIMEOUT)
            steps.append("whole")
        steps.append("never")

    traced(work, task_id=JOB)
    assert (steps, record(store)) == (["whole"], CANCELLED)


# --- I3: requeue, and H2: the time limit -----------------------------------------------------------------------------------


def stops_for_shutdown(ctx: Context, app: Celery) -> None:
    Runtime.of(app).stopper.announced(Shutdown("w1@host"))
    ctx.sleep(30)


def requeues_itself(ctx: Context, app: Celery) -> None:
    raise ctx.requeue("somebody else may")


@pytest.mark.parametrize("stop", [stops_for_shutdown, requeues_itself], ids=lambda stop: stop.__name__)
def test_a_late_acknowledged_message_is_given_back(
    app: Celery, store: ScriptedStore, sent: list[dict[str, Any]], stop: Callable[[Context, Any], None]
) -> None:
    """I3: at once, no attempt used, the checkpoint kept; an `autoretry_for` that takes everything does not take that."""

    @app.task(acks_late=True, autoretry_for=(Exception,))
    def work(ctx: Context) -> None:
        ctx.checkpoint(41)
        stop(ctx, app)

    state, error = traced(work, task_id=JOB)
    assert (state, isinstance(error, Reject), error.requeue, sent) == ("REJECTED", True, True, [])
    assert record(store)[0] == Outcome.REJECTED
    again = ScriptedExecution(store, JOB, redelivered=True).begun
    assert (again.delivery, again.checkpoint is not None) == (2, True)


@pytest.mark.parametrize("tagged", [True, False])
@pytest.mark.parametrize("stop", [stops_for_shutdown, requeues_itself], ids=lambda stop: stop.__name__)
def test_a_message_that_was_acknowledged_early_is_sent_anew(
    app: Celery, store: ScriptedStore, sent: list[dict[str, Any]], stop: Callable[[Context, Any], None], tagged: bool
) -> None:
    """I3: to reject it would lose the job, whatever its broker's tags look like (RabbitMQ's are numbers)."""

    @app.task(acks_late=False)
    def work(ctx: Context) -> None:
        stop(ctx, app)

    tag = "a-tag" if tagged else 17
    state, error = traced(work, task_id=JOB, properties={"delivery_tag": tag}, retries=2, **CHECKED)
    assert (state, type(error)) == ("IGNORED", Ignore)
    ((message),) = sent
    assert (message["name"], message["task_id"], message["retries"], message["countdown"]) == (work.name, JOB, 2, 0)
    assert record(store)[0] == Outcome.REJECTED


def test_what_is_sent_anew_is_the_same_job(app: Celery, store: ScriptedStore) -> None:
    """I3, B4: with its arguments and its creation time, here that of its first receipt."""
    seen: list[int] = []

    @app.task(acks_late=False)
    def work(row: int, ctx: Context) -> None:
        seen.append(ctx.timestamp)
        wait_until(lambda: time.time() * 1000 > ctx.timestamp + 5, "a later instant", TIMEOUT)
        raise ctx.requeue()

    with app.connection_for_read() as connection:
        queue = app.amqp.queues["celery"](connection.default_channel)
        queue.purge()  # the broker in memory is that of all apps of the process
        traced(work, 7, task_id=JOB, **CHECKED)
        message = queue.get(no_ack=True)
    assert message is not None
    assert (message.headers["id"], message.headers["retries"], message.payload[0]) == (JOB, 0, [7])
    assert seen == [message.headers["taskora_created"]]
    assert STAMP not in message.headers, "that ends with its delivery"


def rejects_itself(ctx: Context, app: Celery) -> None:
    raise Reject("not here", requeue=True)


@pytest.mark.parametrize("acks_late", [True, False], ids=["late", "early"])
@pytest.mark.parametrize("stop", [stops_for_shutdown, requeues_itself, rejects_itself], ids=lambda stop: stop.__name__)
def test_a_delivery_that_was_given_back_has_its_place_in_the_history(
    app: Celery, store: ScriptedStore, sent: list[dict[str, Any]], stop: Callable[[Context, Any], None], acks_late: bool
) -> None:
    """B6, I3: with its reason, and no attempt used; the next delivery begins a record of its own."""
    seen: list[Any] = []

    @app.task(acks_late=acks_late)
    def work(ctx: Context) -> None:
        seen.append(ctx.history)
        if len(seen) == 1:
            stop(ctx, app)

    traced(work, task_id=JOB)
    traced(work, task_id=JOB, delivery_info={"routing_key": "celery", "redelivered": acks_late})
    first, second = history_of(store.read(JOB, attempts=True))
    reason = {"stops_for_shutdown": "shutdown: the worker shuts down", "requeues_itself": "somebody else may"}.get(stop.__name__)
    assert (first.number, first.delivery, first.outcome, first.reason) == (1, 1, Outcome.REJECTED, reason)
    assert first.duration is not None
    assert (second.number, second.delivery, second.outcome) == (1, 2, Outcome.SUCCESS)
    assert seen == [(), (first,)]


def test_the_log_says_in_one_line_why_a_job_goes_back(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    """I3: no warning, and no traceback of what is not an error."""
    caplog.set_level(logging.INFO)

    @app.task(acks_late=True)
    def work(ctx: Context) -> None:
        stops_for_shutdown(ctx, app)

    traced(work, task_id=JOB)
    said = [record for record in caplog.records if JOB in record.getMessage()]
    assert [record.getMessage() for record in said] == [
        f"job {JOB} ({work.name}) goes back into its queue, no attempt used: shutdown: the worker shuts down"
    ]
    assert said[0].exc_info is None


def test_the_log_says_that_a_job_was_cancelled_and_why(
    app: Celery, store: ScriptedStore, caplog: pytest.LogCaptureFixture
) -> None:
    """G3, G2: whether it ran or not; Celery's own line says only that it was ignored."""
    caplog.set_level(logging.INFO, "taskora_celery")

    @app.task
    def work(ctx: Context) -> None:
        cancelled_meanwhile(ctx, app)

    traced(work, task_id=JOB)
    store.cancel(request_of(app, "job-2", None, None), queued=True)
    traced(work, task_id="job-2")
    assert [record.getMessage() for record in caplog.records if record.name == "taskora_celery.execution"] == [
        f"job {JOB} ({work.name}) was cancelled, and has ended: no longer wanted",
        f"job job-2 ({work.name}) was cancelled before it began, and is not run",
    ]


def test_an_abort_for_another_reason_is_no_requeue(app: Celery, store: ScriptedStore) -> None:
    """I3: an error of that class that somebody else raised, without a shutdown, is a failure."""

    @app.task(acks_late=True)
    def work(ctx: Context) -> None:
        raise JobAbortedError("shutdown")

    state, error = traced(work, task_id=JOB)
    assert (state, type(error), record(store)[0]) == ("FAILURE", JobAbortedError, Outcome.FAILURE)


def test_a_shutdown_that_the_handler_ignores_changes_nothing(app: Celery, store: ScriptedStore) -> None:
    """I3: it is left to finish."""

    @app.task(acks_late=True)
    def work(ctx: Context) -> str | None:
        ctx.signal.abort("shutdown")
        return ctx.signal.reason

    assert traced(work, task_id=JOB) == ("SUCCESS", "shutdown")
    assert record(store)[0] == Outcome.SUCCESS


def test_a_handler_that_stops_at_its_time_limit_has_exceeded_it(app: Celery, store: ScriptedStore) -> None:
    """H2: for whoever looks at the outcome that is the same, whether it was interrupted or stopped by itself."""

    @app.task
    def work(ctx: Context) -> None:
        ctx.signal.abort("timeout", "soft_time_limit")
        ctx.signal.raise_if_aborted()

    state, error = traced(work, task_id=JOB)
    assert (state, type(error)) == ("FAILURE", SoftTimeLimitExceeded)
    assert record(store)[:2] == (Outcome.FAILURE, "SoftTimeLimitExceeded")


@pytest.mark.parametrize("named", [(SoftTimeLimitExceeded,), (Exception,), (OSError,), ()])
def test_a_time_limit_is_retried_only_where_autoretry_names_it(
    app: Celery, store: ScriptedStore, sent: list[dict[str, Any]], named: tuple[type[Exception], ...]
) -> None:
    """H2: it, or a parent of it."""

    @app.task(autoretry_for=named, max_retries=3, default_retry_delay=1)
    def work(ctx: Context) -> None:
        ctx.signal.abort("timeout", "soft_time_limit")
        ctx.sleep(30)

    state, _ = traced(work, task_id=JOB)
    retried = bool(named) and issubclass(SoftTimeLimitExceeded, named)
    assert (state, len(sent)) == (("RETRY", 1) if retried else ("FAILURE", 0))
    assert record(store)[0] == state


@pytest.mark.parametrize("in_main", [True, False])
def test_the_soft_limit_interrupts_where_the_pool_has_none(app: Celery, store: ScriptedStore, in_main: bool) -> None:
    """H1: the signal fires, and the handler is interrupted."""
    seen: list[Any] = []

    @app.task(soft_time_limit=0.05)
    def work(ctx: Context) -> None:
        try:
            for _ in range(3000):
                threading.Event().wait(0.01)
        except SoftTimeLimitExceeded:
            seen.append((ctx.signal.reason, ctx.signal.message))
            raise

    outcomes: list[Any] = []
    thread = threading.Thread(target=lambda: outcomes.append(traced(work, task_id=JOB)))
    if in_main:
        thread.run()
    else:
        thread.start()
        thread.join(TIMEOUT)
    ((state, error),) = outcomes
    assert (state, type(error), seen) == ("FAILURE", SoftTimeLimitExceeded, [("timeout", "soft_time_limit")])


def test_an_extended_deadline_is_the_one_that_counts(app: Celery, store: ScriptedStore) -> None:
    """H3: the earlier instant passes without a word."""

    @app.task(soft_time_limit=0.05)
    def work(ctx: Context) -> float:
        before = ctx.remaining()
        ctx.extend_deadline(600)
        stopper = Runtime.of(app).stopper
        wait_until(lambda: len(stopper._agenda) == 1, "the first instant to pass", TIMEOUT)
        assert not ctx.signal.aborted
        return round((ctx.remaining() or 0) - (before or 0))

    assert traced(work, task_id=JOB) == ("SUCCESS", 600)


#: The stamp of a worker's parent that is another process: the job has a pool's process for itself.
IN_CHILD = {STAMP: (0, os.getppid(), None)}


@pytest.fixture
def _celerys_limit() -> Iterator[None]:
    """What a prefork child does at the soft limit."""

    def reached(_number: int, _frame: FrameType | None) -> None:
        raise SoftTimeLimitExceeded

    before = signal.signal(signal.SIGUSR1, reached)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def reach_celerys_limit() -> None:
    """Be interrupted as the pool does it, in this thread."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


@pytest.mark.usefixtures("_celerys_limit")
def test_at_celerys_own_limit_the_signal_has_fired(app: Celery, store: ScriptedStore) -> None:
    """H1: in a child of a pool, where Celery interrupts; its threads are told as well."""
    seen: list[Any] = []

    @app.task(soft_time_limit=600)
    def work(ctx: Context) -> None:
        waiter = threading.Thread(target=lambda: seen.append(ctx.signal.wait(TIMEOUT)))
        waiter.start()
        try:
            reach_celerys_limit()
        except SoftTimeLimitExceeded:
            waiter.join(TIMEOUT)
            seen.append((ctx.signal.reason, ctx.signal.message))
            raise

    state, error = traced(work, task_id=JOB, **IN_CHILD)
    assert (state, type(error), seen) == ("FAILURE", SoftTimeLimitExceeded, [True, ("timeout", "soft_time_limit")])


@pytest.mark.usefixtures("_celerys_limit")
def test_an_extended_deadline_holds_celerys_own_limit_off_for_its_job_alone(app: Celery, store: ScriptedStore) -> None:
    """H3: never a silent no-op; the process's next job has the limit that it was given."""

    @app.task(soft_time_limit=1)
    def work(ctx: Context) -> bool:
        ctx.extend_deadline(600)
        reach_celerys_limit()
        return ctx.signal.aborted

    assert traced(work, task_id=JOB, **IN_CHILD) == ("SUCCESS", False)
    with pytest.raises(SoftTimeLimitExceeded):
        reach_celerys_limit()


# --- G7: the receipt -----------------------------------------------------------------------------------------------------


def test_a_handle_that_sent_the_job_cancels_it_in_its_queue(app: Celery, store: ScriptedStore) -> None:
    """G1, G2: REVOKED is there at once, in the record and in the result backend."""
    handle = JobHandle(JOB, app=app)
    handle.queued = True
    receipt = handle.cancel("no longer wanted")
    assert (receipt.id, receipt.outcome, receipt.reason) == (JOB, "cancelled", "no longer wanted")
    assert (record(store), handle.state) == (CANCELLED, "REVOKED")
    with pytest.raises(JobCancelledError, match="no longer wanted"):
        handle.get(timeout=TIMEOUT)
    assert handle.cancel("again").outcome == "cancelled"


def test_a_handle_that_was_attached_to_an_id_knows_nothing_of_a_queue(app: Celery, store: ScriptedStore) -> None:
    """G7: without a record it reads as unknown, and nothing is changed; who knows better says so."""
    assert JobHandle(JOB, app=app).cancel().outcome == "unknown"
    assert (store.read(JOB), app.backend.get_state(JOB)) == (None, "PENDING")
    assert cancel_job(app, JOB).outcome == "unknown"
    assert cancel_job(app, JOB, queued=True).outcome == "cancelled"


@pytest.mark.parametrize(
    ("state", "outcome"),
    [("STARTED", "requested"), (Outcome.RETRY, "cancelled"), (Outcome.SUCCESS, "too_late"), (Outcome.FAILURE, "too_late")],
)
def test_the_receipt_says_what_the_cancel_comes_to(app: Celery, store: ScriptedStore, state: str, outcome: str) -> None:
    """G7: from a thread, and from an event loop."""
    job_in(store, state)
    job_in(store, state, "job-2")
    assert JobHandle(JOB, app=app).cancel("no longer wanted").outcome == outcome
    assert asyncio.run(JobHandle("job-2", app=app).acancel("no longer wanted")).outcome == outcome
    app.backend.forget("job-2")


@pytest.mark.parametrize("wait", [False, 0.01])
def test_a_handles_words_go_into_the_request(app: Celery, store: ScriptedStore, wait: bool | float) -> None:
    """G1: the reason and the grace, from a thread and from an event loop."""
    for job_id in (JOB, "job-2"):
        job_in(store, "STARTED", job_id)
    JobHandle(JOB, app=app).cancel("no longer wanted", grace=1.5, wait=wait)
    asyncio.run(JobHandle("job-2", app=app).acancel("no longer wanted", grace=1.5, wait=wait))
    found = [Runtime.of(app).cancel_request(job_id) for job_id in (JOB, "job-2")]
    assert [(each.reason, each.grace, each.gently) for each in found if each] == [("no longer wanted", 1.5, False)] * 2


@pytest.mark.parametrize("ran", [False, True], ids=["queued", "ran"])
def test_to_cancel_once_more_gives_the_same_receipt(app: Celery, store: ScriptedStore, ran: bool) -> None:
    """G7: a client that asks again, since the answer was lost, learns that the job is cancelled, and why."""
    handle = JobHandle(JOB, app=app)
    handle.queued = not ran
    execution = job_in(store, "STARTED", JOB) if ran else None
    first = handle.cancel("no longer wanted")
    if execution is not None:
        assert first.outcome == "requested"
        execution.end(Outcome.REVOKED, "no longer wanted", "JobCancelledError")
    expected = CancelReceipt(JOB, "cancelled", first.requested_ms, "no longer wanted")
    assert [handle.cancel("another reason"), handle.cancel(wait=True), asyncio.run(handle.acancel("again"))] == [expected] * 3


def test_a_job_that_was_revoked_otherwise_cannot_be_cancelled_any_more(app: Celery, store: ScriptedStore) -> None:
    """G7: its process was ended by ``terminate``, or it had expired."""
    job_in(store, "STARTED", JOB).end(Outcome.REVOKED, "terminated", "Terminated")
    assert JobHandle(JOB, app=app).cancel("no longer wanted").outcome == "too_late"


@pytest.mark.parametrize("wait", [-1, float("nan"), "5", None, [5]])
def test_a_wait_that_makes_no_sense_stores_nothing(app: Celery, store: ScriptedStore, wait: Any) -> None:
    """G1: who reads the error must not find the job cancelled."""
    job_in(store, "STARTED", JOB)
    with pytest.raises((TypeError, ValueError), match="wait="):
        JobHandle(JOB, app=app).cancel(wait=wait)
    with pytest.raises((TypeError, ValueError), match="wait="):
        asyncio.run(JobHandle(JOB, app=app).acancel(wait=wait))
    assert phases(store) == []


def test_the_receipt_has_the_reason_as_it_is_stored(app: Celery, store: ScriptedStore) -> None:
    """G1, F7: redacted, and cut to 500 characters."""
    job_in(store, Outcome.RETRY, JOB)
    receipt = cancel_job(app, JOB, "x" * 600)
    assert receipt.reason == record(store)[2] == "x" * 500


def test_a_result_that_is_there_is_not_overwritten(app: Celery, store: ScriptedStore) -> None:
    """E5, G7: the backend knows of an end that the record does not (it expired, say)."""
    app.backend.store_result(JOB, OSError("no answer"), "FAILURE")
    assert cancel_job(app, JOB, queued=True).outcome == "cancelled"
    assert app.backend.get_state(JOB) == "FAILURE"


def test_a_backend_that_cannot_be_written_does_not_keep_a_cancel_from_its_work(
    app: Celery, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G9: the worker that drops the message writes it, too."""

    def fail(*_: Any, **__: Any) -> None:
        raise NotImplementedError("no backend")

    monkeypatch.setattr(app.backend, "get_state", fail)
    assert (cancel_job(app, JOB, queued=True).outcome, record(store)[0]) == ("cancelled", Outcome.REVOKED)


@pytest.mark.parametrize(("end", "outcome"), [(Outcome.REVOKED, "cancelled"), (Outcome.SUCCESS, "too_late")])
def test_waiting_tells_what_came_of_it(app: Celery, store: ScriptedStore, end: str, outcome: str) -> None:
    """G1: with ``wait`` the receipt is that of the end."""
    execution = job_in(store, "STARTED")
    receipts: list[CancelReceipt] = []
    thread = threading.Thread(target=lambda: receipts.append(JobHandle(JOB, app=app).cancel(wait=True)))
    thread.start()
    wait_until(lambda: phases(store), "the request to be stored", TIMEOUT)
    if end == Outcome.SUCCESS:
        store.memory._jobs[JOB].fields.pop("j")  # no store of ours would take it otherwise
    app.backend.store_result(JOB, None, end)
    execution.end(end)
    thread.join(TIMEOUT)
    assert [receipt.outcome for receipt in receipts] == [outcome]


def test_who_has_waited_finds_the_end_in_the_result_backend_too(
    app: Celery, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G1, G6: the record is written first, the result a moment later."""
    states = ["STARTED", "STARTED", "REVOKED"]
    execution = job_in(store, "STARTED")
    receipts: list[CancelReceipt] = []
    monkeypatch.setattr(type(app.backend), "get_state", lambda *_: states.pop(0))  # each thread has a backend of its own
    thread = threading.Thread(target=lambda: receipts.append(JobHandle(JOB, app=app).cancel(wait=True)))
    thread.start()
    wait_until(lambda: phases(store), "the request to be stored", TIMEOUT)
    execution.end(Outcome.REVOKED)
    thread.join(TIMEOUT)
    assert ([receipt.outcome for receipt in receipts], states) == (["cancelled"], [])


def test_waiting_has_an_end(app: Celery, store: ScriptedStore) -> None:
    """G1: a job that does not stop in time is on its way; it goes on being stopped."""
    job_in(store, "STARTED")
    assert JobHandle(JOB, app=app).cancel(wait=0.05).outcome == "requested"


def test_who_waits_for_a_job_whose_record_is_gone_does_not_hang(
    app: Celery, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G1, J4: it was asked to stop, and nobody can say what came of it."""
    job_in(store, "STARTED")
    request_it = store.cancel

    def cancel(*args: Any, **kwargs: Any) -> Any:
        outcome = request_it(*args, **kwargs)
        store.forget()
        return outcome

    monkeypatch.setattr(store, "cancel", cancel)
    receipts: list[CancelReceipt] = []
    thread = threading.Thread(target=lambda: receipts.append(JobHandle(JOB, app=app).cancel(wait=True)), daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    assert [receipt.outcome for receipt in receipts] == ["requested"]


def test_who_waits_for_an_end_that_only_the_result_backend_shows_does_not_hang(
    app: Celery, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G1, G7, J4: a worker without the library ended it, or the result is of an earlier job: the request is all that is known."""
    monkeypatch.setattr(reading, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(reading, "END_GRACE", 0.05)
    job_in(store, "STARTED")
    receipts: list[CancelReceipt] = []
    thread = threading.Thread(target=lambda: receipts.append(JobHandle(JOB, app=app).cancel(wait=True)), daemon=True)
    thread.start()
    wait_until(lambda: phases(store), "the request to be stored", TIMEOUT)
    app.backend.store_result(JOB, None, "SUCCESS")
    thread.join(TIMEOUT)
    assert [receipt.outcome for receipt in receipts] == ["requested"]


@pytest.mark.parametrize(
    ("state", "before", "after"),
    [
        (Outcome.RETRY, "RETRY", "REVOKED"),
        (Outcome.RETRY, "SUCCESS", "SUCCESS"),
        ("STARTED", "STARTED", "STARTED"),
        (Outcome.SUCCESS, "STARTED", "STARTED"),
        (None, "RETRY", "RETRY"),
    ],
)
def test_what_was_written_over_a_cancel_is_mended_where_the_record_says_so(
    app: Celery, store: ScriptedStore, state: str | None, before: str, after: str
) -> None:
    """G7: the request alone is no end, and no outcome is overwritten."""
    if state is not None:
        job_in(store, state)
        store.cancel(request_of(app, JOB, "no longer wanted", None))
    app.backend.store_result(JOB, None, before)
    mend_revoked(app, JOB)
    assert app.backend.get_state(JOB) == after


def test_a_store_that_is_away_is_said_to_be(app: Celery, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """L1: nothing was acknowledged, so nothing may be believed."""

    def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailableError("away")

    monkeypatch.setattr(store, "cancel", away)
    with pytest.raises(StoreUnavailableError):
        cancel_job(app, JOB, queued=True)
    assert app.backend.get_state(JOB) == "PENDING"


def test_nothing_of_a_stopped_job_stays_behind(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    """Runtime: neither in the reporter, nor in the stopper; and no announcement ends in an error."""
    caplog.set_level(logging.ERROR, "taskora_celery")

    @app.task
    def work(ctx: Context) -> None:
        cancelled_meanwhile(ctx, app)

    for n in range(5):
        traced(work, task_id=f"{JOB}-{n}")
    runtime = Runtime.of(app)
    assert (runtime.reporter._live, runtime.stopper._running) == ({}, {})
    assert [entry.getMessage() for entry in caplog.records if entry.name.startswith("taskora_celery")] == []
