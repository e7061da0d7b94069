"""How running jobs are stopped: what is due is done, in its order, to the job that it is for, and to no later one."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from taskora_celery import stopping
from taskora_celery.context import Context, JobInfo
from taskora_celery.errors import JobCancelledError, NotSupportedError, cancelled_as
from taskora_celery.interrupts import Interrupt
from taskora_celery.stopping import JobStop, Stopper
from taskora_celery.store.protocol import CancelRequest, Shutdown
from tests.support.manual_clock import ManualClock
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT = 10.0  # seconds
GRACE = 4.0
WORKER = "w1@host"


@pytest.fixture
def clock() -> ManualClock:
    """The time of everything here."""
    return ManualClock()


class RecordedInterrupt(Interrupt):
    """Notes what is raised."""

    can = True

    def __init__(self) -> None:
        super().__init__()
        self.raised: list[str] = []

    def _raise(self, exc: type[BaseException]) -> None:
        self.raised.append(exc.__name__)


class ManualStopper(Stopper):
    """Has no thread: the test takes its turns."""

    def __init__(self, clock: ManualClock) -> None:
        self.killed: list[str] = []
        super().__init__("default", lambda ctx: self.killed.append(ctx.id), clock)
        self._thread.start = lambda: None  # type: ignore[method-assign]

    def due_in(self, clock: ManualClock) -> list[float]:
        """In how many seconds something is due, soonest first."""
        return sorted(round(due.when - clock.monotonic(), 3) for due in self._agenda._due)


@pytest.fixture
def stopper(clock: ManualClock) -> ManualStopper:
    return ManualStopper(clock)


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The signals that would have ended this process."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    return sent


def stop_of(stopper: Stopper, clock: ManualClock, job_id: str = "job-1", worker: str = WORKER, **options: Any) -> JobStop:
    """A job that is about to run."""
    created_ms = int(clock.time() * 1000) - 500
    ctx = Context(job_id, "work", info=JobInfo(timestamp=created_ms), time=clock.time)
    stop = JobStop(stopper, ctx, **{"worker": worker, "grace": GRACE, "in_child": False, **options})
    stop.interrupt = RecordedInterrupt()
    return stop


def raised(stop: JobStop) -> list[str]:
    assert isinstance(stop.interrupt, RecordedInterrupt)
    return stop.interrupt.raised


def phases(stop: JobStop) -> list[str]:
    return [entry[2]["phase"] for entry in stop.ctx.entries()]


def request(clock: ManualClock, job_id: str = "job-1", **fields: Any) -> CancelRequest:
    return CancelRequest(job_id, int(clock.time() * 1000), **{"reason": "no longer wanted", **fields})


def running(stopper: Stopper, clock: ManualClock, **options: Any) -> JobStop:
    """A job that runs."""
    stop = stop_of(stopper, clock, **options)
    stopper.watch(stop)
    stop.open()
    return stop


def after(stopper: Stopper, clock: ManualClock, seconds: float) -> None:
    """Let time pass, and do what is due then."""
    clock.advance(seconds)
    stopper._turn()


# --- a cancel, step by step ------------------------------------------------------------------------------------------------


def test_a_cancel_fires_the_signal_at_once_and_interrupts_a_grace_later(stopper: ManualStopper, clock: ManualClock) -> None:
    """G3, G4: the handler may stop by itself until then."""
    stop = running(stopper, clock)
    stopper.announced(request(clock))
    assert (stop.ctx.signal.reason, stop.ctx.signal.message, raised(stop)) == ("cancelled", "no longer wanted", [])
    after(stopper, clock, GRACE - 0.01)
    assert raised(stop) == []
    after(stopper, clock, 0.02)
    assert (raised(stop), phases(stop)) == (["JobCancelledError"], ["delivered", "interrupted"])


def test_the_journal_tells_when_a_cancel_was_heard(stopper: ManualStopper, clock: ManualClock) -> None:
    """G3: and not when the listeners of the signal, which are the user's, had done."""
    stop = running(stopper, clock)
    heard = clock.time()
    stop.ctx.signal.add_listener(lambda _: clock.advance(5))
    stopper.announced(request(clock))
    assert [(entry[1], entry[2]) for entry in stop.ctx.entries()] == [(heard, {"phase": "delivered"})]


def test_a_child_that_does_not_obey_is_ended_another_grace_later(
    stopper: ManualStopper, clock: ManualClock, kills: list[tuple[int, int]]
) -> None:
    """G4: what the job has said until then is written first."""
    stop = running(stopper, clock, in_child=True)
    stopper.announced(request(clock))
    after(stopper, clock, GRACE + 0.01)
    assert kills == []
    after(stopper, clock, GRACE + 0.01)
    assert (kills, stopper.killed) == ([(os.getpid(), signal.SIGKILL)], ["job-1"])
    assert phases(stop) == ["delivered", "interrupted", "killed"]


def test_a_job_that_ends_while_its_last_words_are_written_is_not_killed(
    stopper: ManualStopper, clock: ManualClock, kills: list[tuple[int, int]]
) -> None:
    """G4: its process has another job by then, or will in a moment."""
    stop = running(stopper, clock, in_child=True)
    stopper.before_kill = lambda _: stop.close()
    stopper.announced(request(clock))
    for _ in range(3):
        after(stopper, clock, GRACE + 0.01)
    assert kills == []


def test_a_handler_that_ends_while_it_is_about_to_be_interrupted_cleans_up_undisturbed(
    stopper: ManualStopper, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G4, G5: the cleaning up has a grace of its own; what was due to the handler is not done to it."""
    stop = running(stopper, clock)

    def ends(*arguments: Any) -> Any:
        monkeypatch.undo()
        stop.close()
        stop.open_clean_up()
        return cancelled_as(*arguments)

    monkeypatch.setattr(stopping, "cancelled_as", ends)
    stopper.announced(request(clock))
    after(stopper, clock, GRACE + 0.01)
    assert raised(stop) == []
    after(stopper, clock, GRACE + 0.01)
    assert raised(stop) == ["JobCancelledError"], "once, as what begins then has told itself"


def test_nothing_is_due_any_more_to_a_job_that_ends_while_it_is_planned(
    stopper: ManualStopper, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H1: its limit comes while its end is written; nobody would drop what is planned then, and it would go on for ever."""
    stop = running(stopper, clock, deadline=clock.time() + 5)
    stop.close()
    plan = stopper.after

    def ends(*arguments: Any) -> Any:
        due = plan(*arguments)
        stop.close_for_good()
        return due

    monkeypatch.setattr(stopper, "after", ends)
    after(stopper, clock, 5)
    monkeypatch.undo()
    for _ in range(3):
        after(stopper, clock, 1)
    assert stopper.due_in(clock) == []


def test_where_no_process_can_be_ended_the_handler_is_interrupted_again(
    stopper: ManualStopper, clock: ManualClock, kills: list[tuple[int, int]]
) -> None:
    """G4: an exception may be swallowed; it is noted once."""
    stop = running(stopper, clock)
    stopper.announced(request(clock))
    for _ in range(3):
        after(stopper, clock, GRACE + 0.01)
    assert (raised(stop), phases(stop), kills) == (["JobCancelledError"] * 3, ["delivered", "interrupted"], [])


def test_without_a_grace_it_is_insisted_at_a_bearable_pace(stopper: ManualStopper, clock: ManualClock) -> None:
    """G4: ``grace=0`` is at once, and not a loop."""
    stop = running(stopper, clock, grace=0.0)
    stopper.announced(request(clock))
    stopper._turn()
    assert (raised(stop), stopper.due_in(clock)) == (["JobCancelledError"], [0.1])


def test_the_grace_of_the_request_comes_before_that_of_the_task(stopper: ManualStopper, clock: ManualClock) -> None:
    """G1: ``handle.cancel(grace=…)``."""
    running(stopper, clock)
    stopper.announced(request(clock, grace=1.5))
    assert stopper.due_in(clock) == [1.5]


def test_a_gentle_request_is_the_signal_alone(stopper: ManualStopper, clock: ManualClock) -> None:
    """G8: a plain revoke never interrupted a running task."""
    stop = running(stopper, clock)
    stopper.announced(request(clock, gently=True))
    assert (stop.ctx.signal.reason, stopper.due_in(clock)) == ("cancelled", [])


def test_of_two_requests_the_first_counts(stopper: ManualStopper, clock: ManualClock) -> None:
    """G1: no second grace begins, and no shorter one."""
    stop = running(stopper, clock)
    stopper.announced(request(clock))
    stopper.announced(request(clock, reason="another", grace=0.0))
    stopper.cancel(request(clock, reason="a third"))
    assert (stop.ctx.signal.message, stopper.due_in(clock), phases(stop)) == ("no longer wanted", [GRACE], ["delivered"])


def test_a_job_that_has_ended_is_not_interrupted(
    stopper: ManualStopper, clock: ManualClock, kills: list[tuple[int, int]]
) -> None:
    """G4: what was due to it is forgotten; its process has another job by then."""
    stop = running(stopper, clock, in_child=True)
    stopper.announced(request(clock))
    stop.close()
    stop.close_for_good()
    for _ in range(3):
        after(stopper, clock, GRACE + 0.01)
    assert (raised(stop), kills, stopper.due_in(clock)) == ([], [], [])


def test_what_was_due_to_the_handler_is_not_done_to_the_cleaning_up(
    stopper: ManualStopper, clock: ManualClock, kills: list[tuple[int, int]]
) -> None:
    """G5: `on_cancel` has a grace of its own, counted from its beginning."""
    stop = running(stopper, clock, in_child=True)
    stopper.announced(request(clock))
    after(stopper, clock, GRACE - 1)
    stop.close()
    stop.open_clean_up()
    after(stopper, clock, 1.01)
    assert (raised(stop), kills) == ([], [])
    after(stopper, clock, GRACE - 1)
    assert raised(stop) == ["JobCancelledError"]
    after(stopper, clock, GRACE + 0.01)
    assert len(kills) == 1


def test_cleaning_up_that_has_ended_is_left_alone(
    stopper: ManualStopper, clock: ManualClock, kills: list[tuple[int, int]]
) -> None:
    """G5: the outcome is being written then."""
    stop = running(stopper, clock, in_child=True)
    stopper.announced(request(clock))
    stop.close()
    stop.open_clean_up()
    stop.close()
    for _ in range(3):
        after(stopper, clock, GRACE + 0.01)
    assert (raised(stop), kills) == ([], [])


def test_cleaning_up_behind_the_handlers_road_is_limited_as_well(
    stopper: ManualStopper, clock: ManualClock, kills: list[tuple[int, int]]
) -> None:
    """G5: autoretry has asked for a retry, which was refused: the job was let go of by then, and is cleaned up all the same."""
    stop = running(stopper, clock, in_child=True)
    stop.close()
    stop.close_for_good()
    stop.open_clean_up()
    after(stopper, clock, GRACE + 0.01)
    assert raised(stop) == ["JobCancelledError"]
    after(stopper, clock, GRACE + 0.01)
    assert len(kills) == 1


def test_a_cancel_behind_the_end_does_nothing(stopper: ManualStopper, clock: ManualClock) -> None:
    """G7: the store says that it is too late; the job is not told of it."""
    stop = running(stopper, clock)
    stop.close()
    stop.close_for_good()
    stop.cancel(request(clock))
    assert (stop.ctx.signal.aborted, phases(stop), stopper._running) == (False, [], {})


def test_a_shutdown_behind_the_end_does_nothing(stopper: ManualStopper, clock: ManualClock) -> None:
    """I3: its outcome is on its way; it was told nothing that would explain another."""
    stop = running(stopper, clock)
    stop.close()
    stop.close_for_good()
    stop.shut_down()
    assert not stop.ctx.signal.aborted


def test_only_the_job_that_is_meant_is_told(stopper: ManualStopper, clock: ManualClock) -> None:
    """G3: and each delivery of it that runs here."""
    stops = [running(stopper, clock, job_id=job_id) for job_id in ("job-1", "job-2", "job-1")]
    stopper.announced(request(clock))
    assert [stop.ctx.signal.aborted for stop in stops] == [True, False, True]


# --- what is announced in the moment of a beginning ------------------------------------------------------------------------


def test_a_job_that_begins_just_after_the_announcement_is_told(stopper: ManualStopper, clock: ManualClock) -> None:
    """G3: its beginning and the cancel have crossed."""
    early = stop_of(stopper, clock)
    stopper.announced(request(clock))
    stopper.watch(early)
    assert early.ctx.signal.reason == "cancelled"


def test_an_announcement_in_the_midst_of_a_beginning_is_not_lost(stopper: ManualStopper, clock: ManualClock) -> None:
    """G3: it is kept before anybody is looked for."""

    class Jobs(dict[int, JobStop]):
        """A job comes in just when it is looked for."""

        def values(self) -> Any:
            found = list(super().values())
            if not self:
                stopper._running = {}
                stopper.watch(late)
            return found

    late = stop_of(stopper, clock)
    stopper._running = Jobs()
    stopper.announced(request(clock))
    assert late.ctx.signal.reason == "cancelled"


def test_an_announcement_is_not_for_a_job_that_was_created_later(stopper: ManualStopper, clock: ManualClock) -> None:
    """G2: the same id, sent anew."""
    stopper.announced(request(clock))
    clock.advance(1)
    anew = stop_of(stopper, clock)
    stopper.watch(anew)
    assert not anew.ctx.signal.aborted


def test_announcements_are_not_kept_for_ever(stopper: ManualStopper, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runtime: by time, and by number."""
    stopper.announced(request(clock, "old"))
    clock.advance(stopping.KEPT_FOR + 1)
    stopper.announced(request(clock, "new"))
    assert list(stopper._recent) == ["new"]
    monkeypatch.setattr(stopping, "KEPT", 3)
    for n in range(5):
        stopper.announced(request(clock, f"job-{n}"))
    assert list(stopper._recent) == ["job-2", "job-3", "job-4"]


def test_a_shutdown_is_for_the_jobs_of_its_worker(stopper: ManualStopper, clock: ManualClock) -> None:
    """I3: two workers may share a process in tests, and hear each other's announcements in any case."""
    stops = [running(stopper, clock, worker=worker) for worker in (WORKER, "w2@host")]
    stopper.announced(Shutdown(WORKER))
    assert [stop.ctx.signal.reason for stop in stops] == ["shutdown", None]
    assert (raised(stops[0]), stopper._recent) == ([], {})


def test_a_handler_that_is_tried_for_ever_costs_no_memory(stopper: ManualStopper, clock: ManualClock) -> None:
    """G4, Q1: what was due and is done is let go of, in the job and in the thread."""
    stop = running(stopper, clock, grace=0.0)
    stopper.announced(request(clock))
    for _ in range(100):
        after(stopper, clock, 1)
    assert len(stop._dues) <= 2
    assert len(stopper._agenda) <= 2


# --- the time limit ------------------------------------------------------------------------------------------------------


def test_at_the_soft_limit_the_signal_fires_and_the_handler_is_interrupted(stopper: ManualStopper, clock: ManualClock) -> None:
    """H1: where the pool does not do it."""
    stop = running(stopper, clock, deadline=clock.time() + 5)
    after(stopper, clock, 4.9)
    assert not stop.ctx.signal.aborted
    after(stopper, clock, 0.2)
    assert (stop.ctx.signal.reason, raised(stop)) == ("timeout", ["SoftTimeLimitExceeded"])


def test_in_a_child_of_a_pool_the_soft_limit_is_celerys(stopper: ManualStopper, clock: ManualClock) -> None:
    """H1: it raises by itself; to do it twice would hit the handler's own cleaning up."""
    stop = running(stopper, clock, in_child=True, deadline=clock.time() + 5)
    after(stopper, clock, 6)
    assert (stop.ctx.signal.aborted, raised(stop)) == (False, [])
    assert stop.soft_limit() is False
    assert stop.ctx.signal.reason == "timeout"


def test_a_cancel_that_came_first_is_not_overtaken_by_the_limit(stopper: ManualStopper, clock: ManualClock) -> None:
    """C1, H1: the first reason stands, and with it its own road."""
    stop = running(stopper, clock, deadline=clock.time() + 1)
    stopper.announced(request(clock))
    after(stopper, clock, 1.1)
    assert (stop.ctx.signal.reason, raised(stop)) == ("cancelled", [])


def test_a_limit_behind_the_end_is_nobodys(stopper: ManualStopper, clock: ManualClock) -> None:
    """H1: the process may have another job."""
    stop = running(stopper, clock, deadline=clock.time() + 1)
    stop.close()
    stop.close_for_good()
    after(stopper, clock, 2)
    assert (stop.ctx.signal.aborted, raised(stop)) == (False, [])


def test_an_extended_deadline_moves_the_limit(stopper: ManualStopper, clock: ManualClock) -> None:
    """H3: from where it is, again and again."""
    stop = running(stopper, clock, deadline=clock.time() + 5)
    now = clock.time()
    assert [stop.extend(2) - now, stop.extend(1) - now] == pytest.approx([7, 8])
    after(stopper, clock, 7.5)
    assert not stop.ctx.signal.aborted
    after(stopper, clock, 0.6)
    assert (stop.ctx.signal.reason, raised(stop)) == ("timeout", ["SoftTimeLimitExceeded"])


def test_a_handler_that_extends_its_deadline_when_it_is_reached_has_a_new_one(stopper: ManualStopper, clock: ManualClock) -> None:
    """H3: it has caught the first limit, and asked for more time to clean up."""
    stop = running(stopper, clock, deadline=clock.time() + 5)
    after(stopper, clock, 5.01)
    stop.extend(10)
    after(stopper, clock, 9.9)
    assert raised(stop) == ["SoftTimeLimitExceeded"]
    after(stopper, clock, 0.2)
    assert raised(stop) == ["SoftTimeLimitExceeded"] * 2


def test_an_extended_deadline_holds_celerys_own_limit_off(stopper: ManualStopper, clock: ManualClock) -> None:
    """H3: in a child of a pool, until the new instant; then this library interrupts."""
    stop = running(stopper, clock, in_child=True, deadline=clock.time() + 5)
    stop.extend(2)
    clock.advance(5)
    assert (stop.soft_limit(), stop.ctx.signal.aborted) == (True, False)
    after(stopper, clock, 2.1)
    assert (stop.ctx.signal.reason, raised(stop)) == ("timeout", ["SoftTimeLimitExceeded"])


def test_the_log_says_whether_the_limit_is_exceeded_or_was_extended(
    stopper: ManualStopper, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """H3: in a child of a pool, where only its process knows; and not in the signal handler, which may hold up the log's lock."""
    caplog.set_level("INFO", "taskora_celery.stopping")
    stop = running(stopper, clock, in_child=True, deadline=clock.time() + 5)
    stop.extend(2)
    clock.advance(5)
    stop.soft_limit()
    assert caplog.records == []
    stopper._turn()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "job job-1 (work): the soft time limit has come, but was extended: the job goes on")
    ]
    after(stopper, clock, 2.1)
    assert caplog.records[1:][0].getMessage() == "job job-1 (work): the soft time limit is exceeded"
    assert len(caplog.records) == 2


def test_without_a_soft_limit_there_is_nothing_to_extend(stopper: ManualStopper, clock: ManualClock) -> None:
    """H3: never a silent no-op."""
    stop = running(stopper, clock, limit=clock.time() + 10)
    with pytest.raises(NotSupportedError, match="set soft_time_limit on the task"):
        stop.extend(1)


@pytest.mark.parametrize(("seconds", "allowed"), [(4.9, True), (5.0, False), (60.0, False)])
def test_the_hard_limit_is_not_moved(stopper: ManualStopper, clock: ManualClock, seconds: float, allowed: bool) -> None:
    """H3: the pool keeps it; what it would not keep is refused, and nothing has changed."""
    stop = running(stopper, clock, deadline=clock.time() + 5, limit=clock.time() + 10)
    if allowed:
        stop.extend(seconds)
        return
    with pytest.raises(NotSupportedError, match=r"the hard time_limit, which this pool keeps, ends the job in 10\.0 s"):
        stop.extend(seconds)
    after(stopper, clock, 5.1)
    assert raised(stop) == ["SoftTimeLimitExceeded"]


def test_a_signal_that_was_only_marked_is_told_at_the_jobs_end(stopper: ManualStopper, clock: ManualClock) -> None:
    """H1, C2: a limit in the handler's last line leaves nobody waiting for ever."""
    stop = running(stopper, clock, in_child=True, deadline=clock.time() + 5)
    woken: list[str | None] = []
    stop.ctx.signal.add_listener(lambda fired: woken.append(fired.reason))
    stop.soft_limit()
    assert woken == []
    stop.close()
    stop.close_for_good()
    assert woken == ["timeout"]


# --- the thread ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def threaded() -> Iterator[Stopper]:
    stopper = Stopper("default", lambda _: None)
    yield stopper
    stopper.stop()


def test_what_is_due_is_done_in_its_order(threaded: Stopper) -> None:
    """Runtime: by instant, and of the same instant in the order in which it came."""
    order: list[str] = []
    busy, go = threading.Event(), threading.Event()

    def first() -> None:
        busy.set()
        go.wait(TIMEOUT)

    threaded.after(0, first)
    assert busy.wait(TIMEOUT)
    for when, name in ((30, "c"), (10, "a"), (20, "b"), (10, "a too")):
        threaded.after(when - 100, lambda name=name: order.append(name))  # type: ignore[misc]
    go.set()
    wait_until(lambda: len(order) == 4, "all that is due to be done", TIMEOUT)
    assert order == ["a", "a too", "b", "c"]


def test_what_is_due_sooner_does_not_wait_for_what_is_due_later(threaded: Stopper) -> None:
    """G4: a grace of a second is kept while a limit of an hour is waited for."""
    done = threading.Event()
    threaded.after(3_600, lambda: None)
    threaded.after(0.02, done.set)
    assert done.wait(TIMEOUT)


def test_an_action_that_fails_is_logged_and_the_next_is_done(threaded: Stopper, caplog: pytest.LogCaptureFixture) -> None:
    """Runtime: a user's listener, say; what is due to other jobs is done."""
    done = threading.Event()

    def fail() -> None:
        raise RuntimeError("a listener of somebody")

    threaded.after(0, fail)
    threaded.after(1, done.set)
    assert done.wait(TIMEOUT)
    assert "a job could not be told to stop" in caplog.text
    assert "a listener of somebody" in caplog.text


def test_a_signal_handler_may_ask_for_something_whatever_it_interrupts(threaded: Stopper) -> None:
    """H1: it comes between any two lines of the main thread, which may hold the lock."""
    done = threading.Event()
    started = threading.Event()
    threaded.after(0, started.set)
    assert started.wait(TIMEOUT)
    before = signal.signal(signal.SIGUSR2, lambda *_: threaded.soon(done.set))
    try:
        with threaded._lock:
            signal.raise_signal(signal.SIGUSR2)
        assert done.wait(TIMEOUT)
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_the_waiters_of_a_marked_signal_are_woken_by_the_thread(threaded: Stopper, clock: ManualClock) -> None:
    """H1, C2: the handler's own threads learn of Celery's limit while it still runs."""
    stop = JobStop(threaded, Context("job-1", "work"), worker=WORKER, grace=GRACE, in_child=True, deadline=clock.time() + 3_600)
    stop.open()
    woken: list[bool] = []
    waiting = threading.Thread(target=lambda: woken.append(stop.ctx.signal.wait(TIMEOUT)))
    waiting.start()
    stop.soft_limit()
    waiting.join(TIMEOUT)
    stop.close()
    assert woken == [True]


def test_a_job_without_a_limit_that_nobody_cancels_costs_no_thread(threaded: Stopper) -> None:
    """P6: most jobs."""
    stop = JobStop(threaded, Context("job-1", "work"), worker=WORKER, grace=GRACE, in_child=False)
    threaded.watch(stop)
    stop.open()
    stop.close()
    stop.close_for_good()
    assert threaded._thread._thread is None


def test_the_exception_is_raised_in_the_handler_of_this_thread(threaded: Stopper) -> None:
    """G4, H1: the whole road, with a thread and a handler that wait."""
    import time

    def job(**options: Any) -> JobStop:
        return JobStop(threaded, Context("job-1", "work"), **{"worker": WORKER, "grace": 60, "in_child": False, **options})

    for stop, cancels, expected in (
        (job(grace=0.02), True, JobCancelledError),
        (job(grace=0.0), True, JobCancelledError),
        (job(deadline=time.time() + 0.05), False, SoftTimeLimitExceeded),
        (job(deadline=time.time() - 1), False, SoftTimeLimitExceeded),
    ):
        begun = time.monotonic()
        raised = stopped_while_it_waits(threaded, stop, cancels=cancels)
        assert raised is not None
        assert (issubclass(raised, expected), time.monotonic() - begun < TIMEOUT / 2) == (True, True)


def stopped_while_it_waits(stopper: Stopper, stop: JobStop, *, cancels: bool) -> type[Exception] | None:
    """Be a handler that waits; return what ends it."""
    stopper.watch(stop)
    try:
        try:
            stop.open()
            if cancels:
                with stop.shield():
                    stop.cancel(CancelRequest("job-1", 0))
            threading.Event().wait(TIMEOUT)
        finally:
            stop.close()
    except (JobCancelledError, SoftTimeLimitExceeded) as exc:
        return type(exc)
    finally:
        stop.close_for_good()
    return None


class LateInterrupt(RecordedInterrupt):
    """Takes each exception for as good as sent, and none arrives."""

    may_be_late = True

    def _raise(self, exc: type[BaseException]) -> None:
        super()._raise(exc)
        self._pending = exc


def test_an_interruption_that_does_not_arrive_is_sent_again(stopper: ManualStopper, clock: ManualClock) -> None:
    """G4: a signal in the moment before a call begins to wait does not end the call; less and less often, until it arrives."""
    stop = stop_of(stopper, clock, deadline=clock.time() + 1)
    stop.interrupt = LateInterrupt()
    stopper.watch(stop)
    stop.open()
    after(stopper, clock, 1)
    for pause, times in ((0.05, 2), (0.05, 2), (0.05, 3), (0.2, 4)):
        after(stopper, clock, pause + 0.001)
        assert len(raised(stop)) == times
    stop.interrupt._pending = None  # it has arrived
    after(stopper, clock, 60)
    assert (len(raised(stop)), stopper.due_in(clock)) == (4, [])


def test_what_has_not_arrived_at_the_handlers_end_is_not_sent_again(stopper: ManualStopper, clock: ManualClock) -> None:
    """G4: nobody is there any more."""
    stop = stop_of(stopper, clock, deadline=clock.time() + 1)
    stop.interrupt = LateInterrupt()
    stopper.watch(stop)
    stop.open()
    after(stopper, clock, 1)
    stop.close()
    after(stopper, clock, 60)
    assert (raised(stop), stopper.due_in(clock)) == (["SoftTimeLimitExceeded"], [])


def test_a_limit_that_was_over_before_the_handler_began_is_kept(stopper: ManualStopper, clock: ManualClock) -> None:
    """H1: the beginning has taken a round trip to a store that is slow."""
    stop = stop_of(stopper, clock, deadline=clock.time() + 1)
    stopper.watch(stop)
    stopper.after(1, stop._at_deadline)
    after(stopper, clock, 2)
    assert (stop.ctx.signal.reason, raised(stop)) == ("timeout", [])
    stop.open()
    after(stopper, clock, 0.02)
    assert raised(stop) == ["SoftTimeLimitExceeded"]
    after(stopper, clock, 60)
    assert (raised(stop), stopper.due_in(clock)) == (["SoftTimeLimitExceeded"], [])


def test_a_child_is_not_ended_before_its_handler_was_interrupted(
    stopper: ManualStopper, clock: ManualClock, kills: list[tuple[int, int]]
) -> None:
    """G4: without a grace, the cancel comes between the beginning and the handler."""
    stop = stop_of(stopper, clock, in_child=True, grace=0.0)
    stopper.announced(request(clock))
    stopper.watch(stop)
    stopper._turn()
    stop.open()
    after(stopper, clock, 0.11)
    assert (raised(stop), kills) == (["JobCancelledError"], [])
    after(stopper, clock, 0.11)
    assert len(kills) == 1


# --- the machine's clock is set ------------------------------------------------------------------------------------------------


def test_a_grace_is_as_long_as_it_is_whatever_the_clock_is_set_to(
    stopper: ManualStopper, clock: ManualClock, kills: list[tuple[int, int]]
) -> None:
    """G4: a machine that wakes up, or asks a time server, must not kill what was just asked to stop; nor leave it for an hour."""
    stop = running(stopper, clock, in_child=True)
    stop.cancel(request(clock))
    clock.set(3_600)
    after(stopper, clock, GRACE - 0.1)
    assert raised(stop) == []
    clock.set(-7_200)
    after(stopper, clock, 0.2)
    assert raised(stop) == ["JobCancelledError"]
    clock.set(7_200)
    after(stopper, clock, GRACE - 0.2)
    assert kills == []
    after(stopper, clock, 0.2)
    assert len(kills) == 1


def test_a_limit_is_kept_where_the_clock_was_set_back(stopper: ManualStopper, clock: ManualClock) -> None:
    """H1: it is an instant that the handler has been told; that instant comes later then, and is not forgotten."""
    stop = running(stopper, clock, deadline=clock.time() + 10)
    clock.set(-60)
    after(stopper, clock, 11)
    assert raised(stop) == []
    after(stopper, clock, 60)
    assert (stop.ctx.signal.reason, raised(stop)) == ("timeout", ["SoftTimeLimitExceeded"])


def test_looks_at_a_deadline_do_not_grow_in_number(stopper: ManualStopper, clock: ManualClock) -> None:
    """H3: a handler may extend its deadline as often as it likes."""
    stop = running(stopper, clock, deadline=clock.time() + 1)
    for _ in range(50):
        stop.extend(1)
    after(stopper, clock, 50.5)
    assert (raised(stop), len(stopper._agenda)) == ([], 1)
    after(stopper, clock, 0.6)
    assert raised(stop) == ["SoftTimeLimitExceeded"]
