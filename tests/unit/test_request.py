"""One message in the worker's parent: what it is taken for when it comes, and what the parent alone sees of its end."""

# mypy: allow-untyped-decorators

from __future__ import annotations

import inspect
import os
import signal
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from weakref import ref

import pytest
from billiard.einfo import ExceptionInfo
from billiard.pool import ApplyResult
from celery import states
from celery.exceptions import Ignore, Reject, Terminated, WorkerLostError
from celery.signals import task_revoked
from celery.worker import state
from celery.worker.request import Request
from kombu.exceptions import EncodeError, OperationalError
from kombu.message import Message

from taskora_celery import Context, ContextTask, JobCancelledError, JobStalledError
from taskora_celery.cancelling import cancel_job
from taskora_celery.delivery import STAMP
from taskora_celery.lease.protocol import Hold
from taskora_celery.outcomes import Cancelled, revoke
from taskora_celery.reading import status_of
from taskora_celery.records import JobStatus
from taskora_celery.runtime import Runtime
from taskora_celery.worker import request as request_module
from taskora_celery.worker.keeper import Keeper
from taskora_celery.worker.request import JobRequest
from tests.support.cancels import loss
from tests.support.executions import ScriptedExecution
from tests.support.scripted_store import ScriptedStore
from tests.support.traced import traced_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

JOB = "job-1"
VISIBILITY = 60.0  # seconds


class Desk:
    """What the keeper is for a request: it notes what it is asked, and answers as the test says."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.adopted = False
        self.lost = False
        self.is_shutting_down = False
        self.leftovers = SimpleNamespace(add=lambda request: self.asked.append(f"leave {request.id}"))
        self.exits = SimpleNamespace(watch=lambda pid: self.asked.append(f"watch {pid}"))
        self.fenced = SimpleNamespace(settled=False, give_up=lambda: self.asked.append("give up"))

    def fence(self, message: Any, hold: Hold) -> Any:
        self.asked.append("fence")
        return self.fenced

    def adopts(self, message: Any) -> bool:
        self.asked.append("adopts")
        return self.adopted

    def claim(self, message: Any, hold: Hold) -> None:
        self.asked.append(f"claim {hold.tag}")

    def received(self, request: JobRequest) -> None:
        self.asked.append(f"received {request.id}")

    def visibility_of(self, message: Any) -> float:
        return VISIBILITY

    def lost_meanwhile(self, request: JobRequest) -> bool:
        return self.lost


class JobMessage(Message):  # type: ignore[misc]
    """A message of the only job."""

    def __init__(self, app: Celery, task: Any, *, redelivered: bool, retries: int, tag: str | int) -> None:
        made = app.amqp.as_task_v2(JOB, task.name, retries=retries)
        super().__init__(
            body='[[], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]',
            delivery_tag=tag,
            content_type="application/json",
            content_encoding="utf-8",
            delivery_info={"routing_key": "celery", **({"redelivered": True} if redelivered else {})},
            properties={"delivery_tag": tag, **made.properties},
            headers=made.headers,
        )


class Parent:
    """The worker's parent, which has received the job's message."""

    def __init__(self, app: Celery, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        self.app = app
        self.desk = desk
        store: Any = Runtime.of(app).store
        self.store: ScriptedStore = store
        self.ends: list[str] = []
        self.events: list[tuple[str, Any]] = []
        self.signals: list[bool] = []
        self._patch = monkeypatch
        task_revoked.connect(self._told)

    def _told(self, terminated: bool, **_: Any) -> None:
        self.signals.append(terminated)

    def _send(self, kind: str, *, uuid: str, **fields: Any) -> None:
        self.events.append((kind, fields.get("terminated")))

    def receives(self, *, redelivered: bool = False, retries: int = 0, tag: str | int = "t1", **options: Any) -> JobRequest:
        """Make a request of a message for a task with these options; the first time decides."""
        if "shop.work" not in self.app.tasks:

            @self.app.task(name="shop.work", **{"acks_late": True, "shared": False, **options})
            def work(ctx: Context) -> None:
                """Do nothing."""

        self.app.finalize()
        task = self.app.tasks["shop.work"]
        return JobRequest(
            JobMessage(self.app, task, redelivered=redelivered, retries=retries, tag=tag), app=self.app, task=task,
            hostname="w1@host",
            on_ack=lambda *_: self.ends.append("acknowledged"),
            on_reject=lambda _logger, _errors, requeue: self.ends.append("requeued" if requeue else "rejected"),
            eventer=SimpleNamespace(enabled=True, send=self._send),
        )  # fmt: skip

    def runs(self, **options: Any) -> JobRequest:
        """The same, and its job has begun in a process, and is registered."""
        request = self.receives(**options)
        request.on_accepted(4711, time.monotonic())
        ScriptedExecution(self.store.memory, tag="t1", token=request.hold.token)
        self.events.clear()
        return request

    @property
    def status(self) -> JobStatus:
        return status_of(JOB, self.store.memory.read(JOB), 100)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    desk = Desk()
    monkeypatch.setattr(Keeper, "of", lambda _: desk)
    return desk


@pytest.fixture
def parent(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parent]:
    for name in ("active_requests", "reserved_requests", "requests"):
        monkeypatch.setattr(state, name, type(getattr(state, name))())
    with traced_app(ScriptedStore(), task_send_sent_event=True) as app:
        app.backend.forget(JOB)
        parent = Parent(app, desk, monkeypatch)
        yield parent
        task_revoked.disconnect(parent._told)
        app.backend.forget(JOB)


def info_of(exc: BaseException) -> Any:
    """What the pool says of an exception."""
    try:
        raise exc
    except BaseException:
        return ExceptionInfo()


LOST = WorkerLostError("Worker exited prematurely: signal 9 (SIGKILL)")


# --- D7: when it comes -----------------------------------------------------------------------------------------------------


def test_a_message_that_comes_again_is_claimed_and_a_first_one_is_not(parent: Parent, desk: Desk) -> None:
    """D7, P6: a round trip for redelivered messages only."""
    parent.receives()
    assert desk.asked == ["fence", f"received {JOB}"]
    desk.asked.clear()
    parent.receives(redelivered=True)
    # Fenced before it is claimed, the keeper's thread could give it up in between: it is nobody's then.
    assert desk.asked == ["adopts", "claim t1", "fence", f"received {JOB}"]


def test_a_message_of_a_job_that_runs_here_is_neither_claimed_nor_run(parent: Parent, desk: Desk) -> None:
    """D3: its own run goes on, and acknowledges it."""
    desk.adopted = True
    request = parent.receives(redelivered=True)
    assert desk.asked == ["adopts"]
    assert (request.revoked(), parent.ends) == (True, [])


@pytest.mark.parametrize("why", ["settled", "lost"])
def test_a_message_that_was_put_back_while_it_waited_is_not_run(parent: Parent, desk: Desk, why: str) -> None:
    """D7: somebody else has it, or will; neither acknowledged nor rejected here."""
    request = parent.receives()
    desk.fenced.settled, desk.lost = why == "settled", why == "lost"
    desk.asked.clear()
    assert (request.revoked(), desk.asked, parent.ends) == (True, ["give up"], [])


def test_the_parent_says_which_delivery_it_is(parent: Parent) -> None:
    """D7, D9: by its own token, whose child its process is, and for how long the message stays invisible."""
    request = parent.receives()
    assert not request.revoked()
    assert request._request_dict[STAMP] == (request.hold.token, os.getpid(), VISIBILITY)


def test_a_worker_that_shuts_down_begins_nothing(parent: Parent, desk: Desk) -> None:
    """I3: it would have to stop at once; its message goes back, and is neither acknowledged nor rejected here."""
    request = parent.receives()
    desk.is_shutting_down = True
    desk.asked.clear()
    assert (request.revoked(), desk.asked, parent.ends) == (True, [f"leave {JOB}"], [])


def test_what_a_job_gives_back_in_a_shutdown_does_not_wait_for_the_others(parent: Parent, desk: Desk) -> None:
    """I3: the event loop, which would put it back, runs again behind the last job only."""
    request = parent.runs()
    desk.is_shutting_down = True
    desk.asked.clear()
    request.reject(requeue=True)
    request.reject(requeue=True)
    assert (desk.asked, parent.ends) == ([f"leave {JOB}"], ["requeued"])
    other = parent.runs()
    desk.asked.clear()
    other.reject(requeue=False)
    assert desk.asked == []


@pytest.mark.parametrize("acks_late", [True, False])
def test_the_process_that_begins_with_a_job_is_watched(parent: Parent, desk: Desk, acks_late: bool) -> None:
    """D5, G4: its end is seen at once, also of a job that was acknowledged early; to begin is a sign of life."""
    request = parent.runs(acks_late=acks_late)
    assert desk.asked[-1] == "watch 4711"
    assert request.regained


# --- D6: a process that dies -----------------------------------------------------------------------------------------------


def test_a_job_whose_process_died_is_given_back(parent: Parent) -> None:
    """D5, B6: with `reject_on_worker_lost`; its record says why."""
    request = parent.runs(reject_on_worker_lost=True)
    request.on_failure(info_of(LOST))
    assert (parent.ends, parent.status.state, parent.status.stalls) == (["requeued"], "LOST", 1)
    assert "signal 9" in str(parent.status.reason)


@pytest.mark.parametrize("limit", [0, 1])
def test_a_job_whose_process_dies_too_often_fails(parent: Parent, limit: int) -> None:
    """D6: what Celery would give back for ever; with the last words, and not one time more than allowed."""
    request = parent.runs(reject_on_worker_lost=True, max_stalls=limit)
    for _ in range(limit):
        request.on_failure(info_of(LOST))
        assert (parent.ends.pop(), parent.status.state) == ("requeued", "LOST")
        request = parent.runs(reject_on_worker_lost=True, max_stalls=limit)
    request.on_failure(info_of(LOST))
    assert "requeued" not in parent.ends
    assert (parent.status.state, parent.status.error, parent.status.stalls) == ("FAILURE", "JobStalledError", limit + 1)
    error = parent.app.backend.get_result(JOB)
    assert isinstance(error, JobStalledError)
    assert (error.count, error.limit, error.worker) == (limit + 1, limit, "w1@host")


def test_an_attempt_that_died_before_it_was_registered_is_known_by_its_number(parent: Parent) -> None:
    """D6, B6: its process died in the first moment; the record knows of the attempt before only."""
    ScriptedExecution(parent.store.memory, tag="t0").end_in_retry()
    request = parent.receives(retries=1, reject_on_worker_lost=True)
    request.on_accepted(4711, time.monotonic())
    request.on_failure(info_of(LOST))
    assert (parent.status.state, parent.status.attempt, parent.status.delivery, parent.status.stalls) == ("LOST", 2, 1, 1)


def test_a_job_that_is_not_given_back_has_failed(parent: Parent) -> None:
    """D6: as Celery has it; the record says so, too, and counts by no limit of ours."""
    request = parent.runs(max_stalls=0)
    request.on_failure(info_of(LOST))
    assert (parent.status.state, parent.status.error, parent.app.backend.get_state(JOB)) == (
        "FAILURE",
        "WorkerLostError",
        states.FAILURE,
    )


@pytest.mark.parametrize("stored", [True, False])
def test_a_process_that_dies_behind_the_end_of_its_job_leaves_one_outcome(parent: Parent, stored: bool) -> None:
    """D6, G7: what Celery has stored is what the record says; without a result the job has failed, in both."""
    request = parent.receives()
    ScriptedExecution(parent.store.memory, tag="t1", token=request.hold.token).end("SUCCESS")
    if stored:
        parent.app.backend.mark_as_done(JOB, 3, request=request._context)
    request.on_failure(info_of(LOST))
    state = "SUCCESS" if stored else "FAILURE"
    assert (parent.status.state, parent.app.backend.get_state(JOB), parent.ends) == (state, state, ["acknowledged"])


@pytest.mark.parametrize("rejected", [True, False])
@pytest.mark.parametrize("how", ["begun again", "given up by others"])
def test_a_process_that_dies_when_its_job_is_another_deliverys_changes_nothing(parent: Parent, how: str, rejected: bool) -> None:
    """D7: no outcome is stored for it; its message is rejected, which the fence refuses where another delivery has it."""
    request = parent.runs(reject_on_worker_lost=rejected)
    if how == "begun again":
        ScriptedExecution(parent.store.memory, tag="t1", token=request.hold.token + 1, redelivered=True)
    else:
        parent.store.memory.lose(loss(tag="t1", token=request.hold.token))
    before = parent.store.memory.read(JOB, 0)
    request.on_failure(info_of(LOST))
    assert parent.store.memory.read(JOB, 0) == before
    assert (parent.ends, parent.events, parent.app.backend.get_state(JOB)) == (
        ["requeued"],
        [("task-rejected", None)],
        states.PENDING,
    )
    assert request not in state.reserved_requests


def test_a_process_that_dies_when_its_id_was_sent_anew_takes_no_turns_with_that_message(parent: Parent) -> None:
    """D7: given back, the two would push each other out for ever."""
    request = parent.runs()
    ScriptedExecution(parent.store.memory, tag="t2", token=request.hold.token + 1)
    request.on_failure(info_of(LOST))
    assert (parent.ends, parent.status.state, parent.app.backend.get_state(JOB)) == (["acknowledged"], "STARTED", states.PENDING)


@pytest.mark.parametrize(("error", "internal"), [(EncodeError, False), (OperationalError, False), (ValueError, True)])
def test_a_result_that_cannot_be_stored_fails_the_record_too(parent: Parent, error: type[Exception], internal: bool) -> None:
    """A6, J2: its process has recorded a success, and then Celery stores what the handler returned, and sends its callbacks."""
    request = parent.receives()
    ScriptedExecution(parent.store.memory, tag="t1", token=request.hold.token).end("SUCCESS")
    info = info_of(error("no set in JSON"))
    info.internal = internal
    request.on_failure(info, return_ok=True)
    assert (parent.status.state, parent.status.error, parent.status.reason) == ("FAILURE", error.__name__, "no set in JSON")


@pytest.mark.parametrize("refusal", [Ignore(), Reject("it was delivered again", requeue=False)], ids=repr)
def test_an_execution_that_was_refused_changes_no_record(parent: Parent, refusal: Exception) -> None:
    """D7: Celery's tracer marks it as it marks errors of its own."""
    request = parent.receives()
    ScriptedExecution(parent.store.memory, tag="t1", token=request.hold.token).end("SUCCESS")
    info = info_of(refusal)
    info.internal = True
    request.on_failure(info, return_ok=True)
    assert parent.status.state == "SUCCESS"


def test_what_a_broker_counts_is_no_name_of_a_message(parent: Parent) -> None:
    """D6, D10: RabbitMQ numbers deliveries on each channel anew; parent and process know this one by its token."""
    request = parent.receives(max_stalls=0, tag=7)
    ScriptedExecution(parent.store.memory, tag="", token=request.hold.token)
    request.on_failure(info_of(LOST))
    assert (parent.status.state, parent.status.error) == ("FAILURE", "WorkerLostError")


def test_a_job_that_was_given_up_has_its_next_delivery_already(parent: Parent) -> None:
    """D4, D7: its process was ended because it hung; its message is not touched, and the loss not told twice."""
    request = parent.runs(reject_on_worker_lost=True)
    request.given_up = "no sign of life"
    request.on_failure(info_of(LOST))
    assert (parent.ends, parent.status.state, parent.status.stalls) == ([], "STARTED", 0)
    assert parent.events == [], "monitors were told before its message went back"


@pytest.mark.parametrize(("acks_on_timeout", "state"), [(True, "FAILURE"), (False, "LOST")])
def test_a_hard_limit_is_written_for_the_process_that_it_has_ended(parent: Parent, acks_on_timeout: bool, state: str) -> None:
    """D6, H1: it ends the job, or loses it where Celery gives the message back."""
    request = parent.runs(acks_on_failure_or_timeout=acks_on_timeout, acks_on_timeout=acks_on_timeout)
    request.on_timeout(soft=True, timeout=1)
    assert parent.status.state == "STARTED"
    request.on_timeout(soft=False, timeout=2)
    assert (parent.status.state, parent.status.reason) == (state, "TimeLimitExceeded(2)")


@pytest.mark.parametrize("ended", [False, True])
def test_a_pool_that_forgot_what_it_runs_is_told_again(parent: Parent, monkeypatch: pytest.MonkeyPatch, ended: bool) -> None:
    """D3, fault 13: Celery 5.5's pool forgets it at a lost connection: what it hears of the end is for a job that it knows."""
    monkeypatch.setattr(request_module, "FORGETS_AT_LOST_CONNECTIONS", True)
    known: dict[int, ApplyResult] = {}
    request = parent.receives()
    result = ApplyResult(known, callback=lambda _: request.acknowledge())
    request._apply_result = ref(result)
    request.on_accepted(4711, time.monotonic())
    known.clear()
    if ended:
        request.acknowledge()
    request.recall()
    assert list(known.values()) == ([] if ended else [result])
    if not ended:
        result._accepted = True
        result._set(0, (True, "done"))
        request.recall()
        assert (parent.ends, known, request._pooled) == (["acknowledged"], {}, None)


class Pool:
    """A pool that can end a process."""

    def __init__(self) -> None:
        self.ended: list[tuple[int, int]] = []

    def terminate_job(self, pid: int, number: int) -> None:
        self.ended.append((pid, number))


def test_a_cold_shutdown_is_no_stall(parent: Parent) -> None:
    """I3, D6: lost, and not held against the job; its message is left to go back."""
    request = parent.runs(reject_on_worker_lost=True, max_stalls=0)
    options = {"emit_retry": False} if "emit_retry" in inspect.signature(Request.cancel).parameters else {}
    request.cancel(Pool(), **options)
    request.on_failure(info_of(SystemExit()))
    assert (parent.status.state, parent.status.stalls, parent.ends) == ("LOST", 0, [])
    assert "cold shutdown" in str(parent.status.reason)


@pytest.mark.parametrize(
    ("exc", "status"),
    [
        (SystemExit(), "exitcode 0"), (SystemExit(3), "exitcode 3"), (SystemExit("no"), "exitcode 1"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)  # fmt: skip
def test_a_job_that_ends_its_process_is_one_whose_process_died(parent: Parent, exc: BaseException, status: str) -> None:
    """D5, D6: given back, and never acknowledged behind a record that says LOST; Celery before 5.7 would."""
    parent.runs(reject_on_worker_lost=True, max_stalls=1).on_failure(info_of(exc))
    assert (parent.ends, parent.status.state, parent.status.stalls) == (["requeued"], "LOST", 1)
    assert parent.status.reason == f"Worker exited prematurely: {status}."


def test_a_job_that_ends_its_process_and_is_not_given_back_has_failed(parent: Parent) -> None:
    """D6: its outcome can be stored, with every Celery."""
    parent.runs().on_failure(info_of(SystemExit(3)))
    assert (parent.status.state, parent.status.error) == ("FAILURE", "WorkerLostError")
    error = parent.app.backend.get_result(JOB)
    assert isinstance(error, WorkerLostError)
    assert "exitcode 3" in str(error)


# --- G8: revoke with terminate ----------------------------------------------------------------------------------------------


def test_to_terminate_a_running_job_ends_its_record(parent: Parent) -> None:
    """G8: Celery ends the process, and says REVOKED; the record does, too."""
    request, pool = parent.runs(), Pool()
    state.active_requests.add(request)
    request.terminate(pool, "KILL")
    assert (pool.ended, parent.status.state, parent.status.error) == ([(4711, signal.SIGKILL)], "REVOKED", "Terminated")


def test_what_is_terminated_by_a_signal_of_its_own_is_recorded_as_well(parent: Parent) -> None:
    """G8: somebody has sent SIGTERM to the process."""
    parent.runs().on_failure(info_of(Terminated("15")))
    assert (parent.status.state, parent.status.reason) == ("REVOKED", "terminated")
    assert parent.app.backend.get_state(JOB) == states.REVOKED


# --- G4, G6: what was cancelled ---------------------------------------------------------------------------------------------


def test_the_end_of_a_cancelled_job_is_told_once(parent: Parent) -> None:
    """G6: by Celery's signal and its event, as for a revoke; nothing was terminated."""
    parent.runs().on_failure(info_of(Cancelled("no longer wanted")))
    assert (parent.ends, parent.events, parent.signals) == (["acknowledged"], [("task-revoked", False)], [False])


@pytest.mark.parametrize("how", [LOST, SystemExit(), Terminated("9")])
@pytest.mark.parametrize("rejected", [True, False])
def test_a_process_that_was_ended_for_its_cancel_leaves_a_cancelled_job(
    parent: Parent, monkeypatch: pytest.MonkeyPatch, how: BaseException, rejected: bool
) -> None:
    """G4, G6: not lost, not given back, no failure: REVOKED with its reason, for chords and `link_error` a failure."""
    request = parent.runs(reject_on_worker_lost=rejected)
    assert cancel_job(parent.app, JOB, "no longer wanted").outcome == "requested"
    told: list[tuple[Any, Any]] = []
    mark = parent.app.backend.mark_as_failure

    def mark_as_failure(task_id: str, exc: Any, **options: Any) -> Any:
        told.append((type(exc), options["request"].id))
        return mark(task_id, exc, **options)

    monkeypatch.setattr(parent.app.backend, "mark_as_failure", mark_as_failure)
    request.on_failure(info_of(how))
    assert (parent.status.state, parent.status.reason, parent.ends) == ("REVOKED", "no longer wanted", ["acknowledged"])
    error = parent.app.backend.get_result(JOB)
    assert (type(error), error.reason) == (JobCancelledError, "no longer wanted")
    assert told == [(JobCancelledError, JOB)]
    assert (parent.events, parent.signals) == ([("task-revoked", True)], [True])


@pytest.mark.parametrize("rejected", [True, False])
@pytest.mark.parametrize("stored", [True, False])
def test_a_process_that_dies_behind_the_end_of_its_cancelled_job_leaves_a_cancelled_job(
    parent: Parent, stored: bool, rejected: bool
) -> None:
    """G6, G7: stopped and ended while it told of the end, which its record has; it is stored once, and no failure."""
    request = parent.receives(reject_on_worker_lost=rejected)
    execution = ScriptedExecution(parent.store.memory, tag="t1", token=request.hold.token)
    assert cancel_job(parent.app, JOB, "no longer wanted").outcome == "requested"
    execution.end("REVOKED")
    if stored:
        revoke(request.task, request._context, "told by its process")
    parent.events.clear()
    request.on_failure(info_of(LOST))
    assert (parent.status.state, parent.ends) == ("REVOKED", ["acknowledged"])
    assert parent.app.backend.get_state(JOB) == states.REVOKED
    error = parent.app.backend.get_result(JOB)
    assert (type(error), error.reason) == (JobCancelledError, "told by its process" if stored else "no longer wanted")
    assert (parent.events, parent.signals) == ([("task-revoked", True)], [True])


@pytest.mark.parametrize(("may_be", "mended"), [(True, [JOB]), (False, [])])
def test_a_retry_that_is_stored_behind_its_cancel_is_mended(
    parent: Parent, monkeypatch: pytest.MonkeyPatch, may_be: bool, mended: list[str]
) -> None:
    """G7: only where there may have been one: else no round trip."""
    found: list[str] = []
    monkeypatch.setattr(request_module, "mend_revoked", lambda _, job_id: found.append(job_id))
    monkeypatch.setattr(Runtime, "may_be_cancelled", lambda _, job_id: may_be)
    request = parent.runs()
    request.on_retry(SimpleNamespace(exception=SimpleNamespace(exc=OSError()), traceback=""))
    assert found == mended


def test_it_is_the_request_of_tracked_tasks() -> None:
    """A6: Celery's own hook."""
    assert ContextTask.Request == "taskora_celery.worker.request:JobRequest"


@pytest.mark.parametrize("written", ["x", -1, 10**30, None, [], {"a": 1}])
def test_a_loss_of_a_message_with_odd_headers_is_written(parent: Parent, written: Any) -> None:
    """D6: what a publisher of others' has written as retries, or as its stamp, keeps nobody from telling of a lost process."""
    request = parent.runs()
    request._request_dict.update(retries=written, taskora_created=written)
    assert request.lose("killed").stalls == 1
    assert parent.status.state == "LOST"
