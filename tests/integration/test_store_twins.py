"""The in-memory store and Redis, side by side: what one answers and keeps, the other does, too; and a job has one end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from taskora_celery.encoding import pack
from taskora_celery.records import AttemptRecord, Outcome
from taskora_celery.store.connect import Endpoint
from taskora_celery.store.journal import decode, encode
from taskora_celery.store.memory import MemoryStore
from taskora_celery.store.protocol import Begin, CancelOutcome, Ended, Reply
from taskora_celery.store.redis import RedisStore
from tests.support.cancels import OUTCOMES, loss, request
from tests.support.executions import NOW_MS, ScriptedExecution
from tests.support.twins import Held, Twins

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from taskora_celery.store.protocol import JobStore

JOB = "job-1"
LOG_LIMIT = 6


@pytest.fixture
def redis_store(redis_url: str) -> Iterator[RedisStore]:
    store = RedisStore(Endpoint(redis_url), log_limit=LOG_LIMIT)
    yield store
    store.close()


@pytest.fixture
def twins(redis_store: RedisStore) -> Twins:
    return Twins(MemoryStore(log_limit=LOG_LIMIT), redis_store)


def begin_of(**fields: object) -> Begin:
    values = {"attempt": 1, "tag": "t1", "token": 1, "now_ms": NOW_MS, "created_ms": NOW_MS - 500, **fields}
    return Begin(JOB, "shop.work", worker="w1@host", **values)  # type: ignore[arg-type]


def job_in(twins: Twins, state: str) -> Held:
    held = twins.begin(begin_of())
    if state == Outcome.LOST:
        twins.lose(loss())
    elif state != "STARTED":
        keep = AttemptRecord(1, 1, "w1@host", NOW_MS, Outcome.RETRY) if state == Outcome.RETRY else None
        twins.report(held, now_ms=NOW_MS + 1, ended=Ended(state, NOW_MS + 1, "because", "OSError", keep))
    return held


@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("state", [None, *OUTCOMES])
def test_a_cancel_in_each_state_leaves_the_same_record_in_both(twins: Twins, state: str | None, queued: bool) -> None:
    """O3, G7: field by field; also of what comes behind it."""
    held = None if state is None else job_in(twins, state)
    twins.cancel(request(JOB), queued=queued)
    twins.cancel(request(JOB, reason=None), queued=queued)
    if held is not None:
        batches = encode(1, [(2, NOW_MS, "late", None, None)], LOG_LIMIT)
        twins.report(held, now_ms=NOW_MS + 9, batches=batches, ended=Ended(Outcome.SUCCESS, NOW_MS + 9))
        twins.report(held, now_ms=0)
    twins.lose(loss(token=None))
    for attempt, tag, redelivered, fence in (
        (1, "t1", False, NOW_MS), (1, "t1", False, 0), (1, "t1", True, 0),
        (2, "t2", False, 0), (1, "t3", False, 0), (1, "", False, 0),
    ):  # fmt: skip
        again = twins.begin(begin_of(attempt=attempt, tag=tag, redelivered=redelivered, fence=fence))
        if again.runs:
            twins.report(again, now_ms=NOW_MS + 20, progress=pack((1, NOW_MS, None)), ended=Ended(Outcome.REVOKED, NOW_MS + 20))


@pytest.mark.parametrize("tag", ["t1", ""])
@pytest.mark.parametrize("fence", [0, NOW_MS * 1000, 2 * NOW_MS * 1000])
def test_a_message_without_a_tag_means_the_same_to_both(twins: Twins, tag: str, fence: int) -> None:
    """O3: some brokers' tags are numbers, which stand for no lease."""
    twins.begin(begin_of(tag=""))
    twins.cancel(request(JOB), queued=False)
    twins.begin(begin_of(tag=tag, fence=fence))
    twins.begin(begin_of(tag=tag, redelivered=True))


@given(st.lists(st.lists(st.integers(0, 2 * LOG_LIMIT), min_size=1, max_size=5), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_trim_the_journal_alike(redis_client: redis.Redis, redis_store: RedisStore, reports: list[list[int]]) -> None:
    """F3, O3: whatever came in one report; each number is the log entries of a batch, 0 a step of the job instead."""
    redis_client.flushdb()
    stores: list[JobStore] = [MemoryStore(log_limit=LOG_LIMIT), redis_store]
    executions = [ScriptedExecution(store) for store in stores]
    for sizes in reports:
        for execution in executions:
            made = [execution.made(*["m"] * size) if size else execution.stated(state="RETRY") for size in sizes]
            batches = tuple(batch for report in made for batch in report.batches)
            execution.send(msgspec.structs.replace(made[0], batches=batches))
        one, other = (store.read(execution.id, 0) for store, execution in zip(stores, executions, strict=True))
        assert one is not None
        assert other is not None
        assert (one.removed, decode(one.journal)) == (other.removed, decode(other.journal))
        assert [one.fields.get(name, 0) for name in "mqt"] == [other.fields.get(name, 0) for name in "mqt"]


def test_a_delivery_behind_a_cancelled_one_is_counted_by_both(twins: Twins) -> None:
    """O3, B3: a job that was cancelled before it began has an attempt, and no delivery yet; that is none to fail over."""
    twins.cancel(request(JOB), queued=True)
    assert not twins.begin(begin_of(redelivered=True)).runs
    over = twins.begin(begin_of(redelivered=True, fence=2 * NOW_MS * 1000, token=2, over=True))
    assert over.begun[0].delivery == 1


class JobsLife(RuleBasedStateMachine):
    """One job between a broker that delivers as it likes, workers that die, and somebody who cancels.

    The broker's part is kept simple: one message per attempt, whose tag is ``t<attempt>``; it is delivered first by itself,
    then again; and the next attempt's comes when a retry was accepted.
    """

    twins: Twins
    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.client.flushdb()
        self.twins.stores = (MemoryStore(log_limit=LOG_LIMIT), self.twins.stores[1])
        self.now = NOW_MS
        self.token = 0
        self.attempt = 1
        self.delivered = False
        self.executions: list[Held] = []
        #: What the store acknowledged.
        self.requested = False
        #: All that was requested was a plain revoke.
        self.gently = False
        self.ends: list[str] = []

    def _later(self) -> int:
        self.now += 1
        return self.now

    def _begin(self, *, fence: int = 0) -> Held:
        self.token += 1
        held = self.twins.begin(begin_of(
            attempt=self.attempt, tag=f"t{self.attempt}", token=self.token, now_ms=self._later(), redelivered=self.delivered,
            fence=fence,
        ))  # fmt: skip
        self.delivered = True
        self.executions.append(held)
        return held

    @rule()
    def deliver(self) -> None:
        """The message comes, for the first time or again, and the store is asked."""
        self._begin()

    @precondition(lambda self: not self.delivered)
    @rule()
    def deliver_unasked(self) -> None:
        """A first delivery begins by itself: the worker's parent knew of no cancel."""
        held = self._begin(fence=(2 * NOW_MS + self.token) * 1000)  # its own time, and none that the store gave another delivery
        assert held.runs or self.attempt > 1

    @precondition(lambda self: self.executions)
    @rule(data=st.data(), entries=st.integers(0, 3), speaks=st.booleans())
    def report(self, data: st.DataObject, entries: int, speaks: bool) -> None:
        """An execution says something, be it a zombie; or only looks."""
        held = data.draw(st.sampled_from(self.executions))
        if not held.runs:
            return
        logs = [(2, self.now, f"entry {n}", None, None) for n in range(entries)]
        batches = encode(held.begin.attempt, logs, LOG_LIMIT) if logs else ()
        progress = pack((self.now, self.now, None)) if speaks else None
        reply = self.twins.report(
            held, now_ms=self._later() if speaks else 0, first=held.number, batches=batches, progress=progress
        )  # fmt: skip
        held.number += entries
        if self.requested and held is self._current:
            assert reply in {Reply.STOPPING, Reply.SUPERSEDED}

    @precondition(lambda self: self.executions)
    @rule(
        data=st.data(),
        state=st.sampled_from([Outcome.SUCCESS, Outcome.FAILURE, Outcome.RETRY, Outcome.REJECTED, Outcome.IGNORED]),
        unaware=st.booleans(),
    )
    def end(self, data: st.DataObject, state: str, unaware: bool) -> None:
        """An execution ends; where the store says that it is to end as cancelled, it does."""
        held = data.draw(st.sampled_from(self.executions))
        if not held.runs or held.has_ended:
            return
        held.has_ended = True
        at = self._later()
        keep = AttemptRecord(held.begin.attempt, 1, "w1@host", at, Outcome.RETRY) if state == Outcome.RETRY else None
        unaware = unaware and state in {Outcome.SUCCESS, Outcome.FAILURE}
        reply = self.twins.report(held, now_ms=at, ended=Ended(state, at, "because", "OSError", keep, unaware))
        if reply is Reply.CANCELLED:
            assert self.requested
            assert not (unaware and self.gently)
            state = Outcome.REVOKED
            reply = self.twins.report(held, now_ms=at, ended=Ended(state, at, "no longer wanted", "JobCancelledError"))
            assert reply is Reply.STOPPING
        if reply is Reply.SUPERSEDED:
            return
        assert not self.requested or state == Outcome.REVOKED or (unaware and self.gently)
        if state == Outcome.RETRY:
            self.attempt, self.delivered = held.begin.attempt + 1, False
        elif state in Outcome.FINAL - {Outcome.IGNORED}:
            self.ends.append(state)

    @rule(queued=st.booleans(), gently=st.booleans())
    def cancel(self, queued: bool, gently: bool) -> None:
        """Somebody cancels."""
        before = self.twins.state(JOB)
        outcome = self.twins.cancel(request(JOB, now_ms=self._later(), gently=gently), queued=queued)
        if outcome is CancelOutcome.ALREADY:
            assert (before, self.requested) == (Outcome.REVOKED, True)
        elif outcome >= CancelOutcome.CANCELLED:
            assert before not in Outcome.FINAL
            self.gently = gently and (self.gently or not self.requested)
            self.requested = True
        else:
            assert before in (Outcome.FINAL if before else {None})
            assert queued is False or before is not None

    @precondition(lambda self: self.executions)
    @rule(data=st.data(), limit=st.sampled_from([None, 0, 1]), counts=st.booleans(), final=st.booleans())
    def lose(self, data: st.DataObject, limit: int | None, counts: bool, final: bool) -> None:
        """A delivery's process or worker dies."""
        held = data.draw(st.sampled_from(self.executions))
        lost = self.twins.lose(loss(
            JOB, tag=held.begin.tag, token=held.begin.token, attempt=held.begin.attempt, now_ms=self._later(),
            limit=limit, counts=counts, state=Outcome.FAILURE if final else None, error="WorkerLostError" if final else None,
        ))  # fmt: skip
        assert not lost.cancelled or self.requested
        if lost.ended:
            self.ends.append(Outcome.REVOKED if lost.cancelled else Outcome.FAILURE)

    @property
    def _current(self) -> Held:
        return max((held for held in self.executions if held.runs), key=lambda held: held.begun[1].fence)

    @invariant()
    def it_ends_at_most_once_and_never_otherwise_than_was_acknowledged(self) -> None:
        """G7: the receipts and the record agree."""
        if not hasattr(self, "ends"):
            return
        self.twins.compare(JOB)
        state = self.twins.state(JOB)
        if self.requested and not self.gently:
            assert state in {"STARTED", Outcome.REVOKED}
            assert set(self.ends) <= {Outcome.REVOKED}


@pytest.mark.slow
def test_both_stores_tell_the_same_story_whatever_happens(twins: Twins, redis_client: redis.Redis) -> None:
    """G7, O3: never SUCCESS once a cancel was acknowledged, never REVOKED once success was stored; in both stores alike."""

    class Life(JobsLife):
        pass

    Life.twins, Life.client = twins, redis_client
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=200,
            stateful_step_count=25,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
