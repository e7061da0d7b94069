"""What is asked for when a job is cancelled, and what a worker's parent remembers of it."""

# mypy: allow-untyped-decorators

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from taskora_celery.cancelling import request_of
from taskora_celery.records import CancelReceipt, Outcome
from taskora_celery.runtime import Runtime
from taskora_celery.stopping import KEPT_FOR
from taskora_celery.store.announcements import packed, unpacked
from taskora_celery.store.journal import CANCEL, encode
from taskora_celery.store.memory import MemoryStore
from taskora_celery.store.protocol import CancelRequest, Report, Shutdown
from taskora_celery.worker import backstop as backstop_module
from taskora_celery.worker.backstop import MARGIN, Backstop
from tests.support.cancels import CANCEL_MS, job_in, request
from tests.support.eager_apps import eager_app
from tests.support.executions import ScriptedExecution
from tests.support.manual_clock import ManualClock
from tests.support.traced import traced_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery


@pytest.fixture
def app() -> Iterator[Celery]:
    app = eager_app()
    yield app
    Runtime.forget(app)


# --- the request -------------------------------------------------------------------------------------------------------------


def test_a_request_says_who_wants_it_and_when(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """G1: for the journal; an id is a text, whatever it was given as."""
    monkeypatch.setattr(Runtime.of(app), "clock", ManualClock(1_789_999_000.5))
    found = request_of(app, 17, "no longer wanted", None)  # type: ignore[arg-type]
    assert (found.id, found.now_ms, found.reason, found.grace, found.gently) == (
        "17",
        1_790_000_000_500,
        "no longer wanted",
        None,
        False,
    )
    assert ":" in (found.by or "")
    assert request_of(app, "job-1", None, None, by="ops@desk").by == "ops@desk"


@pytest.mark.parametrize("reason", [5, b"bytes", ["a"], {"reason": "a"}, OSError("a")])
def test_a_reason_is_a_text_or_none(app: Celery, reason: Any) -> None:
    """G1: nothing is stored, and nothing announced."""
    with pytest.raises(TypeError, match="is not a text"):
        request_of(app, "job-1", reason, None)


@pytest.mark.parametrize(("grace", "expected"), [(None, None), (0, 0.0), (2.5, 2.5), (timedelta(seconds=90), 90.0)])
def test_a_grace_is_a_duration_or_none(app: Celery, grace: Any, expected: float | None) -> None:
    """G1: None is the task's own."""
    assert request_of(app, "job-1", None, grace).grace == expected


@pytest.mark.parametrize(
    ("grace", "error"), [("5", TypeError), (True, TypeError), (-1, ValueError), (math.nan, ValueError), (math.inf, ValueError)]
)
def test_a_grace_that_is_none_is_refused(app: Celery, grace: Any, error: type[Exception]) -> None:
    """G1: before anything is stored."""
    with pytest.raises(error, match="grace="):
        request_of(app, "job-1", None, grace)


def test_a_reason_is_redacted_and_bounded(app: Celery) -> None:
    """F7: reasons, too; and nobody's essay goes into every process."""
    assert "hunter2" not in (request_of(app, "job-1", "the password=hunter2 leaked", None).reason or "")
    assert len(request_of(app, "job-1", "x" * 10_000, None).reason or "") == 500


def test_a_users_own_rule_redacts_a_reason() -> None:
    """F7: under the key ``reason``."""
    app = eager_app(taskora_redact=lambda key, value: f"{key}: hidden")
    assert request_of(app, "job-1", "of a customer", None).reason == "reason: hidden"
    Runtime.forget(app)


@pytest.mark.parametrize(
    "announcement",
    [
        CancelRequest("job-1", 1),
        CancelRequest("ü\n", 2, "why", 0.5, gently=True, by="me"),
        CancelRequest("", 0, ""),
        Shutdown("w1@host"),
    ],
)
def test_an_announcement_survives_the_wire(announcement: CancelRequest | Shutdown) -> None:
    """G1: both kinds on one channel."""
    assert unpacked(packed(announcement)) == announcement


# --- the receipt -------------------------------------------------------------------------------------------------------------


def test_a_receipt_is_frozen_and_plain() -> None:
    """G7: it crosses borders: JSON, logs, command lines."""
    receipt = CancelReceipt("job-1", "cancelled", 1_790_000_000_000, "no longer wanted")
    with pytest.raises(AttributeError):
        receipt.outcome = "requested"  # type: ignore[misc]
    assert msgspec.json.decode(msgspec.json.encode(receipt), type=CancelReceipt) == receipt
    assert msgspec.to_builtins(CancelReceipt("job-1", "unknown", 1)) == {"id": "job-1", "outcome": "unknown", "requested_ms": 1}


@pytest.mark.parametrize(
    ("options", "track", "queued"),
    [({}, "all", True), ({"tracked": False}, "all", False), ({}, "context", False)],
)
def test_who_sent_a_job_knows_that_it_waits_where_its_worker_will_ask(options: dict[str, Any], track: str, queued: bool) -> None:
    """G2, A7: a cancel in the queue may promise only what somebody keeps; a task that is left alone asks nobody."""
    with traced_app(MemoryStore(), taskora_track=track, task_default_queue="of nobody") as app:

        @app.task(**options)
        def work() -> None:
            """Do nothing."""

        handle = work.delay()
        assert (handle.queued, handle.sent) == (queued, True)
        assert handle.cancel().outcome == ("cancelled" if queued else "unknown")
        assert work.AsyncResult(handle.id).queued is False


# --- what a process has heard ----------------------------------------------------------------------------------------------


class Hearing:
    """A process that has heard announcements without a gap since some seconds."""

    def __init__(self, app: Celery) -> None:
        self.clock = ManualClock()
        self.runtime = Runtime(app, MemoryStore(), clock=self.clock)
        self.since(KEPT_FOR)

    def since(self, seconds: float | None) -> None:
        assert self.runtime.listener is not None
        self.runtime.listener.ready_since = None if seconds is None else self.clock.time() - seconds


@pytest.fixture
def hearing(app: Celery) -> Hearing:
    return Hearing(app)


def test_who_has_heard_all_knows_of_whom_nobody_wanted_to_stop(hearing: Hearing) -> None:
    """I4, G6: behind each retry the store is asked only for a job that may have been cancelled just now."""
    assert not hearing.runtime.may_be_cancelled("job-1")
    hearing.runtime.stopper.announced(request("job-2"))
    assert [hearing.runtime.may_be_cancelled(f"job-{n}") for n in (1, 2)] == [False, True]


@pytest.mark.parametrize("since", [None, KEPT_FOR - 1])
def test_who_was_deaf_meanwhile_knows_of_nobody(hearing: Hearing, since: float | None) -> None:
    """G6: a process that has just begun, or whose connection was lost in between."""
    hearing.since(since)
    assert hearing.runtime.may_be_cancelled("job-1")


def test_what_was_heard_long_ago_is_over(hearing: Hearing) -> None:
    """G6: a retry that is stored over a cancel comes a moment behind it."""
    hearing.runtime.stopper.announced(request("job-1"))
    hearing.clock.advance(KEPT_FOR + 1)
    hearing.runtime.stopper.announced(request("job-2"))
    assert not hearing.runtime.may_be_cancelled("job-1")


# --- the backstop ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    clock = ManualClock()
    monkeypatch.setattr(backstop_module, "time", clock)
    return clock


class Watched:
    """A backstop, with a job that runs here with a grace of four seconds."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.store = MemoryStore()
        self.ended: list[str] = []
        self.woken = 0
        self.grace: float | None = 4.0
        self.backstop = Backstop(self.store, lambda _: self.grace, self.wake)
        self.execution = job_in(self.store, "STARTED")

    def wake(self) -> None:
        self.woken += 1

    def cancel(self, **fields: Any) -> None:
        self.store.cancel(request(**fields))
        self.backstop.announced(request(**fields))

    def after(self, seconds: float) -> float | None:
        self.clock.advance(seconds)
        return self.backstop.turn(self.ended.append)

    def notes(self, phase: str) -> None:
        batches = encode(1, [(CANCEL, 0, {"phase": phase}, None, None)], 10)
        self.execution.send(Report("job-1", self.execution.fence, 1, batches=batches))


@pytest.fixture
def watched(clock: ManualClock) -> Watched:
    return Watched(clock)


def test_a_job_that_says_nothing_is_ended_behind_two_graces(watched: Watched) -> None:
    """G4: code in C that holds the interpreter's lock; its own process would have come first."""
    watched.cancel()
    assert watched.woken == 1
    assert watched.after(0) == pytest.approx(8 + MARGIN)
    assert watched.after(8) == pytest.approx(MARGIN)
    assert watched.ended == []
    assert (watched.after(MARGIN), watched.ended) == (None, ["job-1"])
    assert (watched.after(60), watched.ended) == (None, ["job-1"])


@pytest.mark.parametrize("phase", ["delivered", "interrupted", "killed"])
def test_a_job_that_has_noted_a_step_goes_the_rest_by_itself(watched: Watched, phase: str) -> None:
    """G4: its process lives, and counts its own graces."""
    watched.cancel()
    watched.notes(phase)
    assert (watched.after(60), watched.ended) == (None, [])


def test_the_requests_grace_counts(watched: Watched) -> None:
    """G1: also here."""
    watched.cancel(grace=1.0)
    assert watched.after(0) == pytest.approx(2 + MARGIN)


def test_who_is_not_to_be_ended_is_not_watched(watched: Watched) -> None:
    """G8: a gentle request, a shutdown, and a job that does not run here."""
    watched.cancel(gently=True)
    watched.backstop.announced(Shutdown("w1@host"))
    watched.grace = None
    watched.cancel()
    assert (watched.after(60), watched.ended, watched.woken) == (None, [], 0)


def test_what_a_job_heard_of_a_plain_revoke_is_no_word_of_the_cancel_behind_it(watched: Watched) -> None:
    """G4, G8: it may hang in code in C since then."""
    watched.cancel(gently=True)
    watched.notes("delivered")
    watched.cancel()
    assert (watched.after(60), watched.ended) == (None, ["job-1"])


def test_a_job_whose_record_is_gone_is_left_alone(watched: Watched) -> None:
    """G4: nothing is known of it, so nothing is done to it."""
    watched.cancel()
    watched.store._jobs.clear()
    assert (watched.after(60), watched.ended) == (None, [])


def test_a_job_that_was_sent_anew_behind_the_end_of_a_cancelled_one_is_left_alone(watched: Watched) -> None:
    """G4: it has the same id, and runs here; nobody has cancelled it."""
    watched.cancel()
    watched.notes("delivered")
    watched.execution.end(Outcome.REVOKED)
    anew = ScriptedExecution(watched.store, tag="t2", token=2, now_ms=CANCEL_MS + 2_000, created_ms=CANCEL_MS + 1_000)
    anew.logs("on we go")
    assert (watched.after(60), watched.ended) == (None, [])


def test_of_several_jobs_each_has_its_time(watched: Watched) -> None:
    """G4: the soonest first, whatever was asked first."""
    job_in(watched.store, "STARTED", "job-2")
    watched.cancel()
    watched.cancel(job_id="job-2", grace=1.0)
    assert watched.after(2 + MARGIN) == pytest.approx(6)
    assert watched.ended == ["job-2"]
    watched.after(6)
    assert watched.ended == ["job-2", "job-1"]
