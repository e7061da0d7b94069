"""Mends of a review: the reporter, against a store that does what the test says."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from taskora_celery.context import Context
from taskora_celery.errors import JobCancelledError
from taskora_celery.reading import logs_of, status_of
from taskora_celery.records import Outcome
from taskora_celery.redaction import Redactor
from taskora_celery.reporter import live as live_module
from taskora_celery.reporter import reporter as reporter_module
from taskora_celery.reporter import taking
from taskora_celery.reporter.reporter import Reporter
from taskora_celery.settings import Settings
from taskora_celery.store.protocol import Begin, Ended
from tests.support.landing import ends, landing_in_a_lock
from tests.support.manual_clock import ManualClock
from tests.support.scripted_store import ScriptedStore
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


SOON = 0.005
#: So long that the test would fail before the reporter's own time comes.
NEVER = 3_600.0


class AskedStore(ScriptedStore):
    """Remembers which threads asked, also in vain."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def _pass(self) -> None:
        self.asked.append(threading.current_thread().name)
        super()._pass()


class Rig:
    """A reporter with all that it talks to."""

    def __init__(self, **settings: Any) -> None:
        self.clock = ManualClock()
        self.store = AskedStore()
        self.settings = Settings(**{"flush_interval": SOON, "final_flush_timeout": 30.0, **settings})
        self.reporter = Reporter(self.store, self.settings, Redactor(), clock=self.clock)

    def begin(self, job_id: str = "job-1", *, attempt: int = 1) -> Context:
        ctx = Context(job_id, "shop.work", attempt, time=self.clock.time, buffer_limit=self.settings.buffer_limit)
        begin = Begin(job_id, "shop.work", attempt, "w1@host", 1, int(self.clock.time() * 1000))
        self.reporter.begin(ctx, begin)
        return ctx

    def end(self, ctx: Context, state: str = Outcome.SUCCESS) -> None:
        self.reporter.flush(ctx, Ended(state, int(self.clock.time() * 1000)))
        self.reporter.release(ctx)
        ctx.retire()

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.reporter._touched()

    def messages(self, job_id: str = "job-1") -> list[str]:
        snapshot = self.store.read(job_id, 0)
        return [entry.message for entry in logs_of(snapshot, 100_000, level=None, attempt=None, after=None, limit=None)]

    def state(self, job_id: str = "job-1") -> str | None:
        found = self.store.read(job_id)
        return None if found is None else found.fields["s"]

    def dropped(self, job_id: str = "job-1") -> int:
        return status_of(job_id, self.store.read(job_id), 100_000).dropped_logs


@pytest.fixture
def make_rig() -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(**settings: Any) -> Rig:
        rigs.append(Rig(**settings))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.store.gate.set()
        rig.reporter.close()


# --- L1: jobs that end at once -------------------------------------------------------------------------------------------


def test_jobs_that_end_at_once_share_round_trips(make_rig: Callable[..., Rig]) -> None:
    """E3, P15: the first flush goes alone, and what ended meanwhile goes together; each end returns when it is written."""
    rig = make_rig(flush_interval=NEVER)
    jobs = [rig.begin(f"job-{n}") for n in range(50)]
    for ctx in jobs:
        ctx.said = ctx.id  # not by progress(): nothing is to wake the thread
    rig.store.gate.clear()
    threads = [threading.Thread(target=rig.end, args=(ctx, Outcome.FAILURE), daemon=True) for ctx in jobs]
    threads[0].start()
    assert rig.store.waiting.wait(30)
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: len(rig.reporter._ending) == 49, "the others to wait")
    rig.store.gate.set()
    for thread in threads:
        thread.join(30)
    assert [rig.state(ctx.id) for ctx in jobs] == [Outcome.FAILURE] * 50
    assert [len(reports) for reports in rig.store.flushes] == [1, 49]
    assert not rig.reporter._live


def test_in_an_outage_no_handler_asks_the_store(make_rig: Callable[..., Rig]) -> None:
    """L1: one thread finds out whether it is back; a handler pays for an outage once at most, also when its pause is over."""
    rig = make_rig()
    first = rig.begin("first")
    rig.store.away = True
    first.progress(1)
    wait_until(lambda: rig.reporter._outage.failures, "the reporter to notice")
    for n in range(20):
        rig.pass_time(60)  # the next one to ask may do so now
        ctx = rig.begin(f"job-{n}", attempt=2)
        ctx.log.info("entry")
        rig.end(ctx)
    assert set(rig.store.asked[1:]) == {"taskora-reporter"}
    rig.store.away = False
    rig.pass_time(60)
    wait_until(lambda: rig.state("job-19") == Outcome.SUCCESS, "all that waited to be written")
    assert rig.messages("job-0") == ["entry"]


def test_a_value_that_cannot_be_taken_harms_no_other_job(make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    """L1: whatever a job's values do, the other jobs of the process are told of, and its own end comes through."""
    taken = taking.plain_progress

    def plain_progress(latest: Any, *rest: Any) -> Any:
        if latest[0] == "bad":
            raise RecursionError("a value of a user's own making")
        return taken(latest, *rest)

    monkeypatch.setattr(live_module, "plain_progress", plain_progress)
    rig = make_rig()
    bad, good = rig.begin("bad"), rig.begin("good")
    for n in range(3):
        bad.progress("bad")
        good.log.info(f"{n}")
        wait_until(lambda n=n: rig.messages("good") == [f"{m}" for m in range(n + 1)], "the other job's entries")  # type: ignore[misc]
    rig.end(bad)
    rig.end(good)
    wait_until(lambda: rig.state("good") == Outcome.SUCCESS, "the other job's end")
    assert not rig.reporter._lock.locked()


# --- L1: bounds in an outage -----------------------------------------------------------------------------------------------


def test_what_waits_in_an_outage_is_bounded_in_bytes(make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    """L1: the oldest entries go first, and those that are missing are counted in the record."""
    monkeypatch.setattr(reporter_module, "BUFFER_BYTES", 20_000)
    rig = make_rig()
    ctx = rig.begin()
    rig.store.away = True
    for n in range(100):
        ctx.log.info(f"{n:04} {'x' * 995}")
        ctx.touch()
        wait_until(lambda: not ctx.dirty and not ctx.logs, "the reporter to take it")
    (live,) = rig.reporter._live.values()
    wait_until(lambda: live.outbox.size <= 20_000, "the oldest to be dropped")
    rig.store.away = False
    rig.pass_time(60)
    wait_until(rig.messages, "the rest to be written")
    rig.end(ctx)
    kept = [message[:4] for message in rig.messages()]
    assert kept == [f"{n:04}" for n in range(100 - len(kept), 100)]
    assert 10 <= len(kept) < 20
    assert rig.dropped() == 100 - len(kept)


def bounded(rig: Rig, jobs: int) -> bool:
    """Say whether all of so many jobs wait in the backlog, were taken, and keep within the bound."""
    with rig.reporter._lock:
        waiting = list(rig.reporter._backlog)
        size = sum(live.outbox.size for live in waiting)
        return len(waiting) == jobs and not any(live.has_news() for live in waiting) and size <= reporter_module.BUFFER_BYTES


def test_of_many_jobs_in_an_outage_no_more_is_dropped_than_must_be(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """L1: where each job has little, some lose all of it and the others nothing; all of it is counted."""
    monkeypatch.setattr(reporter_module, "BUFFER_BYTES", 20_000)
    rig = make_rig()
    jobs = [rig.begin(f"job-{n}") for n in range(22)]
    rig.store.away = True
    jobs[0].touch()
    wait_until(lambda: rig.reporter._outage.failures, "the reporter to notice")
    for ctx in jobs:
        ctx.log.info("x" * 1_000)
        rig.end(ctx)
    rig.reporter._wake.set()
    wait_until(lambda: bounded(rig, len(jobs)), "the reporter to take it, and to keep what it may")
    rig.store.away = False
    rig.pass_time(60)
    wait_until(lambda: all(rig.state(ctx.id) == Outcome.SUCCESS for ctx in jobs), "all ends to be written")
    kept = sum(len(rig.messages(ctx.id)) for ctx in jobs)
    assert 18 <= kept < 22
    assert sum(rig.dropped(ctx.id) for ctx in jobs) == 22 - kept


# --- E3: progress that has not changed ---------------------------------------------------------------------------------------


def test_an_object_is_not_sent_again_where_only_the_log_grew(make_rig: Callable[..., Rig]) -> None:
    """E3, J2: one progress event, not one for each flush of the log; a change in the same object is sent."""
    rig = make_rig()
    ctx = rig.begin()
    value = {"done": 1}
    ctx.progress(value)
    for n in range(20):
        ctx.log.info(f"{n}")
        wait_until(lambda n=n: len(rig.messages()) == n + 1, "the entry")  # type: ignore[misc]
    sent = [report for reports in rig.store.flushes for report in reports if report.progress is not None]
    assert len(sent) == 1
    value["done"] = 2
    ctx.progress(value)
    rig.end(ctx)
    sent = [report for reports in rig.store.flushes for report in reports if report.progress is not None]
    assert len(sent) == 2


# --- B7: a forked child --------------------------------------------------------------------------------------------------------


def test_a_forked_child_that_uses_the_context_does_not_hang(make_rig: Callable[..., Rig]) -> None:
    """B7: a lock that another thread held in the moment of the fork would be held in the child for ever: there is none."""
    rig = make_rig(flush_interval=NEVER)
    ctx = rig.begin()

    def use() -> None:
        ctx.progress(1)
        ctx.log.info("entry")
        ctx.heartbeat()

    child = os.fork()
    if child == 0:  # pragma: no cover - in the child
        with contextlib.suppress(BaseException):
            thread = threading.Thread(target=use, daemon=True)
            thread.start()
            thread.join(5)
            os._exit(3 if thread.is_alive() else 0)
        os._exit(4)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


# --- G4: an interruption in the middle of a report -----------------------------------------------------------------------------


@pytest.mark.parametrize("said", [lambda ctx: ctx.log.info("m"), lambda ctx: ctx.progress(1), lambda ctx: ctx.heartbeat()])
def test_an_interruption_that_lands_in_a_wake_up_loses_it_not(said: Callable[[Context], None]) -> None:
    """F5, H1: who catches it goes on, and what is said from then on finds the reporter told."""
    ctx, woken = Context("job-1", "work"), []

    def wake() -> None:
        woken.append(1)
        if len(woken) == 1:
            raise JobCancelledError("job-1")

    ctx.on_touch = wake
    with pytest.raises(JobCancelledError):
        said(ctx)
    assert len(woken) == 2


def test_an_interruption_that_lands_in_a_report_leaves_nothing_locked(make_rig: Callable[..., Rig]) -> None:
    """G4, H1: it is raised wherever the handler is; what the reporter sleeps on serves the whole process."""
    rig = make_rig()
    ctx = rig.begin()
    with landing_in_a_lock():
        ctx.progress(1)
    assert ends(ctx.touch)
    ctx.log.info("behind it")
    wait_until(lambda: rig.messages() == ["behind it"], "the reporter to go on")
    assert ends(rig.end, ctx)
