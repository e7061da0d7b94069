"""Deliveries that are lost, come late or come twice: what each store makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from taskora_celery.encoding import unpack
from taskora_celery.lease.protocol import Due
from taskora_celery.reading import history_of, progress_of, status_of
from taskora_celery.records import AttemptRecord, JobStatus, Outcome
from taskora_celery.store.journal import STALLED, decode
from taskora_celery.store.protocol import (
    Begin,
    CancelOutcome,
    CancelRequest,
    Ended,
    JobStore,
    Loss,
    Lost,
    Reply,
    Report,
    Verdict,
)
from taskora_celery.worker.keeper import loss_of
from tests.support.executions import NOW_MS, ScriptedExecution
from tests.support.store_fixtures import LOG_LIMIT, TTL, admin, differences, messages, snapshot

if TYPE_CHECKING:
    from taskora_celery.store.redis import RedisStore

#: Tokens, in microseconds: of a delivery that was received before any fence of these tests, and of later ones.
EARLY = NOW_MS * 1_000
LATE = 4_102_444_800_000_000  # in the year 2100
FINAL = [Outcome.SUCCESS, Outcome.FAILURE, Outcome.REVOKED]
NOTHING = Lost(None)


def started(store: JobStore, *, tag: str = "tag-1", token: int = EARLY, **fields: Any) -> ScriptedExecution:
    """A delivery that its broker handed to a worker, and that the store has counted."""
    return ScriptedExecution(store, tag=tag, token=token, **fields)


def loss(*, tag: str = "tag-1", token: int | None = EARLY, **fields: Any) -> Loss:
    told = {"attempt": 1, "worker": "w1@host", "now_ms": NOW_MS + 3_000, "reason": "signal 9 (SIGKILL)", **fields}
    return Loss("job-1", "shop.work", tag=tag, token=token, **told)


def status(store: JobStore) -> JobStatus:
    return status_of("job-1", store.read("job-1"), LOG_LIMIT)


def fields_of(store: JobStore) -> dict[str, Any]:
    found = store.read("job-1")
    assert found is not None
    return found.fields


def lost_record(number: int = 1, delivery: int = 1, **fields: Any) -> AttemptRecord:
    record = AttemptRecord(number, delivery, "w1@host", NOW_MS, Outcome.LOST, 3.0, "signal 9 (SIGKILL)")
    return msgspec.structs.replace(record, **fields)


# --- a delivery is lost --------------------------------------------------------------------------------------------------


def test_a_lost_delivery_is_told_at_once_with_its_reason(store: JobStore) -> None:
    """D5, J2: the record does not go on saying STARTED until the message comes back."""
    started(store)
    assert store.lose(loss()) == Lost(1)
    found = status(store)
    assert (found.state, found.reason, found.stalls) == (Outcome.LOST, "signal 9 (SIGKILL)", 1)
    assert (found.attempt, found.delivery, found.worker, found.started_ms) == (1, 1, "w1@host", NOW_MS)
    assert (found.created_ms, found.ended_ms) == (NOW_MS - 500, None)


def test_a_lost_delivery_has_its_place_in_the_history(store: JobStore) -> None:
    """B6: one record for each delivery that was lost, however it became known."""
    started(store)
    store.lose(loss())
    assert history_of(store.read("job-1", attempts=True)) == [lost_record()]


def test_a_lost_delivery_has_its_place_in_the_journal(store: JobStore) -> None:
    """F5: who follows the job sees it between the entries before and after it."""
    started(store).logs("before")
    store.lose(loss())
    started(store, token=LATE, redelivered=True).logs("after")
    before, lost, after = decode(snapshot(store).journal)
    assert (before.data.message, after.data.message) == ("before", "after")
    assert (lost.kind, lost.seq, lost.timestamp, after.seq) == ("state", 1, NOW_MS + 3_000, 2)
    assert lost.data == {"attempt": 1, "state": Outcome.LOST, "reason": "signal 9 (SIGKILL)", "error": None, "worker": "w1@host"}


def test_a_loss_is_announced(store: JobStore) -> None:
    """F5: a follower need not poll."""
    started(store)
    with store.watch(["job-1"]) as watch:
        store.lose(loss())
        assert watch.wait(5.0)


def test_a_lost_execution_can_change_nothing_more(store: JobStore) -> None:
    """D7: its process may only have been thought dead; all that it still says is refused, and counted."""
    zombie = started(store)
    zombie.progress(50)
    store.lose(loss())
    before = snapshot(store)
    zombie.now_ms += 9_000
    replies = [zombie.progress(99), zombie.logs("late"), zombie.checkpoint(1), zombie.end(), zombie.end_in_retry()]
    assert replies == [Reply.SUPERSEDED] * 5
    assert differences(before, snapshot(store)) == {"y": 5}
    assert status(store).refused == 5


def test_entries_of_the_attempt_before_the_lost_one_are_refused_too(store: JobStore) -> None:
    """D7: what is that late comes from a zombie."""
    first = started(store)
    first.end_in_retry()
    started(store, tag="tag-2", attempt=2)
    store.lose(loss(tag="tag-2", attempt=2))
    assert first.logs("too late") is Reply.SUPERSEDED


def test_the_next_delivery_knows_of_the_loss_and_does_not_count_it_again(store: JobStore) -> None:
    """B3, B6, D6: the delivery is number 2, with one loss behind it; checkpoint and progress are kept."""
    first = started(store)
    first.checkpoint({"row": 7})
    first.progress(70)
    store.lose(loss())
    begun = started(store, token=LATE, redelivered=True, now_ms=NOW_MS + 9_000).begun
    assert (begun.delivery, begun.stalls, begun.attempts) == (2, 1, (lost_record(),))
    assert begun.checkpoint is not None
    assert unpack(begun.checkpoint) == {"row": 7}
    assert progress_of(store.read("job-1"))[0] == 70
    assert not {"e", "r", "z"} & set(snapshot(store).fields)


def test_a_delivery_that_was_given_back_is_no_loss(store: JobStore) -> None:
    """I3, D6: in a shutdown, say; the next one is counted as a delivery, and nothing is held against the job."""
    started(store).end(Outcome.REJECTED)
    begun = started(store, token=LATE, redelivered=True).begun
    assert (begun.delivery, begun.stalls, begun.attempts) == (2, 0, ())
    assert status(store).stalls == 0


def test_a_loss_that_nobody_told_of_is_counted_by_the_next_delivery(store: JobStore) -> None:
    """D6: the machine may be gone; a message that comes back while its job runs is a loss, too."""
    started(store)
    assert started(store, token=LATE, redelivered=True).begun.stalls == 1
    assert status(store).stalls == 1


def test_the_fence_grows_with_a_loss(store: JobStore) -> None:
    """D7: the loser's own writes elsewhere carry the smaller one."""
    first = started(store)
    store.lose(loss())
    assert snapshot(store).fields["f"] > first.fence
    assert started(store, token=LATE, redelivered=True).fence > snapshot(store).fields["f"] - 1 > first.fence


def test_a_loss_that_is_told_twice_counts_once(store: JobStore) -> None:
    """L1: the answer may be lost on its way, and another worker may see the same message run out."""
    started(store)
    store.lose(loss())
    before = snapshot(store)
    assert store.lose(loss()) == NOTHING
    assert store.lose(loss(token=None)) == NOTHING
    assert snapshot(store) == before


# --- who is lost ---------------------------------------------------------------------------------------------------------


def test_a_delivery_that_dies_before_it_is_registered_is_lost_too(store: JobStore) -> None:
    """D6: a first delivery registers with its first report, and its process may not live so long."""
    assert store.lose(loss(created_ms=NOW_MS - 500)) == Lost(1)
    found = status(store)
    assert (found.state, found.name, found.attempt, found.delivery) == (Outcome.LOST, "shop.work", 1, 1)
    assert (found.worker, found.started_ms, found.alive_ms, found.created_ms) == ("w1@host", NOW_MS, NOW_MS, NOW_MS - 500)
    assert history_of(store.read("job-1", attempts=True)) == [lost_record()]


def test_a_job_without_a_stamp_counts_as_created_when_it_was_first_received(store: JobStore) -> None:
    """B4: where the publisher lacks this library."""
    store.lose(loss(created_ms=0))
    assert status(store).created_ms == NOW_MS


def test_a_delivery_that_was_lost_before_it_was_registered_cannot_register_any_more(store: JobStore) -> None:
    """D7: it was thought dead and is not; the fence that it took is older than the loss."""
    store.lose(loss())
    before, fence = snapshot(store), EARLY + 5_000
    begin = Begin("job-1", "shop.work", 1, "w1@host", NOW_MS, NOW_MS, fence=fence, tag="tag-1", token=EARLY)
    assert store.begin(begin).fence == Verdict.SUPERSEDED
    assert snapshot(store) == before
    assert store.report([Report("job-1", fence, NOW_MS, begin=begin, progress=b"\x01")]) == [Reply.SUPERSEDED]
    assert differences(before, snapshot(store)) == {"y": 1}


def test_the_next_attempt_may_die_before_it_is_registered(store: JobStore) -> None:
    """D6: it has the number of its own message, and the losses before it count on."""
    first = started(store)
    first.end_in_retry()
    assert store.lose(loss(tag="tag-2", token=LATE, attempt=2, worker="w2@host", now_ms=LATE // 1_000 + 500)) == Lost(1)
    found = status(store)
    assert (found.attempt, found.delivery, found.worker, found.started_ms) == (2, 1, "w2@host", LATE // 1_000)
    assert (found.ended_ms, found.error) == (None, None), "those of the retry"
    retry, lost = snapshot(store).attempts
    assert (retry.outcome, lost.number, lost.outcome, lost.duration) == (Outcome.RETRY, 2, Outcome.LOST, 0.5)


def test_a_later_delivery_may_die_before_it_is_registered(store: JobStore) -> None:
    """B3, D6: it is one more of the same attempt."""
    started(store)
    store.lose(loss())
    assert store.lose(loss(token=LATE, worker="w2@host")) == Lost(2)
    assert (status(store).delivery, status(store).worker) == (2, "w2@host")
    assert [record.delivery for record in snapshot(store).attempts] == [1, 2]
    assert started(store, token=LATE + 1, redelivered=True).begun.delivery == 3


def test_a_replaced_task_may_die_before_it_is_registered(store: JobStore) -> None:
    """F2: the job goes on under its id, and so does its log."""
    first = started(store)
    first.logs("of the first")
    first.end(Outcome.IGNORED)
    assert store.lose(loss(tag="tag-2", token=LATE)) == Lost(1)
    assert (status(store).state, status(store).delivery, messages(store)) == (Outcome.LOST, 1, ["of the first"])


def test_another_workers_delivery_is_known_by_its_tag(store: JobStore) -> None:
    """D5: who finds a message that nobody renews knows no more of it."""
    started(store)
    assert store.lose(loss(token=None, worker="", reason="its worker was not heard of in time")) == Lost(1)
    found = status(store)
    assert (found.state, found.worker, found.reason) == (Outcome.LOST, "w1@host", "its worker was not heard of in time")
    assert snapshot(store).fields["o"] == EARLY


@pytest.mark.parametrize("token", [None, 0])
def test_another_workers_delivery_that_is_not_registered_is_left_alone(store: JobStore, token: int | None) -> None:
    """D5: there is nothing to be told, and no record is begun; the message comes back all the same."""
    assert store.lose(loss(token=token)) == NOTHING
    assert store.read("job-1") is None
    started(store)
    before = snapshot(store)
    assert store.lose(loss(tag="tag-2", token=token)) == NOTHING
    assert snapshot(store) == before


@pytest.mark.parametrize("token", [EARLY, None])
@pytest.mark.parametrize("state", [*FINAL, Outcome.IGNORED, Outcome.REJECTED, Outcome.RETRY])
def test_a_delivery_that_is_over_is_not_lost(store: JobStore, state: str, token: int | None) -> None:
    """D6: a process may die behind the end of its job, and a message run out that only was not acknowledged."""
    first = started(store)
    first.end_in_retry() if state == Outcome.RETRY else first.end(state)
    before = snapshot(store)
    assert store.lose(loss(token=token)) == NOTHING
    assert snapshot(store) == before


def test_a_delivery_that_was_superseded_is_not_lost(store: JobStore) -> None:
    """D7: the later one runs, and is not fenced off for the death of the earlier."""
    started(store)
    current = started(store, token=LATE, redelivered=True)
    before = snapshot(store)
    assert store.lose(loss()) == NOTHING
    assert snapshot(store) == before
    assert current.progress(1) is Reply.ACCEPTED


def test_a_message_that_ran_out_was_lost_by_the_delivery_that_was_seen_then(store: JobStore) -> None:
    """D7: between a keeper's look and what it writes, the message may have been put back and begun again, under the same tag."""
    started(store)
    due = Due("tag-1", "job-1", "shop.work", 1, 0.5)
    seen = loss_of(due, fields_of(store), NOW_MS + 3_000)
    current = started(store, token=LATE, redelivered=True)
    before = snapshot(store)
    assert store.lose(seen) == NOTHING
    assert snapshot(store) == before
    assert current.progress(1) is Reply.ACCEPTED
    assert store.lose(loss_of(due, fields_of(store), NOW_MS + 4_000)) == Lost(2)


def test_a_message_that_ran_out_without_a_record_changes_nothing(store: JobStore) -> None:
    """D5: its worker died before it could say anything, or the record is another message's."""
    due = Due("tag-2", "job-1", "shop.work", 1, 0.5)
    assert store.lose(loss_of(due, {}, NOW_MS)) == NOTHING
    current = started(store)
    assert store.lose(loss_of(due, fields_of(store), NOW_MS)) == NOTHING
    assert current.progress(1) is Reply.ACCEPTED


def test_a_message_whose_retry_has_begun_is_not_lost(store: JobStore) -> None:
    """I4: a worker died between the retry and the acknowledgement, and the next one before it could ask."""
    started(store).end_in_retry()
    current = started(store, tag="tag-2", attempt=2)
    before = snapshot(store)
    assert store.lose(loss(token=LATE, worker="w2@host")) == NOTHING
    assert snapshot(store) == before
    assert current.end() is Reply.ACCEPTED


@pytest.mark.parametrize("state", FINAL)
def test_a_message_that_is_delivered_once_more_behind_its_end_is_not_lost(store: JobStore, state: str) -> None:
    """G7, D6: its outcome stands, whatever becomes of the process that was to find that out."""
    started(store).end(state)
    before = snapshot(store)
    for created_ms in (0, NOW_MS - 500):
        for tag in ("tag-1", "tag of an attempt before"):
            assert store.lose(loss(tag=tag, token=LATE, worker="w2@host", limit=0, created_ms=created_ms)) == NOTHING
    assert snapshot(store) == before


@pytest.mark.parametrize("state", FINAL)
def test_a_job_that_was_sent_anew_may_be_lost_before_it_is_registered(store: JobStore, state: str) -> None:
    """D6: nothing of the job that had its id before is inherited, the losses neither."""
    first = started(store)
    first.logs("of the first")
    first.checkpoint(1)
    store.lose(loss())
    again = started(store, token=LATE, redelivered=True)
    again.end(state)
    assert store.lose(loss(tag="tag-2", token=LATE * 2, created_ms=NOW_MS + 500)) == Lost(1)
    assert (messages(store), snapshot(store).fields.get("k")) == ([], None)
    assert (status(store).delivery, status(store).created_ms, len(snapshot(store).attempts)) == (1, NOW_MS + 500, 1)
    assert snapshot(store).fields["f"] > again.fence


# --- what a loss ends in -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_one_loss_too_many_ends_the_job(store: JobStore, limit: int) -> None:
    """D6: as FAILURE with JobStalledError; so many losses as are allowed are only counted."""
    for n in range(limit):
        started(store, token=EARLY + n, redelivered=n > 0)
        assert store.lose(loss(token=EARLY + n, limit=limit)) == Lost(n + 1)
        assert status(store).state == Outcome.LOST
    started(store, token=EARLY + limit, redelivered=limit > 0)
    assert store.lose(loss(token=EARLY + limit, limit=limit)) == Lost(limit + 1, ended=True)
    found = status(store)
    assert (found.state, found.error, found.reason) == (Outcome.FAILURE, STALLED, "signal 9 (SIGKILL)")
    assert (found.stalls, found.ended_ms) == (limit + 1, NOW_MS + 3_000)


def test_the_loss_that_ends_a_job_is_the_last_of_its_history(store: JobStore) -> None:
    """B6: once, as the failure that it is."""
    started(store)
    store.lose(loss(limit=0))
    assert history_of(store.read("job-1", attempts=True)) == [lost_record(outcome=Outcome.FAILURE, error=STALLED)]


def test_where_the_message_comes_all_the_same_each_lost_delivery_keeps_its_record(store: JobStore) -> None:
    """B6, D6: nobody has stored the failure; the delivery that does has the last record, and hides no loss."""
    started(store)
    store.lose(loss())
    started(store, token=LATE, redelivered=True)
    assert store.lose(loss(token=LATE, limit=1, reason="hung")) == Lost(2, ended=True)
    again = started(store, token=LATE + 1, redelivered=True, anyway=True, now_ms=NOW_MS + 9_000)
    assert (again.begun.delivery, again.begun.stalls) == (3, 2)
    again.end(Outcome.FAILURE, "lost twice", STALLED)
    history = history_of(store.read("job-1", attempts=True))
    assert [(run.delivery, run.outcome, run.reason) for run in history] == [
        (1, Outcome.LOST, "signal 9 (SIGKILL)"), (2, Outcome.LOST, "hung"), (3, Outcome.FAILURE, "lost twice"),
    ]  # fmt: skip
    assert history[1] == lost_record(delivery=2, reason="hung")


def test_without_a_limit_no_loss_ends_a_job(store: JobStore) -> None:
    """D6: `max_stalls=None`."""
    for n in range(5):
        started(store, token=EARLY + n, redelivered=n > 0)
        assert store.lose(loss(token=EARLY + n, limit=None)) == Lost(n + 1)


@pytest.mark.parametrize(("state", "error"), [(Outcome.FAILURE, "WorkerLostError"), (Outcome.REVOKED, "Terminated")])
def test_a_loss_after_which_celery_does_not_deliver_again_ends_the_job(store: JobStore, state: str, error: str) -> None:
    """D6: the record says what Celery's own backend says."""
    execution = started(store)
    assert store.lose(loss(state=state, error=error)) == Lost(1, ended=True)
    found = status(store)
    assert (found.state, found.error, found.ended_ms, found.stalls) == (state, error, NOW_MS + 3_000, 1)
    assert snapshot(store).attempts == ()
    assert execution.end() is Reply.SUPERSEDED


def test_the_losses_of_a_job_count_over_its_retries(store: JobStore) -> None:
    """D6: a job that is lost in each attempt circles no less for it."""
    started(store)
    store.lose(loss())
    started(store, token=EARLY + 1, redelivered=True).end_in_retry()
    begun = started(store, tag="tag-2", token=EARLY + 2, attempt=2).begun
    assert (begun.stalls, [record.outcome for record in begun.attempts]) == (1, [Outcome.LOST, Outcome.RETRY])
    assert store.lose(loss(tag="tag-2", token=EARLY + 2, attempt=2, limit=1)) == Lost(2, ended=True)


@pytest.mark.parametrize("state", FINAL)
def test_the_losses_of_a_job_are_not_those_of_the_next_under_its_id(store: JobStore, state: str) -> None:
    """D6: an id that is sent anew is a job of its own."""
    started(store)
    store.lose(loss())
    started(store, token=LATE, redelivered=True).end(state)
    assert started(store, tag="tag-2", token=LATE + 1).begun.stalls == 0
    assert status(store).stalls == 0


def test_every_key_of_a_lost_job_has_the_configured_ttl(any_redis: RedisStore) -> None:
    """L3: also where it died before it was registered."""
    any_redis.lose(loss())
    found = admin(any_redis)
    keys = found.keys_of("job-1")
    assert len(keys) == 3
    for key in keys:
        found.client.expire(key, 60)
    any_redis.lose(loss(token=LATE, limit=0))
    for key in keys:
        assert TTL - 30 < found.client.ttl(key) <= TTL


def test_a_job_that_is_lost_for_ever_has_a_history_and_a_journal_with_an_end(store: JobStore) -> None:
    """L3: with `max_stalls=None` it circles, and says nothing."""
    started(store).logs("of the first")
    for n in range(LOG_LIMIT + 1_010):
        assert store.lose(loss(token=LATE * 2 + n * 10**9)) == Lost(n + 1)
    found = snapshot(store)
    assert (len(found.journal), len(found.attempts)) == (LOG_LIMIT + 1_000, 100)
    assert (found.removed, found.fields["m"], messages(store)) == (11, 0, [])


# --- a delivery that comes late, or once more ----------------------------------------------------------------------------


@pytest.mark.parametrize("state", FINAL)
def test_a_message_that_comes_once_more_behind_its_end_finds_that_out(store: JobStore, state: str) -> None:
    """D7: its worker died between the outcome and the acknowledgement; nothing is changed until somebody decides."""
    first = started(store)
    first.progress(99)
    first.end(state)
    before = snapshot(store)
    begun = started(store, token=LATE, redelivered=True).begun
    assert (begun.fence, begun.created_ms) == (Verdict.ENDED, NOW_MS - 500)
    assert snapshot(store) == before


@pytest.mark.parametrize("state", FINAL)
def test_a_message_whose_outcome_nobody_else_has_may_be_run_again(store: JobStore, state: str) -> None:
    """D7: the worker died between the record and the result backend; the same job goes on, with what it had."""
    first = started(store)
    first.logs("of the first")
    first.end(state)
    again = started(store, token=LATE, redelivered=True, anyway=True)
    assert (again.begun.delivery, again.begun.stalls) == (2, 0)
    assert again.fence > first.fence
    assert (status(store).state, messages(store)) == ("STARTED", ["of the first"])
    assert again.end() is Reply.ACCEPTED


@pytest.mark.parametrize("state", ["STARTED", Outcome.RETRY, Outcome.LOST, *FINAL])
def test_a_message_whose_retry_has_begun_is_not_run_again(store: JobStore, state: str) -> None:
    """I4: its worker died between the retry and the acknowledgement."""
    started(store).end_in_retry()
    second = started(store, tag="tag-2", attempt=2)
    if state == Outcome.RETRY:
        second.end_in_retry()
    elif state == Outcome.LOST:
        store.lose(loss(tag="tag-2", attempt=2))
    elif state != "STARTED":
        second.end(state)
    before = snapshot(store)
    assert started(store, token=LATE, redelivered=True).begun.fence == Verdict.RETRIED
    assert snapshot(store) == before


def test_a_message_whose_retry_was_only_announced_is_run_again(store: JobStore) -> None:
    """I4: its worker may have died before the retry's message was sent; else the job would be lost."""
    started(store).end_in_retry()
    again = started(store, token=LATE, redelivered=True)
    assert (again.begun.delivery, again.begun.stalls) == (2, 0)


@pytest.mark.parametrize("fence", [0, EARLY + 5_000, LATE])
@pytest.mark.parametrize("state", FINAL)
def test_a_first_delivery_that_registers_behind_the_end_of_its_message_is_superseded(
    store: JobStore, state: str, fence: int
) -> None:
    """D7: its process hung, the message was delivered again, and the job has ended since; whatever its clock says."""
    started(store, token=EARLY + 1, redelivered=True).end(state)
    before = snapshot(store)
    assert started(store, fence=fence).begun.fence == Verdict.SUPERSEDED
    assert snapshot(store) == before


@pytest.mark.parametrize("state", FINAL)
@pytest.mark.parametrize("redelivered", [False, True])
def test_an_id_that_is_sent_anew_has_another_tag_and_is_a_job_of_its_own(store: JobStore, state: str, redelivered: bool) -> None:
    """B3: also where its message was put back before it began: a worker that shuts down puts back what it has not begun."""
    first = started(store)
    first.logs("of the first")
    first.progress(99)
    first.checkpoint(1)
    store.lose(loss())
    started(store, token=LATE, redelivered=True).end(state)
    fence = snapshot(store).fields["f"]
    second = started(store, tag="tag-2", token=LATE + 1, redelivered=redelivered, created_ms=0, now_ms=NOW_MS + 60_000)
    assert (second.begun.checkpoint, second.begun.attempts, second.begun.stalls) == (None, (), 0)
    assert (second.begun.created_ms, second.fence > fence) == (NOW_MS + 60_000, True)
    assert (messages(store), progress_of(store.read("job-1"))[0]) == ([], None)


@pytest.mark.parametrize("state", FINAL)
def test_an_id_that_is_sent_anew_is_known_by_its_stamp_even_behind_a_retry(store: JobStore, state: str) -> None:
    """B4: its message was put back before it began, and the job before it had two attempts: it is no stale message of that."""
    started(store).end_in_retry()
    started(store, tag="tag-2", attempt=2).end(state)
    second = started(store, tag="tag-3", token=LATE, redelivered=True, created_ms=NOW_MS + 500)
    assert second.fence > 0
    assert (second.begun.created_ms, second.begun.attempts, status(store).attempt) == (NOW_MS + 500, (), 1)


def test_a_replaced_task_is_not_taken_for_one_whose_retry_has_begun(store: JobStore) -> None:
    """F2, A6: the first stage was replaced in its second attempt; the next stage counts from one again."""
    started(store).end_in_retry()
    started(store, tag="tag-2", attempt=2).end(Outcome.IGNORED)
    begun = started(store, tag="tag-3", token=LATE, redelivered=True).begun
    assert (begun.fence > 0, begun.delivery, [record.number for record in begun.attempts]) == (True, 2, [1])


def test_a_clock_that_lags_behind_is_told_so_for_a_task_that_was_replaced(store: JobStore) -> None:
    """F2: the second stage is then given a larger fence, once: it is neither delivered twice nor lost by that."""
    started(store).end(Outcome.IGNORED)
    begin = Begin("job-1", "shop.work", 1, "w2@host", NOW_MS, NOW_MS, fence=EARLY, tag="tag-2", token=EARLY)
    assert store.report([Report("job-1", EARLY, NOW_MS, begin=begin)]) == [Reply.UNKNOWN]
    begun = store.begin(msgspec.structs.replace(begin, fence=0))
    assert (begun.delivery, begun.stalls, begun.attempts) == (1, 0, ())


def test_a_registration_whose_answer_was_lost_counts_once_whatever_happened_before(store: JobStore) -> None:
    """L1: the losses of the job are in the second answer, too."""
    started(store)
    store.lose(loss())
    first = started(store, token=LATE, redelivered=True, fence=LATE)
    again = started(store, token=LATE, redelivered=True, fence=LATE)
    assert (again.fence, again.begun.delivery, again.begun.stalls) == (first.fence, 2, 1)


def test_a_checkpoint_that_comes_with_the_success_is_cleared_by_it(store: JobStore) -> None:
    """E8: both may be in one report, and success clears what came before it."""
    execution = started(store)
    ended = Ended(Outcome.SUCCESS, NOW_MS + 5)
    assert execution.send(Report("job-1", execution.fence, NOW_MS, checkpoint=b"\x07", ended=ended)) is Reply.ACCEPTED
    assert "k" not in snapshot(store).fields


# --- records of older versions, in Redis alone -------------------------------------------------------------------------------


def made_old(store: RedisStore) -> None:
    """Let the record be one that a version has written which knew neither deliveries nor losses."""
    found = admin(store)
    assert found.client.hdel(store.keys.of("job-1")[0], "l", "o", "x", "y") >= 2


def test_a_delivery_of_an_older_version_is_lost_with_its_worker(any_redis: RedisStore) -> None:
    """Fault 22, D5, D6: nobody can tell which delivery it is; the next one counts the loss, and finds what there was."""
    first = started(any_redis)
    first.checkpoint({"row": 7})
    made_old(any_redis)
    due = Due("tag-1", "job-1", "shop.work", 1, 0.5)
    assert any_redis.lose(loss_of(due, fields_of(any_redis), NOW_MS + 3_000)) == NOTHING
    begun = started(any_redis, token=LATE, redelivered=True).begun
    assert (begun.delivery, begun.stalls, unpack(begun.checkpoint or b"")) == (2, 1, {"row": 7})
    assert [record.outcome for record in begun.attempts] == [Outcome.LOST]
    assert any_redis.lose(loss(token=LATE)) == Lost(2)


@pytest.mark.parametrize("state", [Outcome.LOST, Outcome.REJECTED])
def test_a_job_of_an_older_version_that_is_cancelled_does_not_come_back(any_redis: RedisStore, state: str) -> None:
    """Fault 22, G2: its message is taken for the one that the request was for."""
    first = started(any_redis)
    any_redis.lose(loss()) if state == Outcome.LOST else first.end(state)
    made_old(any_redis)
    assert any_redis.cancel(CancelRequest("job-1", NOW_MS + 4_000)) is CancelOutcome.CANCELLED
    assert started(any_redis, token=LATE, redelivered=True).begun.fence == Verdict.CANCELLED


def test_a_job_of_an_older_version_that_runs_goes_on(any_redis: RedisStore) -> None:
    """Fault 22: its process was not replaced yet; what it says is taken, and so is its end."""
    first = started(any_redis)
    made_old(any_redis)
    assert [first.progress(1), first.logs("goes on"), first.end()] == [Reply.ACCEPTED] * 3
    assert (status(any_redis).state, status(any_redis).stalls, status(any_redis).refused) == (Outcome.SUCCESS, 0, 0)
