"""What the reporter's thread does at the one moment in a handler's at which it could do harm."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from taskora_celery.context import Context
from taskora_celery.lease.protocol import Hold, Renewal
from taskora_celery.records import Outcome
from taskora_celery.redaction import Redactor
from taskora_celery.reporter.live import LiveJob
from taskora_celery.reporter.reporter import Reporter
from taskora_celery.settings import Settings
from taskora_celery.store.protocol import Begin, Ended, Reply
from tests.support.cancels import request
from tests.support.manual_clock import ManualClock
from tests.support.scripted_lease import ScriptedLease
from tests.support.scripted_store import ScriptedStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskora_celery.store.protocol import Report


class ByHand(Reporter):
    """A reporter whose thread's turns are the test's to take."""

    def _start(self) -> None:
        """Start nothing."""


class Store(ScriptedStore):
    """The scripted store, with something that happens behind a report, while its answer is on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Callable[[], Any] | None = None

    def report(self, reports: Sequence[Report]) -> list[Reply]:
        replies = super().report(reports)
        happens, self.meanwhile = self.meanwhile, None
        if happens is not None:
            happens()
        return replies


class Rig:
    """A reporter, and a job that has begun."""

    def __init__(self, **settings: Any) -> None:
        self.clock = ManualClock()
        self.store = Store()
        self.lease = ScriptedLease()
        self.told: list[str] = []
        self.reporter = ByHand(
            self.store, Settings(**settings), Redactor(), open_lease=lambda: self.lease, clock=self.clock,
            on_stopping=lambda report: not self.told.append(report.id),  # type: ignore[func-returns-value]
        )  # fmt: skip

    def begin(self, hold: Hold | None = None) -> Context:
        ctx = Context("job-1", "shop.work", 1, time=self.clock.time, hold=hold, visibility=ScriptedLease.visibility_timeout)
        self.reporter.begin(ctx, Begin("job-1", "shop.work", 1, "w1@host", 1, int(self.clock.time() * 1000)))
        return ctx

    def at(self, ctx: Context, name: str, happens: Callable[[], Any], *, before: bool = False) -> None:
        """Let something happen when this thread reads this attribute of the job next, after the reading or before it."""
        live = self.reporter._live[id(ctx)]
        slot: Any = getattr(type(live), name)
        waiting, here = [happens], threading.get_ident()

        def get(live: LiveJob) -> Any:
            value = slot.__get__(live)
            if waiting and threading.get_ident() == here:
                waiting.pop()()
            return slot.__get__(live) if before else value

        live.__class__ = type("Watched", (type(live),), {"__slots__": (), name: property(get, slot.__set__)})

    @property
    def state(self) -> str:
        found = self.store.memory.read("job-1")
        assert found is not None
        return str(found.fields["s"])


def test_an_end_that_the_thread_takes_at_once_is_refused_all_the_same() -> None:
    """G7: the thread has the answer before the handler's has gone one line further, and the handler hears of it."""
    rig = Rig()
    ctx = rig.begin()
    rig.store.cancel(request())
    rig.at(ctx, "superseded", rig.reporter._turn)
    assert rig.reporter.flush(ctx, Ended(Outcome.SUCCESS, 5)) is Reply.CANCELLED


def test_what_is_said_beside_an_end_does_not_hide_that_it_was_refused() -> None:
    """G4, G7: a handler ends when its last grace is over; what it has said until then is just being written by another thread."""
    rig = Rig()
    ctx = rig.begin()
    rig.store.cancel(request())
    beside = threading.Thread(target=rig.reporter.flush, args=(ctx,))

    def speaks() -> None:
        beside.start()
        beside.join(0.2)

    # The first to look is who notes the answer; the second is the handler's thread.
    rig.at(ctx, "cancelled", lambda: rig.at(ctx, "cancelled", speaks, before=True))
    assert rig.reporter.flush(ctx, Ended(Outcome.SUCCESS, 5)) is Reply.CANCELLED
    beside.join(10)


def test_of_an_end_that_was_not_asked_for_in_time_handler_and_store_say_the_same() -> None:
    """G7, L1: the answer comes when the handler has given up waiting for it, and looks for it a last time."""
    rig = Rig(final_flush_timeout=0.05)
    ctx = rig.begin()
    rig.store.cancel(request())
    turn = threading.Thread(target=rig.reporter._turn)

    def takes() -> None:
        rig.store.gate.clear()
        turn.start()
        assert rig.store.waiting.wait(10)

    def answers() -> None:
        rig.store.gate.set()
        turn.join(0.2)  # where the answer can be noted now, it is

    rig.at(ctx, "superseded", takes)
    rig.at(ctx, "cancelled", answers)
    reply = rig.reporter.flush(ctx, Ended(Outcome.SUCCESS, 5))
    turn.join(10)
    rig.reporter._turn()
    assert (reply, rig.state) in [(Reply.CANCELLED, "STARTED"), (Reply.ACCEPTED, Outcome.SUCCESS)]


class SlowLease(ScriptedLease):
    """A lease whose next answer takes its time, in which something happens."""

    def __init__(self, happens: Callable[[], Any]) -> None:
        super().__init__()
        self.waiting = [happens]

    def renew(self, holds: Sequence[Hold], *, look: bool = False) -> Renewal:
        renewal = super().renew(holds, look=look)
        if self.waiting:
            self.waiting.pop()()
        return renewal


def test_a_heartbeat_in_the_middle_of_a_renewal_is_a_sign_of_life() -> None:
    """D4: the broker takes three seconds, and the job is silent for nine behind its beat, of the ten that it may be."""
    rig = Rig()
    ctx = rig.begin(Hold("tag-1", 1, 10.0))

    def happens() -> None:
        rig.clock.advance(3)
        ctx.heartbeat()

    rig.lease = SlowLease(happens)
    ctx.heartbeat()
    rig.reporter._turn()
    for seconds in (0, 4, 5):
        rig.clock.advance(seconds)
        rig.reporter._turn()
    assert not ctx.signal.aborted
    rig.clock.advance(3)
    rig.reporter._turn()
    assert ctx.signal.reason == "superseded"


def test_a_heartbeat_is_not_forgotten_where_the_broker_does_not_answer() -> None:
    """D1: it goes out when the broker is asked again, also that of a job with nothing else to be asked for."""
    rig = Rig()
    rig.lease.fails = True
    ctx = rig.begin(Hold("tag-1", 1))
    ctx.heartbeat()
    rig.reporter._turn()
    assert ctx.beating


def test_who_wants_a_look_while_a_report_is_on_its_way_has_one_behind_it() -> None:
    """G1: the job is cancelled behind the report, before anybody listens."""
    rig = Rig()
    ctx = rig.begin()
    ctx.progress(1)

    def happens() -> None:
        rig.store.cancel(request())
        rig.reporter.look()

    rig.store.meanwhile = happens
    rig.reporter._turn()
    rig.reporter._turn()
    assert rig.told == ["job-1"]
