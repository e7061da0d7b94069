"""The reporter's thread, against a store and a lease that do what the test says."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

from taskora_celery.background import Wakes
from taskora_celery.context import Context
from taskora_celery.encoding import unpack
from taskora_celery.lease.protocol import Held, Hold
from taskora_celery.reading import history_of, logs_of, progress_of, status_of
from taskora_celery.records import AttemptRecord, LogEntry, Outcome
from taskora_celery.redaction import Redactor
from taskora_celery.reporter import reporter as reporter_module
from taskora_celery.reporter.report import JobReport
from taskora_celery.reporter.reporter import Reporter
from taskora_celery.settings import Settings
from taskora_celery.store.protocol import Begin, Begun, Ended
from tests.support.cancels import request
from tests.support.manual_clock import ManualClock
from tests.support.scripted_lease import ScriptedLease
from tests.support.scripted_store import ScriptedStore
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: So long that the test would fail before the reporter's own time comes.
NEVER = 3_600.0
SOON = 0.005


class RecordingWakes(Wakes):
    """Remembers with what timeout it was last waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.timeouts: list[float | None] = []

    def wait(self, timeout: float | None) -> None:
        self.timeouts.append(timeout)
        super().wait(timeout)


class ListSink:
    """A progress sink that keeps what it is shown."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.closed = False

    def write(self, value: Any) -> None:
        self.values.append(value)

    def close(self) -> None:
        self.closed = True


class Rig:
    """A reporter with all that it talks to."""

    def __init__(self, store: ScriptedStore | None, **settings: Any) -> None:
        self.clock = ManualClock()
        self.store = store or ScriptedStore()
        self.lease = ScriptedLease()
        self.settings = Settings(**{"flush_interval": SOON, **settings})
        #: Jobs that somebody wants to stop, as the store has said.
        self.stopping: list[str] = []
        self.reporter = Reporter(
            self.store, self.settings, Redactor(), open_lease=lambda: self.lease, clock=self.clock,
            on_stopping=self._note_stopping,
        )  # fmt: skip

    def _note_stopping(self, report: JobReport) -> bool:
        self.stopping.append(report.id)
        return True

    def begin(
        self,
        job_id: str = "job-1",
        *,
        tag: str | None = None,
        sink: ListSink | None = None,
        attempt: int = 1,
        timeout: float | None = None,
        early: bool = False,
    ) -> Context:
        ctx = Context(
            job_id, "shop.work", attempt, time=self.clock.time, buffer_limit=self.settings.buffer_limit,
            hold=None if tag is None else Hold(tag, 1, timeout), early=early, visibility=ScriptedLease.visibility_timeout,
        )  # fmt: skip
        ctx.sink = sink
        begin = Begin(job_id, "shop.work", attempt, "w1@host", 1, int(self.clock.time() * 1000))
        self.begun = self.reporter.begin(ctx, begin)
        return ctx

    def end(self, ctx: Context, state: str = Outcome.SUCCESS) -> None:
        self.reporter.flush(ctx, Ended(state, int(self.clock.time() * 1000)))
        self.reporter.release(ctx)
        ctx.retire()

    def pass_time(self, seconds: float) -> None:
        """Let time pass for the reporter, too, which sleeps on an event meanwhile."""
        self.clock.advance(seconds)
        self.reporter._touched()

    def come_back(self) -> None:
        """The store answers again, and the reporter finds out."""
        self.store.away = False
        self.pass_time(60)

    def progress(self, job_id: str = "job-1") -> Any:
        return progress_of(self.store.read(job_id))[0]

    def logs(self, job_id: str = "job-1") -> list[LogEntry]:
        return logs_of(self.store.read(job_id, 0), 100_000, level=None, attempt=None, after=None, limit=None)

    def messages(self, job_id: str = "job-1") -> list[str]:
        return [entry.message for entry in self.logs(job_id)]

    def state(self, job_id: str = "job-1") -> str | None:
        found = self.store.read(job_id)
        return None if found is None else found.fields["s"]

    def refused(self, job_id: str = "job-1") -> int:
        return status_of(job_id, self.store.read(job_id), 100_000).refused

    def dropped(self, job_id: str = "job-1") -> int:
        return status_of(job_id, self.store.read(job_id), 100_000).dropped_logs


@pytest.fixture
def make_rig() -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(store: ScriptedStore | None = None, **settings: Any) -> Rig:
        rigs.append(Rig(store, **settings))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.store.gate.set()
        rig.reporter.close()


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    return make_rig()


# --- when ---------------------------------------------------------------------------------------------------------------


def test_the_first_report_goes_out_at_once(make_rig: Callable[..., Rig]) -> None:
    """E3: who looks at a job that just began sees something, however long the flush interval is."""
    rig = make_rig(flush_interval=NEVER)
    rig.begin().progress(1)
    wait_until(lambda: rig.progress() == 1, "the first progress")


def test_within_a_flush_interval_the_latest_value_wins(make_rig: Callable[..., Rig]) -> None:
    """E3: a loop that reports each step costs two writes and not a thousand."""
    rig = make_rig(flush_interval=NEVER)
    ctx = rig.begin()
    ctx.progress(1)
    wait_until(lambda: rig.progress() == 1, "the first progress")
    for n in range(2, 1_000):
        ctx.progress(n)
    rig.end(ctx)
    written = [unpack(report.progress)[0] for flush in rig.store.flushes for report in flush if report.progress is not None]
    assert written == [1, 999]


def test_all_that_was_said_is_written_when_the_final_flush_returns(make_rig: Callable[..., Rig]) -> None:
    """E3, F4: the outcome becomes visible after this, and then the record is complete."""
    rig = make_rig(flush_interval=NEVER)
    ctx = rig.begin()
    ctx.progress(1)
    wait_until(lambda: rig.progress() == 1, "the first progress")
    ctx.log.info("a")
    ctx.progress(2)
    ctx.log.info("b")
    rig.reporter.flush(ctx, Ended(Outcome.SUCCESS, 5))
    assert (rig.progress(), rig.messages(), rig.state()) == (2, ["a", "b"], Outcome.SUCCESS)


def test_a_checkpoint_goes_out_by_itself(make_rig: Callable[..., Rig]) -> None:
    """E8: within a flush interval, and not with the next thing that the handler says."""
    rig = make_rig(flush_interval=SOON)
    ctx = rig.begin()
    ctx.checkpoint({"row": 7})
    found = wait_until(lambda: [report.checkpoint for flush in rig.store.flushes for report in flush], "a report")
    assert [unpack(checkpoint or b"") for checkpoint in found] == [{"row": 7}]


def test_the_final_flush_waits_for_what_the_thread_has_in_hand(rig: Rig) -> None:
    """E3: the last value may be on its way when the handler returns; the outcome must not overtake it."""
    ctx = rig.begin()
    rig.store.gate.clear()
    ctx.progress(99)
    assert rig.store.waiting.wait(10)
    seen: list[Any] = []

    def end() -> None:
        rig.reporter.flush(ctx, Ended(Outcome.SUCCESS, 5))
        seen.append(rig.progress())

    ending = threading.Thread(target=end)
    ending.start()
    threading.Timer(0.05, rig.store.gate.set).start()
    ending.join(10)
    assert seen == [99]


class Slow(dict[str, Any]):
    """A mapping that takes its time to be read."""

    def __init__(self) -> None:
        super().__init__(a=1)
        self.reading, self.go_on = threading.Event(), threading.Event()

    def items(self) -> Any:
        self.reading.set()
        self.go_on.wait(30)
        return super().items()


def test_the_final_flush_waits_for_a_value_that_is_just_being_read(rig: Rig) -> None:
    """E3: between the handler's slot and the outbox a large value must not be lost from sight."""
    ctx = rig.begin()
    value = Slow()
    ctx.progress(value)
    assert value.reading.wait(10)
    threading.Timer(0.05, value.go_on.set).start()
    rig.reporter.flush(ctx, Ended(Outcome.SUCCESS, 5))
    assert rig.progress() == {"a": 1}


def test_a_job_that_said_nothing_ends_in_one_round_trip(make_rig: Callable[..., Rig]) -> None:
    """P15, G7: besides that of its beginning; the store decides whether it had been cancelled."""
    rig = make_rig(flush_interval=NEVER)
    ctx = rig.begin()
    rig.end(ctx)
    assert rig.state() == Outcome.SUCCESS
    assert [len(flush) for flush in rig.store.flushes] == [1]


def test_an_end_that_another_attempt_follows_is_written_before_the_call_returns(make_rig: Callable[..., Rig]) -> None:
    """I4: the next attempt may begin at once, and finds this one's record."""
    rig = make_rig(flush_interval=NEVER)
    ctx = rig.begin()
    keep = AttemptRecord(1, 1, "w1@host", 1, Outcome.RETRY)
    rig.reporter.flush(ctx, Ended(Outcome.RETRY, 5, keep=keep))
    assert history_of(rig.store.read("job-1", attempts=True)) == [keep]


def test_fifty_jobs_are_written_in_one_call_a_flush(rig: Rig) -> None:
    """E3, P15: one pipeline for all jobs of the process."""
    jobs = [rig.begin(f"job-{n}") for n in range(50)]
    rig.store.gate.clear()
    jobs[0].progress(0)
    assert rig.store.waiting.wait(10)
    for ctx in jobs:
        ctx.progress(1)
        ctx.log.info("a")
    rig.store.gate.set()
    wait_until(lambda: all(rig.messages(ctx.id) for ctx in jobs), "the reports of all jobs")
    assert [len(flush) for flush in rig.store.flushes] == [1, 50]


def test_an_idle_reporter_sleeps_without_a_timeout(rig: Rig) -> None:
    """P11: a process whose jobs have nothing to say, and no message to keep, wakes up for nothing."""
    wake = RecordingWakes()
    rig.reporter._wake = wake
    ctx = rig.begin()
    ctx.progress(1)
    wait_until(lambda: rig.progress() == 1 and len(wake.timeouts) > 1 and not wake.is_set(), "the reporter to sleep again")
    calls = len(rig.store.flushes)
    assert wake.timeouts[-1] is None
    wait_until(lambda: len(wake.timeouts) == wake.timeouts.count(None), "no wait with a timeout", timeout=0.1)
    assert len(rig.store.flushes) == calls


def test_the_thread_is_named_and_a_daemon_and_there_is_one(rig: Rig) -> None:
    """Thread contract: whoever looks at a process's threads knows whose it is, and it never holds up an exit."""
    for n in range(5):
        rig.begin(f"job-{n}").progress(n)
    threads = [thread for thread in threading.enumerate() if thread.name == "taskora-reporter"]
    assert [thread.daemon for thread in threads] == [True]


def test_no_thread_is_started_before_the_first_job(rig: Rig) -> None:
    """Fork: a prefork parent has none, so a child inherits no lock that it holds."""
    assert rig.reporter._thread is None


# --- the store lets us down ----------------------------------------------------------------------------------------------


def test_a_job_that_began_without_the_store_is_registered_when_it_is_back(rig: Rig) -> None:
    """L1: nothing is raised, and nothing of it is missing later."""
    rig.store.away = True
    ctx = rig.begin()
    assert rig.begun is None
    ctx.log.info("a")
    ctx.progress(10)
    ctx.checkpoint({"row": 1})
    ctx.log.info("b")
    rig.come_back()
    wait_until(lambda: rig.messages() == ["a", "b"], "the buffered entries")
    assert (rig.progress(), rig.state(), rig.dropped()) == (10, "STARTED", 0)
    assert ctx.fence > 0


def test_an_outage_during_a_job_costs_it_nothing(rig: Rig) -> None:
    """L1: the entries wait in memory, in order, and progress keeps the latest."""
    ctx = rig.begin()
    ctx.log.info("before")
    wait_until(lambda: rig.messages() == ["before"], "the entry before the outage")
    rig.store.away = True
    ctx.log.info("during")
    wait_until(lambda: rig.store.refused, "the reporter to notice the outage")
    ctx.progress(1)
    ctx.progress(2)
    ctx.log.info("still")
    rig.come_back()
    wait_until(lambda: rig.messages() == ["before", "during", "still"], "the buffered entries")
    assert rig.progress() == 2


def test_a_job_that_ended_during_an_outage_is_written_later(rig: Rig) -> None:
    """L1: its outcome and its last entries are not lost with the job."""
    ctx = rig.begin()
    rig.store.away = True
    ctx.log.info("last words")
    rig.end(ctx, Outcome.FAILURE)
    assert rig.state() == "STARTED"
    rig.come_back()
    wait_until(lambda: rig.state() == Outcome.FAILURE, "the outcome")
    assert rig.messages() == ["last words"]


def test_a_whole_job_may_pass_during_an_outage(rig: Rig) -> None:
    """L1: it is registered, written and ended afterwards."""
    rig.store.away = True
    ctx = rig.begin()
    ctx.log.info("a")
    rig.end(ctx)
    rig.come_back()
    wait_until(lambda: rig.state() == Outcome.SUCCESS, "the outcome")
    assert rig.messages() == ["a"]


def test_an_outage_is_told_once_and_its_end_too(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """L1: an outage is news once, and not once for each entry."""
    rig.store.away = True
    ctx = rig.begin()
    for n in range(20):
        ctx.log.info(f"{n}")
        rig.pass_time(1)

    def tried_again() -> bool:
        rig.pass_time(0.1)
        return rig.store.refused > 3

    wait_until(tried_again, "some more tries")
    rig.come_back()
    wait_until(lambda: len(rig.messages()) == 20, "the buffered entries")
    told = [(record.levelname, record.message) for record in caplog.records if record.name == "taskora_celery.reporter"]
    assert [level for level, _ in told] == ["ERROR", "WARNING"]
    assert "the script says so" in told[0][1]


def test_the_store_is_left_alone_for_a_while_after_a_failure(rig: Rig) -> None:
    """L1: a thousand jobs that begin in an outage do not each wait for it."""
    rig.store.away = True
    for n in range(50):
        rig.begin(f"job-{n}")
    assert rig.store.refused == 1


def test_a_hanging_store_holds_up_the_end_of_a_job_only_so_long(make_rig: Callable[..., Rig]) -> None:
    """L1: `taskora_final_flush_timeout` bounds the wait."""
    rig = make_rig(final_flush_timeout=0.05)
    ctx = rig.begin()
    rig.store.gate.clear()
    ctx.progress(1)
    assert rig.store.waiting.wait(10)
    ctx.log.info("a")
    rig.end(ctx)  # would hang here
    rig.store.gate.set()
    wait_until(lambda: rig.state() == Outcome.SUCCESS, "the end")
    assert (rig.messages(), rig.progress()) == (["a"], 1)


@pytest.mark.parametrize("began", ["before", "during"])
def test_what_does_not_fit_into_the_buffer_is_dropped_oldest_first_and_counted(make_rig: Callable[..., Rig], began: str) -> None:
    """L1, F3: memory is bounded, and the record says how many entries are missing."""
    rig = make_rig(buffer_limit=10)
    rig.store.away = began == "during"
    ctx = rig.begin()
    rig.store.away = True
    for n in range(100):
        ctx.log.info(f"{n}")
    rig.come_back()
    wait_until(lambda: rig.messages()[-1:] == ["99"], "the newest entry")
    kept = rig.messages()
    assert 0 < len(kept) <= 20
    assert kept == [f"{n}" for n in range(100 - len(kept), 100)]
    assert rig.dropped() == 100 - len(kept)


def test_no_more_than_so_many_ended_jobs_wait(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """L1: the backlog of a long outage is bounded; the newest are kept, and the log says that some are given up."""
    monkeypatch.setattr(reporter_module, "BACKLOG_JOBS", 3)
    jobs = [rig.begin(f"job-{n}") for n in range(6)]
    rig.store.away = True
    for ctx in jobs:
        ctx.log.info("a")
        rig.end(ctx)
    wait_until(lambda: "given up" in caplog.text, "the backlog to be cut")
    rig.come_back()
    wait_until(lambda: rig.state("job-5") == Outcome.SUCCESS, "the newest job's end")
    assert [rig.state(f"job-{n}") for n in range(3)] == ["STARTED"] * 3


def test_a_job_whose_record_is_lost_is_registered_anew_with_all_that_is_known(rig: Rig) -> None:
    """L1: FLUSHALL, or a failover to an empty replica, in the middle of a job."""
    ctx = rig.begin()
    ctx.log.info("lost")
    ctx.progress(50)
    ctx.checkpoint([1, 2])
    wait_until(lambda: rig.progress() == 50 and rig.messages(), "the first reports")
    before = ctx.fence
    rig.store.forget()
    ctx.log.info("kept")
    wait_until(lambda: rig.messages() == ["kept"], "the entry after the loss")
    assert rig.progress() == 50
    found = rig.store.read("job-1")
    assert found is not None
    assert unpack(found.fields["k"]) == [1, 2]
    assert (rig.dropped(), ctx.fence >= before) == (1, True)


def test_a_silent_end_is_written_even_if_the_record_is_lost(rig: Rig) -> None:
    """L1: the end of a job that waits for the next flush is not lost with the record."""
    ctx = rig.begin()
    rig.store.forget()
    rig.end(ctx)
    wait_until(lambda: rig.state() == Outcome.SUCCESS, "the end")


def test_reports_of_a_superseded_execution_are_refused_and_told_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """D7: the zombie's reports change nothing."""
    ctx = rig.begin()
    rig.store.memory.begin(Begin("job-1", "shop.work", 1, "w2@host", 1, 2, redelivered=True))
    for n in range(3):
        calls = len(rig.store.flushes)
        ctx.progress(n)
        wait_until(lambda calls=calls: len(rig.store.flushes) > calls, "the refused report")  # type: ignore[misc]
    rig.end(ctx)
    assert (rig.progress(), rig.state()) == (None, "STARTED")
    assert [record.message for record in caplog.records].count(
        "job job-1 (shop.work): it was delivered again; what this execution still reports, and its outcome, are refused"
    ) == 1


class Poison(dict[str, Any]):
    """A mapping that cannot be read."""

    def items(self) -> Any:
        raise ArithmeticError("poison")

    def __repr__(self) -> str:
        raise ArithmeticError("poison")


def test_a_value_that_cannot_be_read_hurts_neither_its_job_nor_the_others(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """E2: it is replaced, and warned about once per job."""
    ctx, other = rig.begin(), rig.begin("job-2")
    ctx.progress(Poison(a=1))
    ctx.log.info("with", {"poison": Poison(a=1)})
    other.progress(7)
    ctx.progress(Poison(b=2))
    rig.end(ctx)
    rig.end(other)
    wait_until(lambda: rig.progress("job-2") == 7, "the other job's progress")
    assert rig.state() == Outcome.SUCCESS
    assert "repr failed" in str(rig.progress())
    assert len([record for record in caplog.records if "not serialisable" in record.message]) == 1


def test_without_a_store_everything_is_a_quiet_no_op(caplog: pytest.LogCaptureFixture) -> None:
    """L2: no Redis configured: progress goes to the result backend, the rest nowhere."""
    clock = ManualClock()
    reporter = Reporter(None, Settings(flush_interval=SOON), Redactor(), clock=clock)
    sink = ListSink()
    ctx = Context("job-1", "shop.work")
    ctx.sink = sink
    try:
        assert reporter.begin(ctx, Begin("job-1", "shop.work", 1, "w", 1, 1)) is None
        ctx.log.info("a")
        ctx.progress(5)

        def shown() -> list[Any]:
            clock.advance(1)
            reporter._touched()
            return sink.values

        wait_until(shown, "the progress in the result backend")
        reporter.flush(ctx, Ended(Outcome.SUCCESS, 5))
        reporter.release(ctx)
    finally:
        reporter.close()
    assert (sink.values, sink.closed, caplog.records) == ([5], True, [])


# --- the result backend --------------------------------------------------------------------------------------------------


def test_progress_is_shown_in_the_result_backend_at_most_every_interval(make_rig: Callable[..., Rig]) -> None:
    """E5: `store_result` publishes the whole value to every waiter, so it has a throttle of its own."""
    rig = make_rig(backend_interval=10.0)
    sink = ListSink()
    ctx = rig.begin(sink=sink)
    ctx.progress(1)
    wait_until(lambda: rig.progress() == 1, "the first value in the store")
    rig.pass_time(1)
    wait_until(lambda: sink.values == [1], "the first value in the backend")
    ctx.progress(2)
    ctx.progress(3)
    wait_until(lambda: rig.progress() == 3, "the last value in the store")
    assert sink.values == [1]
    rig.pass_time(10)
    wait_until(lambda: sink.values == [1, 3], "the latest value in the backend")


def test_a_job_that_ends_at_once_shows_no_progress_in_the_result_backend(make_rig: Callable[..., Rig]) -> None:
    """E5, P6: nobody could have seen it, and each write costs."""
    rig = make_rig()
    sink = ListSink()
    ctx = rig.begin(sink=sink)
    ctx.progress(1)
    rig.end(ctx)
    assert (sink.values, sink.closed) == ([], True)


def test_a_sink_that_fails_does_not_end_the_thread(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Thread contract: it survives any error."""

    class Broken(ListSink):
        def write(self, value: Any) -> None:
            raise RuntimeError("broken")

    rig.begin("job-2", sink=Broken()).progress(1)
    wait_until(lambda: rig.progress("job-2") == 1, "the value in the store")
    rig.pass_time(5)
    wait_until(lambda: "it goes on" in caplog.text, "the failure to be logged")
    rig.begin().progress(2)
    wait_until(lambda: rig.progress() == 2, "the next report")


def test_whatever_a_value_raises_the_thread_lives_and_other_jobs_are_told_of(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Thread contract: also what is no `Exception`, as a panic in an extension module; again in each turn."""

    class Panic(BaseException):
        pass

    class Panics:
        def __repr__(self) -> str:
            raise Panic

    bad, other = rig.begin("job-2"), rig.begin(tag="tag-1", timeout=8.0)
    for n in range(3):
        bad.progress(Panics())
        other.progress(n)
        wait_until(lambda n=n: rig.progress() == n, "the other's report")  # type: ignore[misc]
    assert "job job-2: a report could not be read, and is left out" in caplog.text
    renewed = len(rig.lease.renewed)
    rig.pass_time(5)
    wait_until(lambda: len(rig.lease.renewed) > renewed, "the lease of the other to be renewed")


def test_a_handler_that_is_ended_while_it_reports_is_ended(rig: Rig) -> None:
    """Thread contract: SIGTERM ends a pool's process by SystemExit, in whatever line its handler's thread is."""

    class Ends:
        def __repr__(self) -> str:
            raise SystemExit

    ctx = rig.begin()
    rig.reporter.close()  # so that no other thread takes it
    ctx.progress(Ends())
    with pytest.raises(SystemExit):
        rig.end(ctx)


# --- a cancel whose announcement was missed ---------------------------------------------------------------------------------


def test_the_answer_to_a_report_says_that_a_job_is_to_stop(rig: Rig) -> None:
    """G1: each of them; the job is told once, and no other."""
    ctx, other = rig.begin(), rig.begin("job-2")
    rig.store.cancel(request())
    for n in range(3):
        ctx.progress(n)
        other.progress(n)
        wait_until(lambda n=n: (rig.progress(), rig.progress("job-2")) == (n, n), "the reports")  # type: ignore[misc]
    wait_until(lambda: rig.stopping, "the news")
    assert rig.stopping == ["job-1"]


def test_a_job_that_says_nothing_asks_with_the_renewal_of_its_lease(rig: Rig) -> None:
    """G1, D4: and to ask is no sign of life."""
    rig.begin(tag="tag-1")
    before = rig.store.read("job-1")
    rig.store.cancel(request())
    rig.pass_time(20)
    wait_until(lambda: rig.stopping == ["job-1"], "the news")
    after = rig.store.read("job-1")
    assert before is not None
    assert after is not None
    assert after.fields["h"] == before.fields["h"]


def test_who_may_have_missed_an_announcement_looks_at_once(rig: Rig) -> None:
    """G1: after a lost connection; for all jobs of the process, in one round trip."""
    for n in range(3):
        rig.begin(f"job-{n}")
    rig.store.cancel(request("job-1"))
    flushes = len(rig.store.flushes)
    rig.reporter.look()
    wait_until(lambda: rig.stopping == ["job-1"], "the news")
    assert [len(flush) for flush in rig.store.flushes[flushes:]] == [3]


# --- heartbeat -----------------------------------------------------------------------------------------------------------


def test_the_first_heartbeat_goes_out_at_once(make_rig: Callable[..., Rig]) -> None:
    """D1: the message may have waited long for its handler."""
    rig = make_rig(flush_interval=SOON)
    rig.begin(tag="tag-1").heartbeat()
    wait_until(lambda: rig.lease.renewed == [["tag-1"]], "the renewal")


def test_later_heartbeats_are_throttled_to_the_lease_interval(rig: Rig) -> None:
    """D1: a third of the visibility timeout (60 s here), so that two renewals may fail."""
    ctx = rig.begin(tag="tag-1")
    ctx.heartbeat()
    wait_until(lambda: rig.lease.renewed and not ctx.beating, "the first renewal")
    for _ in range(1_000):
        ctx.heartbeat()
    rig.pass_time(19)
    ctx.progress(1)
    wait_until(lambda: rig.progress() == 1, "a turn of the reporter")
    assert len(rig.lease.renewed) == 1
    rig.pass_time(1)
    wait_until(lambda: len(rig.lease.renewed) == 2, "the second renewal")


def test_the_reporter_sleeps_until_the_next_renewal_is_due(rig: Rig) -> None:
    """P11: and not in ticks."""
    wake = RecordingWakes()
    rig.reporter._wake = wake
    ctx = rig.begin(tag="tag-1")
    ctx.heartbeat()
    wait_until(lambda: rig.lease.renewed and not ctx.beating, "the first renewal")
    ctx.heartbeat()
    wait_until(lambda: wake.timeouts[-1] == pytest.approx(20.0), "a wait of a lease interval")


def test_a_job_is_kept_without_a_word_of_its_handler(rig: Rig) -> None:
    """D3: the process that runs it renews its lease, at each lease interval."""
    rig.begin(tag="tag-1")
    for n in range(1, 4):
        rig.pass_time(20)
        wait_until(lambda n=n: len(rig.lease.renewed) == n, "the next renewal")  # type: ignore[misc]


def test_a_job_that_must_show_life_is_renewed_from_its_last_sign_of_life(rig: Rig) -> None:
    """D4: each renewal says how long ago that was, so that the lease ends a heartbeat_timeout behind it."""
    ctx = rig.begin(tag="tag-1", timeout=10.0)
    rig.pass_time(2.5)
    wait_until(lambda: len(rig.lease.renewed) == 1, "the first renewal")
    assert rig.lease.holds[0].age == pytest.approx(2.5)
    ctx.progress(1)
    wait_until(lambda: rig.progress() == 1, "the sign of life")
    rig.pass_time(2.5)
    wait_until(lambda: len(rig.lease.renewed) == 2, "the second renewal")
    assert rig.lease.holds[0].age == pytest.approx(2.5)


def test_a_handler_that_falls_silent_is_not_renewed_and_its_signal_fires(rig: Rig) -> None:
    """D4, C3: after a heartbeat_timeout of silence it is stalled, once and for all."""
    ctx = rig.begin(tag="tag-1", timeout=10.0)
    rig.pass_time(10.1)
    assert ctx.signal.wait(10)
    assert (ctx.signal.reason, ctx.signal.message) == ("superseded", "no sign of life for 10 s (heartbeat_timeout)")
    renewed = len(rig.lease.renewed)
    rig.pass_time(100)
    ctx.progress(1)
    ctx.heartbeat()
    wait_until(lambda: not ctx.dirty, "a turn of the reporter")
    assert len(rig.lease.renewed) == renewed
    assert rig.progress() is None, "what it says from now on counts no more"
    assert not rig.reporter.flush(ctx, Ended(Outcome.SUCCESS, 1)), "nor does its outcome"


@pytest.mark.parametrize("what", ["heartbeat", "progress", "checkpoint", "log"])
def test_every_report_is_a_sign_of_life(rig: Rig, what: str) -> None:
    """D4: any of heartbeat, progress, checkpoint and log counts."""
    ctx = rig.begin(tag="tag-1", timeout=10.0)
    says: dict[str, Callable[[], None]] = {
        "heartbeat": ctx.heartbeat, "progress": lambda: ctx.progress(1), "checkpoint": lambda: ctx.checkpoint(1),
        "log": lambda: ctx.log.info("x"),
    }  # fmt: skip
    for _ in range(4):
        rig.clock.advance(8)
        says[what]()
        rig.reporter._touched()
        wait_until(lambda: not (ctx.dirty or ctx.beating or ctx.logs), "the report to be taken")
    assert not ctx.signal.aborted


def test_a_job_that_shows_life_does_not_speak_for_another(rig: Rig) -> None:
    """D4: the silence of each is its own, in a process that runs many."""
    silent = rig.begin("silent", tag="tag-1", timeout=10.0)
    lively = rig.begin("lively", tag="tag-2", timeout=10.0)
    for _ in range(2):
        rig.clock.advance(6)
        lively.heartbeat()
        wait_until(lambda: not lively.beating, "the renewal")
    assert silent.signal.wait(10)
    assert not lively.signal.aborted
    assert rig.lease.renewed[-1] == ["tag-2"]


def test_a_message_that_was_delivered_again_ends_its_execution(rig: Rig) -> None:
    """D7, C3: the signal fires, and what it still says is neither stored nor counts."""
    ctx = rig.begin(tag="tag-1")
    rig.lease.stands["tag-1"] = Held.TAKEN
    ctx.heartbeat()
    assert ctx.signal.wait(10)
    assert (ctx.signal.reason, ctx.signal.message) == ("superseded", "its message was delivered again")
    ctx.progress(1)
    wait_until(lambda: rig.refused() == 1, "the refusal of the progress to be counted")
    assert rig.progress() is None
    assert not rig.reporter.flush(ctx, Ended(Outcome.SUCCESS, 1))
    rig.reporter.release(ctx)
    wait_until(lambda: rig.refused() == 2, "the refusal of the outcome to be counted")
    assert (rig.progress(), rig.state()) == (None, "STARTED")


def test_what_a_stalled_job_says_is_counted_as_refused_once_for_each_time(rig: Rig) -> None:
    """D4, D7: its fence still holds in the store, which is asked to take nothing under it; an unknown record is no news."""
    ctx = rig.begin(tag="tag-1", timeout=10.0)
    rig.pass_time(10.1)
    assert ctx.signal.wait(10)
    ctx.heartbeat()
    for n in range(1, 4):
        ctx.log.info("too late")
        wait_until(lambda n=n: rig.refused() == n, "the refusal to be counted")  # type: ignore[misc]
    rig.store.forget()
    calls = len(rig.store.flushes)
    ctx.progress(1)
    wait_until(lambda: len(rig.store.flushes) > calls, "the refusal to be told")
    wait_until(lambda: not rig.reporter._live[id(ctx)].outbox, "its answer")
    rig.reporter.release(ctx)
    assert rig.store.read("job-1") is None, "nothing of a job that counts no more is registered anew"


def test_the_outcome_of_a_silent_job_is_refused_too_once_its_message_was_delivered_again(make_rig: Callable[..., Rig]) -> None:
    """D7: it need not ask the store, which may be away, or not know of it yet."""
    rig = make_rig(flush_interval=NEVER)
    rig.store.away = True
    ctx = rig.begin(tag="tag-1")
    rig.lease.stands["tag-1"] = Held.TAKEN
    ctx.heartbeat()
    assert ctx.signal.wait(10)
    assert not rig.reporter.flush(ctx, Ended(Outcome.SUCCESS, 1))


def test_a_message_that_was_put_back_is_asked_for_until_another_delivery_has_it(rig: Rig) -> None:
    """D7: until then nobody else works on it, and a Redis that lost its data has no message to put back."""
    ctx = rig.begin(tag="tag-1")
    rig.lease.stands["tag-1"] = Held.GONE
    rig.pass_time(20)
    wait_until(lambda: len(rig.lease.renewed) == 1, "the first renewal")
    assert not ctx.signal.aborted
    rig.lease.stands["tag-1"] = Held.TAKEN
    rig.pass_time(20)
    assert ctx.signal.wait(10)


def test_an_early_acknowledgement_is_no_loss(rig: Rig) -> None:
    """D8: its message is gone because it was acknowledged; nobody else will run it."""
    ctx = rig.begin(tag="tag-1", early=True)
    rig.lease.stands["tag-1"] = Held.GONE
    rig.pass_time(20)
    wait_until(lambda: rig.lease.renewed, "the renewal")
    wait_until(lambda: ctx.hold is None, "the end of the lease")
    assert not ctx.signal.aborted


def test_a_child_whose_parent_is_gone_stops_renewing_and_its_signals_fire(rig: Rig) -> None:
    """D9: what it ran is delivered again as soon as its lease is over."""
    rig.reporter.leases.parent = 1  # a pid that is not this process's parent, nor this process
    ctx = rig.begin(tag="tag-1")
    rig.pass_time(20)
    assert ctx.signal.wait(10)
    assert (ctx.signal.reason, ctx.signal.message) == ("superseded", "the worker's parent process is gone")
    assert rig.lease.renewed == []


@pytest.mark.parametrize(
    ("parent", "shows_due", "ends"), [("another", False, True), ("another", True, False), ("itself", False, False)]
)
def test_a_child_whose_silence_nobody_else_can_see_ends_itself(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, parent: str, shows_due: bool, ends: bool
) -> None:
    """D4, D10: SQS does not show what is due, so no worker's parent finds it out; a process of its own is not ended for a job."""
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr("os.kill", lambda pid, number: killed.append((pid, number)))
    rig.lease.shows_due = shows_due
    ctx = rig.begin(tag="tag-1", timeout=10.0)
    rig.reporter.leases.parent = os.getppid() if parent == "another" else os.getpid()
    ctx.heartbeat()
    wait_until(lambda: rig.lease.renewed and not ctx.beating, "the first renewal")
    rig.pass_time(10.1)
    assert ctx.signal.wait(10)
    assert killed == ([(os.getpid(), signal.SIGKILL)] if ends else [])


def test_the_leases_of_all_jobs_are_renewed_in_one_command(rig: Rig) -> None:
    """D1: one round trip to the broker, however many jobs there are."""
    jobs = [rig.begin(f"job-{n}", tag=f"tag-{n}") for n in range(10)]
    rig.store.gate.clear()
    jobs[0].progress(1)
    assert rig.store.waiting.wait(10)
    for ctx in jobs:
        ctx.heartbeat()
    rig.store.gate.set()
    wait_until(lambda: rig.lease.renewed, "the renewal")
    assert sorted(rig.lease.renewed[0]) == [f"tag-{n}" for n in range(10)]


def test_a_heartbeat_is_recorded_as_a_sign_of_life(rig: Rig) -> None:
    """D1: the record says when the job was last heard of."""
    ctx = rig.begin(tag="tag-1")
    rig.clock.advance(30)
    ctx.heartbeat()
    wait_until(
        lambda: status_of("job-1", rig.store.read("job-1"), 1).alive_ms == int(rig.clock.time() * 1000), "the sign of life"
    )


def test_an_early_acknowledged_job_has_no_lease_and_the_log_says_so_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """D8: the heartbeat is still a sign of life, and the broker is not asked."""
    caplog.set_level(logging.DEBUG)
    ctx = rig.begin(tag=None)
    for _ in range(3):
        rig.pass_time(100)
        ctx.heartbeat()
        wait_until(lambda: not ctx.beating, "the heartbeat to be taken")
    assert rig.lease.renewed == []
    told = [record for record in caplog.records if "acknowledged early" in record.message]
    assert [record.levelname for record in told] == ["DEBUG"]
    assert status_of("job-1", rig.store.read("job-1"), 1).alive_ms == int(rig.clock.time() * 1000)


def test_a_broker_that_is_away_is_told_once_and_asked_again(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """D1: nothing is raised in the handler, and the lease is renewed as soon as the broker is back."""
    rig.lease.fails = True
    ctx = rig.begin(tag="tag-1")
    ctx.heartbeat()
    wait_until(lambda: rig.lease.renewed, "the failing renewal")
    rig.pass_time(30)
    wait_until(lambda: len(rig.lease.renewed) > 1, "the second try")
    rig.lease.fails = False
    rig.pass_time(30)
    wait_until(lambda: not ctx.beating, "the renewal")
    assert len([record for record in caplog.records if "leases cannot be renewed" in record.message]) == 1


def test_reports_go_on_while_the_broker_is_away(rig: Rig) -> None:
    """E3: the store and the broker may be two servers."""
    rig.lease.fails = True
    ctx = rig.begin(tag="tag-1")
    ctx.heartbeat()
    wait_until(lambda: rig.lease.renewed, "the failing renewal")
    ctx.progress(5)
    wait_until(lambda: rig.progress() == 5, "the progress")


def test_a_lease_that_cannot_be_opened_is_tried_again(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """D1: any transport's error."""
    opened: list[int] = []

    def open_lease() -> ScriptedLease:
        opened.append(1)
        if len(opened) == 1:
            raise OSError("no route to broker")
        return rig.lease

    rig.reporter.leases._open_lease = open_lease
    rig.begin(tag="tag-1").heartbeat()
    wait_until(lambda: "no route to broker" in caplog.text, "the failure to be logged")
    rig.pass_time(30)
    wait_until(lambda: rig.lease.renewed == [["tag-1"]], "the renewal")


# --- the end -------------------------------------------------------------------------------------------------------------


def test_close_writes_what_is_left_and_ends_the_thread(make_rig: Callable[..., Rig]) -> None:
    """Thread contract: a prefork child ends in `os._exit`, so this is the last chance."""
    rig = make_rig(flush_interval=NEVER)
    ctx = rig.begin(tag="tag-1")
    ctx.heartbeat()
    wait_until(lambda: rig.lease.renewed, "the first turn")
    thread = rig.reporter._thread
    ctx.log.info("last words")
    rig.reporter.close()
    rig.reporter.close()
    assert rig.messages() == ["last words"]
    assert thread is not None
    assert (thread.is_alive(), rig.lease.closed) == (False, True)


def test_close_is_bounded_and_names_the_thread_that_hangs(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Thread contract: a worker that shuts down does not wait for a Redis that hangs."""
    monkeypatch.setattr(reporter_module, "JOIN_TIMEOUT", 0.02)
    ctx = rig.begin()
    rig.store.gate.clear()
    ctx.progress(1)
    assert rig.store.waiting.wait(10)
    rig.reporter.close()
    assert "thread taskora-reporter did not stop within 0.02 s" in caplog.text


def test_what_is_reported_after_the_end_is_dropped(rig: Rig) -> None:
    """B7: a thread of the handler that outlives the job changes nothing."""
    ctx = rig.begin()
    log = ctx.log
    rig.end(ctx)
    wait_until(lambda: rig.state() == Outcome.SUCCESS, "the end")
    log.info("late")
    ctx.log.info("late")
    ctx.progress(1)
    ctx.heartbeat()
    ctx.checkpoint(1)
    rig.reporter.close()
    assert (rig.messages(), rig.progress(), rig.state()) == ([], None, Outcome.SUCCESS)


def test_begin_hands_over_what_the_store_knows(rig: Rig) -> None:
    """B6: history and checkpoint come with the begin."""
    rig.begin()
    assert isinstance(rig.begun, Begun)
    rig.begin()
    assert (rig.begun.delivery, [record.outcome for record in rig.begun.attempts]) == (2, [Outcome.LOST])


# --- the index -----------------------------------------------------------------------------------------------------------


def test_jobs_are_noted_in_the_index_as_they_begin_and_end(make_rig: Callable[..., Rig]) -> None:
    """K3: in the thread's own time, one script for all; a job that ends in a retry goes on."""
    rig = make_rig()
    first, second = rig.begin("job-1"), rig.begin("job-2")
    wait_until(lambda: len(rig.store.listed(9, going=True)) == 2, "the beginnings")
    rig.end(first)
    rig.end(second, Outcome.RETRY)
    wait_until(lambda: [job_id for job_id, _ in rig.store.listed(9, going=True)] == ["job-2"], "the ends")
    assert {job_id for job_id, _ in rig.store.listed(9)} == {"job-1", "job-2"}


def test_the_index_is_caught_up_with_behind_an_outage(make_rig: Callable[..., Rig]) -> None:
    """K3, L1: nobody waits for it, and nothing is forgotten."""
    rig = make_rig()
    rig.store.away = True
    ctx = rig.begin("job-1")
    rig.end(ctx)
    assert rig.store.listed(9) == []
    rig.come_back()
    wait_until(lambda: [job_id for job_id, _ in rig.store.listed(9)] == ["job-1"], "the index")
    assert rig.store.listed(9, going=True) == []
