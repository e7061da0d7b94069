"""The keeper's turns, one by one: what it renews, what it brings back and in which order, and how it goes with its worker."""

# mypy: allow-untyped-decorators

from __future__ import annotations

import logging
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery import _state
from celery.concurrency import get_implementation
from celery.concurrency.base import BasePool
from celery.utils.dispatch import Signal
from celery.worker import state

from taskora_celery import Context
from taskora_celery.errors import StoreUnavailableError
from taskora_celery.lease.fence import FencedChannel
from taskora_celery.lease.protocol import Held, Hold
from taskora_celery.runtime import Runtime
from taskora_celery.store.protocol import Lost
from taskora_celery.worker import backstop as backstop_module
from taskora_celery.worker import keeper as keeper_module
from taskora_celery.worker import leftovers as leftovers_module
from taskora_celery.worker import step as step_module
from taskora_celery.worker.keeper import LOOK_AGAIN, SPREAD, TELL_AGAIN, UNHEARD, Keeper
from taskora_celery.worker.leftovers import BRPOP_TIMEOUT, MARGIN
from taskora_celery.worker.step import KeeperStep
from tests.support.cancels import job_in, loss, request
from tests.support.executions import ScriptedExecution
from tests.support.manual_clock import ManualClock
from tests.support.scripted_store import ScriptedStore
from tests.support.scripted_worker import VISIBILITY, Channel, ScriptedWorker, SharedLease, due
from tests.support.traced import traced_app
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

    from taskora_celery.store.protocol import Loss, Snapshot

INTERVAL = VISIBILITY / 3  # seconds: that of the renewals


class Store(ScriptedStore):
    """The scripted store; its steps are told between those of the broker."""

    def __init__(self, steps: list[str]) -> None:
        super().__init__()
        self.steps = steps
        self.losses: list[Loss] = []
        self.told: list[str] = []

    def read(self, job_id: str, skip: int | None = None, *, attempts: bool = False) -> Snapshot | None:
        self.steps.append(f"read {job_id}")
        if self.away:
            raise StoreUnavailableError("the script says so")
        return super().read(job_id, skip, attempts=attempts)

    def lose(self, loss: Loss) -> Lost:
        self.steps.append(f"lose {loss.id}")
        self.losses.append(loss)
        return super().lose(loss)

    def shut_down(self, worker: str) -> None:
        self.told.append(worker)
        self._pass()


class Rig:
    """A keeper whose turns the test takes, with all that is around it."""

    def __init__(self, app: Celery, store: Store, clock: ManualClock) -> None:
        self.app = app
        self.store = store
        self.clock = clock
        self.steps = store.steps
        self.worker = ScriptedWorker(app, self.steps)
        self.lease = SharedLease(self.steps)
        self.keeper = Keeper(self.worker)
        self.keeper._lease = self.lease
        self.keeper._requests = self.worker.requests  # type: ignore[assignment]
        #: Jobs whose process was ended.
        self.ended: list[str] = []

    def turn(self) -> float | None:
        return self.keeper._turn()

    def renewed(self) -> list[str]:
        return sorted(hold.tag for hold in self.lease.renewed if not hold.watched)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    clock = ManualClock()
    monkeypatch.setattr(keeper_module, "time", clock)
    return clock


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    monkeypatch.setattr(_state, "_on_app_finalizers", set())  # other modules' tasks set a pace of their own
    with traced_app(Store([])) as app:
        yield app


@pytest.fixture
def rig(app: Celery, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr(state, "active_requests", set())
    store = Runtime.of(app).store
    assert isinstance(store, Store)
    rig = Rig(app, store, clock)
    monkeypatch.setattr(keeper_module, "end_process", lambda request: rig.ended.append(request.id))
    return rig


def with_processes(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the worker's pool be prefork's."""
    monkeypatch.setattr(rig.keeper, "_has_processes", lambda: True)


# --- D3, D5: the rhythm -------------------------------------------------------------------------------------------------


def test_all_that_is_held_is_renewed_thrice_in_a_visibility_timeout(rig: Rig) -> None:
    """D3: so that two renewals may fail."""
    rig.worker.runs("t1")
    rig.worker.receives("t2")
    assert rig.turn() == pytest.approx(INTERVAL)
    assert (rig.renewed(), rig.steps) == (["t1", "t2"], [])


def test_who_must_show_life_somewhere_sets_the_pace(rig: Rig) -> None:
    """D4: a job of another worker that falls silent is found out within a quarter of its timeout."""

    @rig.app.task(heartbeat_timeout=8)
    def watched(ctx: Context) -> None:
        """Only be there."""

    rig.app.finalize()
    assert rig.turn() == pytest.approx(2)


def test_the_next_look_is_when_the_first_message_runs_out(rig: Rig) -> None:
    """D5: not an interval later; and of many keepers one is the first."""
    rig.lease.next_due = 3.0
    pauses = [rig.turn() or 0.0 for _ in range(20)]
    assert all(3.01 <= pause <= 3.01 + SPREAD * INTERVAL for pause in pauses)
    assert len(set(pauses)) > 1
    rig.lease.next_due = 10 * INTERVAL
    assert rig.turn() == pytest.approx(INTERVAL)


def test_a_broker_that_is_away_is_told_once_and_asked_again(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """D3: the keeper outlives it."""
    rig.lease.down = True
    pause = rig.turn()
    assert pause is not None
    assert 0 < pause <= 1
    rig.clock.advance(pause)
    rig.turn()
    rig.lease.down = False
    rig.clock.advance(60)
    assert rig.turn() == pytest.approx(INTERVAL)
    told = [record.getMessage() for record in caplog.records if record.name == "taskora_celery.worker"]
    assert told == ["leases cannot be renewed: no broker", "leases can be renewed again"]


# --- D5: what nobody renews ---------------------------------------------------------------------------------------------


def test_a_message_that_nobody_renews_is_put_back_behind_its_loss(rig: Rig) -> None:
    """D5, D7: what is lost is what was seen before the message was taken; its next delivery finds the loss written."""
    dead = ScriptedExecution(rig.store.memory, tag="t1", token=5)
    rig.lease.due = (due("t1", "job-1"),)
    assert rig.turn() == 0.0, "looked for more at once"
    assert rig.steps == ["read job-1", "take t1", "lose job-1", "put back t1"]
    (loss,) = rig.store.losses
    assert (loss.tag, loss.token, loss.attempt, loss.reason, loss.worker) == ("t1", 5, 1, UNHEARD, dead.worker)
    found = rig.store.memory.read("job-1")
    assert found is not None
    assert (found.fields["s"], found.fields["x"]) == ("LOST", 1)


def test_of_many_who_see_that_a_message_ran_out_one_puts_it_back(rig: Rig) -> None:
    """D5, D7: the others neither count a loss nor touch what may be received again by then."""
    job_in(rig.store.memory, "STARTED")
    rig.lease.due = (due("t1", "job-1"), due("t2"))
    rig.lease.others.add("t1")
    rig.turn()
    assert rig.steps == ["read job-1", "take t1", "take t2", "put back t2"]
    assert rig.store.losses == []


def test_while_somebody_else_puts_back_nothing_is_taken(rig: Rig) -> None:
    """D7: a sweep that is under way may bring back a moment later what it saw before; it is looked for again soon."""
    rig.lease.due, rig.lease.busy = (due("t1", "job-1"),), True
    assert rig.turn() == LOOK_AGAIN
    assert rig.steps == []
    rig.lease.busy = False
    rig.turn()
    assert rig.steps[-1] == "put back t1"


def test_a_message_comes_back_although_the_store_is_away(rig: Rig) -> None:
    """D5, L1: its next delivery counts the loss then."""
    rig.store.away = True
    rig.lease.due = (due("t1", "job-1"),)
    rig.turn()
    assert rig.steps == ["read job-1", "take t1", "lose job-1", "put back t1"]


def test_a_message_that_is_no_job_of_ours_comes_back_too(rig: Rig) -> None:
    """D5: another program's, or one that cannot be read; there is no record to write to."""
    rig.lease.due = (due("t1"),)
    rig.turn()
    assert rig.steps == ["take t1", "put back t1"]


def test_a_message_comes_back_although_an_execution_that_was_given_up_hangs_here(rig: Rig) -> None:
    """D5: a thread cannot be ended; the message was another worker's by then, which has died."""
    silent = rig.worker.runs("t1", timeout=5.0)
    silent.given_up = "no sign of life"
    silent.fenced.give_up()
    rig.steps.clear()
    rig.lease.due = (due("t1", "job-1"),)
    rig.turn()
    assert rig.steps == ["read job-1", "take t1", "lose job-1", "put back t1"]


# --- D4: what shows no life ---------------------------------------------------------------------------------------------

SILENT = "no sign of life for 5 s (heartbeat_timeout)"


@pytest.mark.parametrize("seen", ["by the watch", "as anybody's"])
def test_a_job_that_shows_no_life_is_given_up_before_its_message_is_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, seen: str
) -> None:
    """D4, D7: taken, fenced off, put back at once, forgotten by kombu; and its process is ended."""
    with_processes(rig, monkeypatch)
    silent = rig.worker.runs("t1", timeout=5.0, url="https://sqs/orders")
    other = rig.worker.runs("t2", timeout=5.0)
    if seen == "by the watch":
        rig.lease.stands["t1"] = Held.DUE
    else:
        rig.lease.due = (due("t1", "job-1"),)
    assert rig.turn() == 0.0
    assert rig.steps == ["take t1", f"lose t1: {SILENT}", "put back t1 into https://sqs/orders", "forget t1"]
    assert (silent.given_up, silent.fenced.settled, rig.ended) == (SILENT, True, [silent.id])
    assert (other.given_up, other.fenced.settled) == (None, False)
    rig.lease.stands, rig.steps[:] = {}, []
    rig.turn()
    assert (rig.steps, [hold.tag for hold in rig.lease.renewed]) == ([], ["t2"]), "the next delivery's message is not its own"


@pytest.mark.parametrize(("processes", "ends"), [(True, "put back t1"), (False, "end t1")])
def test_a_job_that_was_silent_too_often_is_ended_here_where_its_place_may_be_the_last(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, processes: bool, ends: str
) -> None:
    """D6: by its next delivery, for which a new process is there; a thread that hangs leaves none."""
    if processes:
        with_processes(rig, monkeypatch)
    silent = rig.worker.runs("t1", timeout=5.0)
    silent.told = Lost(2, ended=True)
    rig.lease.stands["t1"] = Held.DUE
    rig.turn()
    assert rig.steps == ["take t1", f"lose t1: {SILENT}", ends, "forget t1"]


@pytest.mark.parametrize("processes", [True, False])
@pytest.mark.parametrize("where", ["in its queue", "here again", "elsewhere"])
def test_a_job_that_was_silent_too_often_is_ended_here_also_where_others_put_it_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, where: str, processes: bool
) -> None:
    """D6: this worker may receive it again, behind what hangs; who has received it elsewhere tells of the end."""
    if processes:
        with_processes(rig, monkeypatch)
    silent = rig.worker.runs("t1", timeout=5.0)
    silent.told = Lost(2, ended=True)
    if where == "here again":
        again = rig.worker.receives("t1", timeout=5.0)
        again.fenced._fence = SimpleNamespace(shorten=lambda _: None)
        rig.worker.requests["t1"] = silent
        rig.keeper.received(again)
    else:
        rig.lease.stands["t1"] = Held.GONE if where == "in its queue" else Held.TAKEN
    rig.turn()
    assert ("end t1" in rig.steps) == (where != "elsewhere" and not processes)
    assert [step for step in rig.steps if step.startswith(("take", "put back"))] == []
    assert silent.given_up == SILENT


def test_where_there_are_no_processes_none_is_ended(rig: Rig) -> None:
    """D4: a thread is told by its signal; to end its process would end the worker."""
    silent = rig.worker.runs("t1", timeout=5.0)
    rig.lease.stands["t1"] = Held.DUE
    rig.turn()
    assert (silent.given_up, rig.ended) == (SILENT, [])


def test_a_job_that_has_shown_life_meanwhile_is_left_alone(rig: Rig) -> None:
    """D4: between the look and the taking it was renewed, or somebody else puts it back."""
    silent = rig.worker.runs("t1", timeout=5.0)
    rig.lease.stands["t1"] = Held.DUE
    rig.lease.others.add("t1")
    rig.turn()
    assert (rig.steps, silent.given_up, silent.fenced.settled) == (["take t1"], None, False)


def test_a_job_that_ends_while_its_silence_is_seen_is_not_given_up(rig: Rig) -> None:
    """D4: its acknowledgement is on its way."""
    silent = rig.worker.runs("t1", timeout=5.0)
    silent.acknowledged, silent.is_running = True, False
    rig.lease.stands["t1"] = Held.DUE
    rig.turn()
    assert (silent.given_up, [step for step in rig.steps if step.startswith("lose")]) == (None, [])


def test_a_job_whose_message_was_put_back_by_others_is_given_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """D4: kombu's sweep, or another keeper, was faster to see that it shows no life; the message is not put back twice."""
    with_processes(rig, monkeypatch)
    silent = rig.worker.runs("t1", timeout=5.0)
    rig.lease.stands["t1"] = Held.GONE
    rig.turn()
    assert rig.steps == [f"lose t1: {SILENT}", "forget t1"]
    assert (silent.given_up, rig.ended) == (SILENT, [silent.id])


def test_a_job_whose_message_is_here_again_before_it_is_seen_to_be_gone_is_given_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D4: others put it back, and its own worker was the first to receive it; the process that hangs is ended all the same."""
    with_processes(rig, monkeypatch)
    silent = rig.worker.runs("t1", timeout=5.0)
    again = rig.worker.receives("t1", timeout=5.0)
    again.fenced._fence = SimpleNamespace(shorten=lambda _: None)
    rig.worker.requests["t1"] = silent
    rig.keeper.received(again)
    rig.turn()
    assert rig.steps == [f"lose t1: {SILENT}"]
    assert (silent.given_up, rig.ended) == (SILENT, [silent.id])
    assert (again.given_up, again.fenced.settled, rig.renewed()) == (None, False, ["t1"])
    rig.turn()
    assert rig.ended == [silent.id]


def test_after_a_renewal_of_its_own_a_job_that_came_back_must_show_life_again(rig: Rig) -> None:
    """D4: kombu had given it the whole visibility timeout; from then on its own process renews it."""
    back = rig.worker.runs("t1", timeout=5.0)
    back.regained = True
    rig.turn()
    assert (rig.renewed(), back.regained) == (["t1"], False)
    rig.turn()
    assert rig.renewed() == []


# --- D7: what another delivery has ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stands", "forgotten"), [(Held.TAKEN, True), (Held.GONE, False)])
def test_a_running_job_is_let_go_of_where_another_delivery_has_its_message(rig: Rig, stands: Held, forgotten: bool) -> None:
    """D7: kombu must not put it back; where it is only on its way, it may come back here."""
    running = rig.worker.runs("t1")
    rig.lease.stands["t1"] = stands
    rig.turn()
    assert (running.fenced.settled, running.given_up) == (forgotten, None)
    assert rig.steps == (["forget t1"] if forgotten else [])


@pytest.mark.parametrize("stands", [Held.TAKEN, Held.GONE, Held.DUE])
def test_what_waits_here_and_was_put_back_is_not_this_workers_any_more(rig: Rig, stands: Held) -> None:
    """D7: whoever has it by now runs it; here it is dropped when its turn comes."""
    waiting = rig.worker.receives("t1", timeout=5.0)
    rig.lease.stands["t1"] = stands
    rig.turn()
    assert (waiting.fenced.settled, waiting.given_up) == (True, None)


def test_what_begins_here_just_when_its_lease_runs_out_is_kept(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """D3, I3: in a shutdown what waits in the pool is left to run out; a job that begins in the middle of a look is renewed."""
    rig.keeper._draining = True
    waiting = rig.worker.receives("t1")
    rig.lease.stands["t1"], rig.lease.due = Held.DUE, (due("t1", "job-1"),)
    renew = rig.lease.renew

    def begins(*arguments: Any, **options: Any) -> Any:
        waiting.is_running = True
        state.active_requests.add(waiting)
        return renew(*arguments, **options)

    monkeypatch.setattr(rig.lease, "renew", begins)
    rig.turn()
    assert (rig.steps, waiting.given_up, waiting.fenced.settled) == ([], None, False)
    rig.turn()
    assert rig.renewed() == ["t1"]


def test_behind_a_lost_connection_what_kombu_put_back_is_waited_for(rig: Rig) -> None:
    """D3, D4: it comes back here, or another worker takes it; a job that shows life is not stalled by it."""
    running = rig.worker.runs("t1", timeout=5.0)
    rig.worker.loses_its_connection()
    rig.worker.channel.closed = True
    rig.lease.stands["t1"] = Held.GONE
    rig.turn()
    assert (rig.steps, running.given_up, running.fenced.settled) == ([], None, False)


def test_a_sweep_by_another_timeout_is_told_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """D3, D11: who puts back what was renewed a moment ago has other settings, and everything runs twice."""
    for tag in ("t1", "t2"):
        rig.worker.runs(tag)
    rig.turn()
    rig.clock.advance(INTERVAL)
    rig.lease.stands.update(t1=Held.GONE, t2=Held.GONE)
    rig.turn()
    told = [text for text in caplog.messages if "has a shorter visibility_timeout" in text]
    assert len(told) == 1
    assert "put back 20.0 s after its lease was renewed for 60 s" in told[0]


@pytest.mark.parametrize(
    ("stands", "lost"), [(Held.GONE, True), (Held.TAKEN, True), (Held.HELD, False), (Held.DUE, False)]
)  # fmt: skip
def test_what_has_waited_here_for_long_is_asked_for_before_it_runs(rig: Rig, stands: Held, lost: bool) -> None:
    """D7: whoever should have renewed it may have been unable to; by now it may run elsewhere."""
    rig.worker.channel.visibility_timeout = VISIBILITY
    waiting = rig.worker.receives("t1")
    rig.lease.stands["t1"] = stands
    assert rig.keeper.lost_meanwhile(waiting) is lost


@pytest.mark.parametrize("why", ["fresh", "down", "no lease"])
def test_what_cannot_be_lost_or_asked_for_runs(rig: Rig, why: str) -> None:
    """D7, P6: no round trip for a message that has just come; and no job waits for a broker that is away."""
    rig.worker.channel.visibility_timeout = VISIBILITY
    waiting = rig.worker.receives("t1")
    rig.lease.stands["t1"] = Held.GONE
    if why == "fresh":
        waiting.hold = Hold("t1", int(time.time() * 1_000_000))
    rig.lease.down = why == "down"
    if why == "no lease":
        rig.keeper._lease = None
    assert not rig.keeper.lost_meanwhile(waiting)
    assert rig.lease.renewed == []


# --- D3, D7: a message that came back to its own worker ---------------------------------------------------------------------


class Fence:
    """Who has claimed each message, by the token of the delivery; the one of all channels."""

    claims: dict[str, int]

    def __init__(self, channel: Any) -> None:
        self.channel = channel

    def claim(self, hold: Hold) -> None:
        self.claims[hold.tag] = hold.token

    def is_taken(self, hold: Hold) -> bool:
        return self.claims.get(hold.tag, hold.token) != hold.token


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The claims that stand."""
    monkeypatch.setattr(Fence, "claims", {}, raising=False)
    monkeypatch.setattr(keeper_module, "RedisFence", Fence)
    monkeypatch.setattr(keeper_module, "holds", lambda _: True)
    return Fence.claims


class Returned:
    """A job that runs here, and its message, which came back on a new channel."""

    def __init__(self, rig: Rig, timeout: float | None = None) -> None:
        self.rig = rig
        self.running = rig.worker.runs("t1", timeout=timeout)
        self.running.id = "job-1"
        self.before = self.running.message.channel = rig.worker.channel
        assert rig.keeper.fence(self.running.message, self.running.hold) is not None
        self.running.fenced = self.running.message.channel
        self.execution = ScriptedExecution(rig.store.memory, tag="t1", token=self.running.hold.token)
        self.now = Channel(rig.worker.qos)
        self.message = SimpleNamespace(delivery_tag="t1", channel=self.now)
        self.before.closed = True

    def adopted(self) -> bool:
        return self.rig.keeper.adopts(self.message)


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_a_job_that_runs_goes_on_under_the_message_that_came_back(
    rig: Rig, claims: dict[str, int], timeout: float | None
) -> None:
    """D3: after a lost connection; it acknowledges on the new channel, and its lease is renewed here for the first time."""
    returned = Returned(rig, timeout)
    assert returned.adopted()
    assert returned.running.fenced.channel is returned.now
    assert (returned.running.regained, claims) == (timeout is not None, {})


def test_a_job_whose_message_comes_back_while_the_keeper_looks_for_it_is_not_given_up(
    rig: Rig, claims: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """D3, D4: it was in the queue when Redis looked, and is on the new channel when the answer is there."""
    with_processes(rig, monkeypatch)
    returned = Returned(rig, timeout=5.0)
    rig.worker.loses_its_connection()
    rig.lease.stands["t1"] = Held.GONE
    renew = rig.lease.renew

    def comes_back(*arguments: Any, **options: Any) -> Any:
        renewal = renew(*arguments, **options)
        assert returned.adopted()
        return renewal

    monkeypatch.setattr(rig.lease, "renew", comes_back)
    rig.turn()
    assert [step for step in rig.steps if step.startswith(("lose", "forget"))] == []
    assert (returned.running.given_up, returned.running.fenced.settled, rig.ended) == (None, False, [])


def test_a_job_that_does_not_run_here_does_not_take_its_message(rig: Rig, claims: dict[str, int]) -> None:
    """D7: it has not begun, or has ended: the new delivery is one of its own."""
    returned = Returned(rig)
    returned.running.is_running = False
    assert not returned.adopted()
    returned.message.delivery_tag = "unknown"
    assert not returned.adopted()


@pytest.mark.parametrize(("processes", "adopted"), [(False, True), (True, False)])
def test_a_job_that_waits_in_a_pool_goes_on_where_the_pool_will_run_it(
    rig: Rig, claims: dict[str, int], monkeypatch: pytest.MonkeyPatch, processes: bool, adopted: bool
) -> None:
    """D3, D7: threads run whatever they were given; processes have dropped it. Its record is of a time before."""
    if processes:
        with_processes(rig, monkeypatch)
    returned = Returned(rig)
    returned.running.is_running, returned.running.waits_in_pool = False, True
    returned.execution.end_in_retry()
    assert returned.adopted() is adopted


def test_a_silent_job_does_not_go_on_under_the_message_that_came_back_for_its_silence(rig: Rig, claims: dict[str, int]) -> None:
    """D4: the connection is the one that it was received on, so it was put back since nobody renewed it."""
    returned = Returned(rig, timeout=5.0)
    returned.before.closed = False
    assert not returned.adopted()
    assert returned.running.fenced.channel is returned.before


def test_a_job_whose_message_another_worker_has_had_does_not_go_on(rig: Rig, claims: dict[str, int]) -> None:
    """D7: it was delivered again meanwhile, and came back from there."""
    returned = Returned(rig)
    claims["t1"] = 9
    assert not returned.adopted()


def test_a_job_that_was_given_up_does_not_go_on(rig: Rig, claims: dict[str, int]) -> None:
    """D7: by its own worker, whatever has come of the message; and by another, which has told so in the record."""
    returned = Returned(rig)
    rig.store.memory.lose(loss(token=returned.running.hold.token))
    assert not returned.adopted()
    other = Returned(rig)
    other.running.fenced.give_up()
    assert not other.adopted()


def test_a_job_that_another_delivery_has_begun_anew_does_not_go_on(rig: Rig, claims: dict[str, int]) -> None:
    """D7: as the record says; a claim may have expired with its Redis."""
    returned = Returned(rig)
    ScriptedExecution(rig.store.memory, tag="t1", token=9, redelivered=True)
    assert not returned.adopted()


def test_a_job_of_which_no_record_tells_goes_on(rig: Rig, claims: dict[str, int]) -> None:
    """D3, L1: it is not registered yet, or the store is away."""
    returned = Returned(rig)
    rig.store.forget()
    assert returned.adopted()


def test_a_delivery_that_counts_from_now_on_claims_its_message(rig: Rig, claims: dict[str, int]) -> None:
    """D7: the earlier one is refused from then on."""
    returned = Returned(rig)
    rig.keeper.claim(returned.message, Hold("t1", 8))
    assert claims == {"t1": 8}
    assert not returned.running.fenced.is_mine()


# --- I3: a shutdown --------------------------------------------------------------------------------------------------------


def test_running_jobs_are_told_of_a_shutdown_again_and_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """I3: a process may begin to listen behind the first time; in the meantime what runs is kept."""
    with_processes(rig, monkeypatch)
    announced: list[Any] = []
    monkeypatch.setattr(Runtime.of(rig.app).stopper, "announced", announced.append)
    rig.worker.runs("t1")
    rig.turn()
    assert (announced, rig.store.told) == ([], [])
    rig.keeper.shut_down()
    assert rig.turn() == pytest.approx(TELL_AGAIN)
    rig.turn()
    assert (len(announced), rig.store.told, rig.renewed()) == (1, ["w1@host"], ["t1"])
    rig.clock.advance(TELL_AGAIN)
    rig.turn()
    assert (len(announced), rig.store.told) == (2, ["w1@host"] * 2)
    assert announced[0].worker == "w1@host"


def test_where_jobs_run_in_this_process_nothing_is_announced(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """I3, P6: they are told directly."""
    announced: list[Any] = []
    monkeypatch.setattr(Runtime.of(rig.app).stopper, "announced", announced.append)
    rig.keeper.shut_down()
    rig.turn()
    assert (len(announced), rig.store.told) == (1, [])


def test_a_store_that_is_away_does_not_end_the_keeping_in_a_shutdown(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """I3, D3: the jobs that were not told are left to finish, with their leases."""
    with_processes(rig, monkeypatch)
    rig.store.away = True
    rig.worker.runs("t1")
    rig.keeper.shut_down()
    rig.turn()
    assert rig.renewed() == ["t1"]


def test_what_runs_is_kept_until_the_pool_has_ended(rig: Rig) -> None:
    """I3, D3: through the whole drain; and what has not begun is handed over."""
    rig.worker.runs("t1")
    waiting = rig.worker.receives("t2")
    rig.keeper.drain()
    for _ in range(3):
        assert rig.turn() is not None
        assert (rig.renewed(), rig.keeper._thread._stopping) == (["t1"], False)
    rig.lease.stands["t2"] = Held.TAKEN
    rig.turn()
    assert waiting.fenced.settled, "kombu would put back at the end what another worker runs by then"
    rig.worker.pool._state = BasePool.TERMINATE
    rig.lease.renewed = []
    rig.turn()
    assert (rig.lease.renewed, rig.keeper._thread._stopping) == ([], True)


def test_what_is_given_back_in_a_shutdown_goes_back_when_nothing_is_consumed_any_more(
    rig: Rig, claims: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """I3: at once it would come to this very worker again; behind the last job it would come hours late."""
    monkeypatch.setattr(leftovers_module, "time", rig.clock)
    left = rig.worker.receives("t1")
    left.message.channel = left.fenced = FencedChannel(rig.worker.channel, Fence(None), left.hold)  # type: ignore[arg-type]
    rig.keeper.leftovers.add(left)
    rig.turn()
    assert rig.steps == []
    rig.keeper.drain()
    assert rig.turn() == pytest.approx(BRPOP_TIMEOUT + MARGIN)
    assert rig.steps == []
    rig.clock.advance(BRPOP_TIMEOUT + MARGIN)
    rig.turn()
    assert (rig.steps, left.fenced.settled) == (["put back t1", "forget t1"], True)


class Told:
    """A keeper that notes what it is told."""

    def __init__(self, worker: Any) -> None:
        self.told: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda: self.told.append(name)


class Started:
    """The step of a worker that has started, with signals of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pool: str = "solo") -> None:
        self.shutting_down, self.shutdown = Signal(), Signal()
        monkeypatch.setattr(step_module, "worker_shutting_down", self.shutting_down)
        monkeypatch.setattr(step_module, "worker_shutdown", self.shutdown)
        monkeypatch.setattr(step_module, "Keeper", Told)
        self.worker = SimpleNamespace(app=None, pool_cls=get_implementation(pool))
        self.step = KeeperStep(self.worker)
        self.step.start(self.worker)

    @property
    def told(self) -> list[str]:
        """What the keeper was told until now."""
        keeper: Any = self.step._keeper
        return list(keeper.told)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    return Started(monkeypatch)


def test_the_keeper_starts_with_its_worker(started: Started) -> None:
    """D3: by itself."""
    assert started.told == ["start"]


def test_a_warm_shutdown_lets_the_keeper_go_on(started: Started) -> None:
    """I3, D3: it ends behind the pool."""
    started.shutting_down.send(sender="w1@host", sig="SIGTERM", how="Warm", exitcode=0)
    assert started.told == ["start", "shut_down"], "by Celery's signal: a solo worker's steps come behind its job"
    started.step.stop(started.worker)
    assert started.told[2:] == ["drain"]
    started.shutdown.send(sender="w1@host")
    assert started.told[3:] == ["stop"]


def test_no_signal_is_listened_to_that_a_signal_handler_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    """I3, fault 10: Celery sends it under a lock, on which a SIGQUIT in the middle of SIGTERM's handler would wait for itself."""
    started = Started(monkeypatch, "prefork")
    assert not started.shutting_down.receivers
    with started.shutting_down.lock:  # the handler of SIGTERM, when SIGQUIT's runs in the middle of it
        started.shutting_down.send(sender="w1@host", sig="SIGQUIT", how="Cold", exitcode=0)
    started.step.close(started.worker)
    assert started.told == ["start", "shut_down"]


def test_a_shutdown_that_no_signal_brought_is_one_too(started: Started) -> None:
    """I3: by ``control shutdown``, or of a worker in a thread."""
    started.step.close(started.worker)
    assert started.told == ["start", "shut_down"]


def test_a_cold_shutdown_is_no_warm_one(started: Started) -> None:
    """I3: Celery ends the jobs itself, and what is held goes back at once."""
    started.shutting_down.send(sender="w1@host", sig="SIGQUIT", how="Cold", exitcode=0)
    started.step.terminate(started.worker)
    assert started.told == ["start", "stop"]


def test_the_step_of_a_worker_that_never_started_may_be_told_anything() -> None:
    """D3: a worker that fails at its start is closed all the same."""
    step = KeeperStep(SimpleNamespace(app=None))
    for name in ("close", "stop", "terminate"):
        getattr(step, name)(None)


# --- G4: the last resort ---------------------------------------------------------------------------------------------------


def test_the_process_of_a_job_that_hears_nothing_is_ended(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """G4: whatever its message's state; one that has ended meanwhile has given its process to another."""
    caplog.set_level(logging.ERROR, "taskora_celery.worker")
    due_now = ["job of t1", "job of t2", "nobody's"]
    monkeypatch.setattr(rig.keeper._backstop, "turn", lambda end: [end(job_id) for job_id in due_now] and None)
    rig.worker.runs("t1").acknowledged = True
    rig.worker.runs("t2").has_process = False
    rig.turn()
    assert rig.ended == ["job of t1"]
    assert caplog.messages == ["job job of t1 (shop.work) does not hear that it was cancelled: its process is ended"]


def test_a_deaf_job_is_found_out_whose_cancel_came_before_the_news_of_its_start(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G4: its process has begun, and the worker's main thread is about to hear of it."""
    monkeypatch.setattr(backstop_module, "MARGIN", 0.0)
    job = rig.worker.receives("t1")
    ScriptedExecution(rig.store.memory, job.id, tag="t1", token=job.hold.token)
    rig.store.memory.cancel(request(job.id))
    rig.keeper._backstop.announced(request(job.id, grace=0.0))
    job.is_running = job.has_process = True
    rig.turn()
    assert rig.ended == [job.id]


def test_it_listens_to_cancels_from_its_start(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """G4: what is cancelled from then on is heard, and the deaf are looked after."""
    with_processes(rig, monkeypatch)
    heard: list[str] = []
    monkeypatch.setattr(rig.keeper._backstop, "announced", lambda announcement: heard.append(announcement.id))
    runtime = Runtime.of(rig.app)
    listener = runtime.listener
    assert listener is not None
    rig.keeper.start()
    try:
        wait_until(lambda: listener.ready, "the listener")
        rig.store.memory.cancel(request("since"), queued=True)
        wait_until(lambda: heard == ["since"], "the announcement")
        wait_until(lambda: runtime.stopper.has_heard("since"), "what the parent itself remembers")
    finally:
        rig.keeper.stop()
    assert rig.lease.closed
