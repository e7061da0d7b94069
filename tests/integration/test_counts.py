"""What is counted of jobs, in every store: it adds up, it is bounded, and it expires."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from kombu.exceptions import EncodeError

from taskora_celery import tally
from taskora_celery.errors import StoreUnavailableError
from taskora_celery.outcomes import fail_unstored
from taskora_celery.records import Outcome
from taskora_celery.redaction import Redactor
from taskora_celery.reporter.reporter import Reporter
from taskora_celery.settings import Settings
from taskora_celery.store import index
from taskora_celery.store.protocol import NO_COUNTS, Begin, Ended, Report
from taskora_celery.tally import Count, pack_count, unpack_count
from tests.support.cancels import loss, request
from tests.support.executions import NOW_MS, ScriptedExecution
from tests.support.scripted_store import ScriptedStore
from tests.support.store_fixtures import redis_store
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskora_celery.store.protocol import JobStore
    from taskora_celery.store.redis import RedisStore

WEEK = 7 * 86_400


def counted(store: JobStore) -> dict[Count, int]:
    return {unpack_count(name): number for name, number in store.counts().items()}


def attempts(outcome: str, name: str = "shop.work") -> Count:
    return Count("attempts", (outcome,), (name,))


def test_counts_add_up(store: JobStore) -> None:
    """K5: over all processes that count, with whatever text users call their tasks."""
    assert store.counts() == {}
    names = [pack_count(attempts("SUCCESS", name)) for name in ("a", "ä {b} %", "x" * 300)]
    store.note([], [], NOW_MS, dict.fromkeys(names, 1))
    store.note(["job-1"], ["job-2"], NOW_MS, {names[0]: 4, names[1]: 100_000_000_000})
    assert store.counts() == {names[0]: 5, names[1]: 100_000_000_001, names[2]: 1}
    assert store.listed(10, going=True) == [("job-1", NOW_MS)]
    assert len(store.listed(10)) == 2


def test_a_success_that_became_a_failure_is_counted_as_both(store: JobStore) -> None:
    """K5, A6: who alerts on failures hears of it; a count that went back would look like a new start."""
    begun = store.begin(Begin("job-1", "shop.work", 1, "w1@host", NOW_MS, NOW_MS, tag="tag", token=7))
    store.report([Report("job-1", begun.fence, NOW_MS, ended=Ended(Outcome.SUCCESS, NOW_MS + 5))])
    store.note([], ["job-1"], NOW_MS, {pack_count(attempts(Outcome.SUCCESS)): 1})
    for _ in range(2):
        fail_unstored(store, Redactor(), "job-1", "tag", EncodeError("no set in JSON"))
    assert counted(store) == {attempts(Outcome.SUCCESS): 1, attempts(Outcome.FAILURE): 1}


def test_an_end_that_is_another_deliverys_by_now_is_not_counted(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """K5, D7: the job was begun again between the look and the report, which is refused."""
    begin = Begin("job-1", "shop.work", 1, "w1@host", NOW_MS, NOW_MS, tag="tag", token=7)
    store.report([Report("job-1", store.begin(begin).fence, NOW_MS, ended=Ended(Outcome.SUCCESS, NOW_MS + 5))])
    before = store.read("job-1")
    store.begin(msgspec.structs.replace(begin, token=8, redelivered=True, anyway=True))
    monkeypatch.setattr(store, "read", lambda _: before)
    fail_unstored(store, Redactor(), "job-1", "tag", EncodeError("no set in JSON"))
    assert store.counts() == {}


def test_what_finds_no_room_is_counted_without_its_label(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """K5, L3: the number of names is bounded, and no count is lost."""
    monkeypatch.setattr(index, "COUNTS_KEPT", 3)
    monkeypatch.setattr(tally, "COUNTS_KEPT", 3)
    for n in range(5):
        store.note([], [], NOW_MS, {pack_count(attempts("SUCCESS", f"task-{n}")): 2})
    store.note([], [], NOW_MS, {pack_count(attempts("SUCCESS", "task-0")): 1})
    assert counted(store) == {
        attempts("SUCCESS", "task-0"): 3, attempts("SUCCESS", "task-1"): 2, attempts("SUCCESS", "task-2"): 2,
        Count("attempts", ("SUCCESS",)): 4,
    }  # fmt: skip


def test_counts_stay_for_a_week_and_then_expire(any_redis: RedisStore) -> None:
    """L3: longer than records, which may be gone after a quiet week-end."""
    any_redis.note([], [], NOW_MS, {"store_errors": 1})
    assert WEEK - 60 < any_redis._read_client().pttl(any_redis.keys.counts) / 1000 <= WEEK


def test_counts_need_no_index(redis_url: str) -> None:
    """K3, K5: who wants no list may still want to see what happens."""
    from taskora_celery.store.connect import Endpoint

    with redis_store(Endpoint(redis_url), index_limit=0) as store:
        store.note(["job-1"], ["job-2"], NOW_MS, {"store_errors": 1})
        assert store.listed(10) == store.listed(10, going=True) == []
        assert store.counts() == {"store_errors": 1}
        assert store._read_client().dbsize() == 1


def test_a_loss_is_counted_by_the_store(store: JobStore) -> None:
    """K5, D5: whoever saw it; once, however many saw it."""
    ScriptedExecution(store, tag="t1", token=1)
    store.lose(loss())
    store.lose(loss())
    assert counted(store) == {attempts(Outcome.LOST): 1, Count("stalled", ("redelivered",), ("shop.work",)): 1}


def test_a_loss_too_many_is_counted_as_a_failure(store: JobStore) -> None:
    """K5, D6: what was done of it is its label."""
    ScriptedExecution(store, tag="t1", token=1)
    store.lose(loss(limit=0))
    assert counted(store) == {attempts(Outcome.FAILURE): 1, Count("stalled", ("failed",), ("shop.work",)): 1}


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"counts": False}, Outcome.LOST),
        ({"state": Outcome.REVOKED, "error": "Terminated"}, Outcome.REVOKED),
        ({"state": Outcome.FAILURE, "error": "TimeLimitExceeded"}, Outcome.FAILURE),
    ],
    ids=["a worker that shuts down", "terminated", "the hard limit"],
)
def test_what_is_not_the_job_s_fault_is_no_stall(store: JobStore, fields: dict[str, Any], outcome: str) -> None:
    """K5, D6: as ``max_stalls`` has it."""
    ScriptedExecution(store, tag="t1", token=1)
    store.lose(loss(**fields))
    assert counted(store) == {attempts(outcome): 1}


def test_a_cancelled_job_whose_process_was_ended_is_counted_as_cancelled(store: JobStore) -> None:
    """K5, G4: it was stopped by force, and has not stalled."""
    ScriptedExecution(store, tag="t1", token=1)
    store.cancel(request())
    store.lose(loss())
    assert counted(store) == {attempts(Outcome.REVOKED): 1}


def told(store: JobStore, *deliveries: tuple[Begin, Ended | None]) -> Reporter:
    """A reporter that was told of these deliveries, and has ended."""
    from taskora_celery.context import Context

    reporter = Reporter(store, Settings(), Redactor())
    for begin, ended in deliveries:
        ctx = Context(begin.id, begin.name, begin.attempt)
        reporter.begin(ctx, begin)
        ctx.log.warning("look")
        if ended is not None:
            reporter.flush(ctx, ended)
            reporter.release(ctx)
    reporter.close()
    return reporter


def begin(**fields: object) -> Begin:
    return Begin(**{"id": "job-1", "name": "shop.work", "attempt": 1, "worker": "w1", "created_ms": NOW_MS,
                    "now_ms": NOW_MS + 700, "queue": "mail", "tag": "t1", "token": 1, **fields})  # type: ignore[arg-type]  # fmt: skip


def test_the_reporter_counts_attempts_waits_and_logs(store: JobStore) -> None:
    """K5: in the batch that notes the index, from what it has told the store of."""
    told(store, (begin(), Ended(Outcome.SUCCESS, NOW_MS + 1_000)))
    assert counted(store) == {
        attempts(Outcome.SUCCESS): 1,
        Count("attempt_duration", ("le", "0.5"), ("shop.work",)): 1, Count("attempt_duration", ("sum",), ("shop.work",)): 300,
        Count("queue_wait", ("le", "1"), ("mail",)): 1, Count("queue_wait", ("sum",), ("mail",)): 700,
        Count("log_records", ("warn",), ("shop.work",)): 1,
    }  # fmt: skip


def test_a_delivery_that_nobody_heard_of_again_is_counted_when_the_next_begins(store: JobStore) -> None:
    """K5, B3: where no keeper was there to see it (RabbitMQ, a worker that died with all others)."""
    told(store, (begin(), None), (begin(redelivered=True, tag="t2", token=2), Ended(Outcome.SUCCESS, NOW_MS + 1_000)))
    found = counted(store)
    assert (found[attempts(Outcome.LOST)], found[attempts(Outcome.SUCCESS)]) == (1, 1)
    assert found[Count("stalled", ("redelivered",), ("shop.work",))] == 1


def test_a_loss_that_was_told_is_not_counted_again_by_the_next_delivery(store: JobStore) -> None:
    """K5: it is in the history that a beginning is given."""
    reporter = told(store, (begin(), None))
    store.lose(loss())
    assert reporter is not None
    told(store, (begin(redelivered=True, tag="t1", token=2), Ended(Outcome.SUCCESS, NOW_MS + 1_000)))
    assert counted(store)[attempts(Outcome.LOST)] == 1


def test_what_could_not_be_told_is_told_in_the_next_turn() -> None:
    """K3, K5: where only the index cannot be written, too."""
    from taskora_celery.context import Context

    class Unnoted(ScriptedStore):
        fails = 1

        def note(self, going: Sequence[str], ended: Sequence[str], now_ms: int, counts: Mapping[str, int] = NO_COUNTS) -> None:
            self.fails -= 1
            if self.fails >= 0:
                raise StoreUnavailableError("the script says so")
            super().note(going, ended, now_ms, counts)

    store = Unnoted()
    reporter = Reporter(store, Settings(flush_interval=0.005), Redactor())
    ctx = Context("job-1", "shop.work", 1)
    reporter.begin(ctx, begin())
    wait_until(lambda: store.fails <= 0, "the index could not be written")
    wait_until(lambda: Count("queue_wait", ("le", "1"), ("mail",)) in counted(store), "it is told again, without a new report")
    assert counted(store)[Count("store_errors")] == 1
    assert store.listed(10, going=True)[0][0] == "job-1"
    reporter.close()


def test_what_happens_in_an_outage_is_counted_when_it_is_over() -> None:
    """K5, L1: and the outage itself is."""
    from taskora_celery.context import Context

    store = ScriptedStore()
    reporter = Reporter(store, Settings(flush_interval=0.005), Redactor())
    store.away = True
    for n in range(3):
        ctx = Context(f"job-{n}", "shop.work", 1)
        reporter.begin(ctx, begin(id=f"job-{n}"))
        reporter.flush(ctx, Ended(Outcome.SUCCESS, NOW_MS + 1_000))
        reporter.release(ctx)
    wait_until(lambda: store.refused, "the reporter notices")
    store.away = False
    wait_until(lambda: counted(store).get(attempts(Outcome.SUCCESS)) == 3, "all are counted")
    wait_until(lambda: counted(store).get(Count("store_errors"), 0) > 0, "the outage is counted")
    reporter.close()
