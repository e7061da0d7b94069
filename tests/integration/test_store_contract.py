"""The contract of a job store, on the in-memory twin and on Redis in every shape in which people run it."""

from __future__ import annotations

import select
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import redis
from kombu.exceptions import EncodeError

from taskora_celery.encoding import pack, unpack
from taskora_celery.errors import StoreUnavailableError
from taskora_celery.outcomes import fail_unstored
from taskora_celery.reading import Follower, logs_of, progress_of, status_of
from taskora_celery.records import AttemptRecord, Outcome
from taskora_celery.redaction import Redactor
from taskora_celery.store.announcements import unpacked
from taskora_celery.store.connect import Endpoint
from taskora_celery.store.journal import decode
from taskora_celery.store.memory import MemoryStore
from taskora_celery.store.protocol import (
    Begin,
    CancelOutcome,
    CancelRequest,
    Ended,
    JobStore,
    Lost,
    Reply,
    Report,
    Shutdown,
    Verdict,
)
from taskora_celery.store.redis import RedisStore
from taskora_celery.store.wire import Wire
from tests.support.cancels import CANCEL_MS, OUTCOMES, job_in, loss, request
from tests.support.executions import NOW_MS, ScriptedExecution
from tests.support.store_fixtures import LOG_LIMIT, TTL, admin, differences, dropped, logs, messages, snapshot
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskora_celery.store.protocol import Announcements
    from tests.support.redis_topologies import RedisCluster

#: Ids that could break a key, a hash tag, a channel or a pattern.
ODD_IDS = (
    "a{b}c", "{}", "}{", "{", "}", "100%", "%7B", "ünïcode-日本-🎉", "new\nline", "tab\tand space", "*?[x]\\", "", " ", "a:job",
    "x" * 2_000, "\r\n$3\r\nfoo", "nul\x00byte", "__proto__",
)  # fmt: skip


# --- begin -------------------------------------------------------------------------------------------------------------


def test_the_first_delivery_of_a_job_is_number_one_with_nothing_before_it(store: JobStore) -> None:
    """B3: the handler of a fresh job sees delivery 1, no history and no checkpoint."""
    begun = ScriptedExecution(store).begun
    assert (begun.delivery, begun.checkpoint, begun.attempts, begun.created_ms) == (1, None, (), NOW_MS - 500)


def test_a_job_that_began_reads_as_started(store: JobStore) -> None:
    """J2: the record says at once who runs what since when."""
    ScriptedExecution(store)
    status = status_of("job-1", store.read("job-1"), LOG_LIMIT)
    assert (status.state, status.name, status.worker, status.started_ms) == ("STARTED", "shop.work", "w1@host", NOW_MS)
    assert (status.attempt, status.delivery, status.alive_ms, status.ended_ms) == (1, 1, NOW_MS, None)


def test_a_redelivery_counts_a_delivery_and_not_an_attempt(store: JobStore) -> None:
    """B2, B3: the broker delivering the same attempt again is not the job's fault."""
    ScriptedExecution(store)
    again = ScriptedExecution(store, worker="w2@host", now_ms=NOW_MS + 1_000, redelivered=True)
    status = status_of("job-1", store.read("job-1"), LOG_LIMIT)
    assert (again.begun.delivery, status.attempt, status.delivery) == (2, 1, 2)


def test_a_delivery_that_nobody_heard_of_again_is_recorded_as_lost(store: JobStore) -> None:
    """B6: the next delivery sees which worker took the last one with it."""
    ScriptedExecution(store)
    again = ScriptedExecution(store, worker="w2@host", now_ms=NOW_MS + 1_500, redelivered=True)
    expected = AttemptRecord(1, 1, "w1@host", NOW_MS, Outcome.LOST, 1.5, "no outcome from w1@host")
    assert again.begun.attempts == (expected,)
    assert snapshot(store).attempts == (expected,)
    assert again.begun.unheard


def test_what_was_told_of_is_not_found_again(store: JobStore) -> None:
    """D6: what is counted by who finds it out must not be counted where somebody has said it, nor where nothing was lost."""
    first = ScriptedExecution(store, tag="t1", token=1)
    store.lose(loss())
    second = ScriptedExecution(store, redelivered=True, tag="t1", token=2)
    second.end_in_retry()
    third = ScriptedExecution(store, attempt=2, tag="t2", token=3)
    assert [execution.begun.unheard for execution in (first, second, third)] == [False, False, False]


def test_the_next_attempt_begins_with_delivery_one_and_the_record_of_the_retry(store: JobStore) -> None:
    """B6, I4: a retry leaves its reason, delay and next time to the next attempt."""
    ScriptedExecution(store).end_in_retry("rate limited", 30.0)
    begun = ScriptedExecution(store, attempt=2, now_ms=NOW_MS + 40_000).begun
    (record,) = begun.attempts
    assert (begun.delivery, record.number, record.outcome, record.reason) == (1, 1, Outcome.RETRY, "rate limited")
    assert (record.delay, record.next_ms, record.error) == (30.0, NOW_MS + 32_000, "OSError")


def test_the_creation_time_is_that_of_the_first_receipt(store: JobStore) -> None:
    """B4: a later delivery, which may not know it, does not change it."""
    ScriptedExecution(store, created_ms=NOW_MS - 9_000)
    assert ScriptedExecution(store, redelivered=True, created_ms=NOW_MS).begun.created_ms == NOW_MS - 9_000


def test_the_fence_grows_with_each_delivery_and_each_attempt(store: JobStore) -> None:
    """D7: users guard their own writes with it, so a later execution always has the larger one."""
    first = ScriptedExecution(store)
    second = ScriptedExecution(store, redelivered=True)
    second.end_in_retry()
    third = ScriptedExecution(store, attempt=2)
    assert first.fence < second.fence < third.fence


def test_the_fence_grows_over_the_loss_of_the_record(any_redis: RedisStore) -> None:
    """D7: a zombie of a job whose record expired must not hold a larger fence than its successor."""
    before = [ScriptedExecution(any_redis, redelivered=True).fence for _ in range(3)][-1]
    forget(any_redis, "job-1")
    assert any_redis.read("job-1") is None
    wait_for_clock(any_redis, before)
    assert ScriptedExecution(any_redis).fence > before


def test_history_keeps_the_newest_hundred(store: JobStore) -> None:
    """L3: a job that circles for ever does not grow for ever."""
    for n in range(104):
        ScriptedExecution(store, now_ms=NOW_MS + n, redelivered=n > 0)
    attempts = snapshot(store).attempts
    assert [record.delivery for record in attempts] == list(range(4, 104))


def test_the_checkpoint_of_an_earlier_delivery_is_handed_to_the_next(store: JobStore) -> None:
    """E8: this is what a restart continues from."""
    first = ScriptedExecution(store)
    first.checkpoint({"row": 41})
    first.checkpoint({"row": 42})
    checkpoint = ScriptedExecution(store, redelivered=True).begun.checkpoint
    assert checkpoint is not None
    assert unpack(checkpoint) == {"row": 42}


@pytest.mark.parametrize("state", [Outcome.RETRY, Outcome.FAILURE, Outcome.REJECTED])
def test_the_checkpoint_outlives_an_attempt_that_did_not_succeed(store: JobStore, state: str) -> None:
    """E8, I3: only success clears it."""
    first = ScriptedExecution(store)
    first.checkpoint(7)
    first.end_in_retry() if state == Outcome.RETRY else first.end(state)
    assert ScriptedExecution(store, attempt=2).begun.checkpoint is not None


@pytest.mark.parametrize("state", [Outcome.RETRY, Outcome.REJECTED, Outcome.FAILURE])
def test_a_checkpoint_that_comes_with_the_end_of_an_attempt_is_kept(store: JobStore, state: str) -> None:
    """E8, I3: the handler's last word before it stopped; both go out in one report."""
    first = ScriptedExecution(store)
    first.send(Report("job-1", first.fence, NOW_MS, checkpoint=pack(7), ended=Ended(state, NOW_MS)))
    assert unpack(ScriptedExecution(store, attempt=2).begun.checkpoint or b"") == 7


def test_success_clears_the_checkpoint(store: JobStore) -> None:
    """E8: a job that is run again after its success begins from the start."""
    first = ScriptedExecution(store)
    first.checkpoint(7)
    first.end()
    assert ScriptedExecution(store, redelivered=True).begun.checkpoint is None
    assert "k" not in snapshot(store).fields


def test_progress_is_kept_over_a_retry_until_the_next_report(store: JobStore) -> None:
    """E4: a waiting job shows how far it came."""
    first = ScriptedExecution(store)
    first.progress(40)
    first.end_in_retry()
    second = ScriptedExecution(store, attempt=2)
    assert progress_of(store.read("job-1"))[0] == 40
    second.progress(5)
    assert progress_of(store.read("job-1"))[0] == 5


@pytest.mark.parametrize("state", [Outcome.SUCCESS, Outcome.FAILURE, Outcome.REVOKED])
def test_an_id_that_is_sent_anew_after_its_end_is_a_new_job(store: JobStore, state: str) -> None:
    """B3: `task_id=` may be used twice; the logs and attempts of the first job are not the second's."""
    first = ScriptedExecution(store)
    first.progress(99)
    first.checkpoint(1)
    first.logs("of the first")
    first.end(state)
    second = ScriptedExecution(store, now_ms=NOW_MS + 60_000, created_ms=NOW_MS + 59_000)
    assert second.begun == type(second.begun)(second.fence, 1, NOW_MS + 59_000)
    assert second.fence > first.fence
    assert messages(store) == []
    assert progress_of(store.read("job-1"))[0] is None


def test_a_redelivery_after_the_end_keeps_the_record(store: JobStore) -> None:
    """B3: the worker died between the outcome and the acknowledgement: the same job, delivered again."""
    first = ScriptedExecution(store)
    first.logs("kept")
    first.end()
    again = ScriptedExecution(store, redelivered=True)
    assert (again.begun.delivery, again.begun.attempts) == (2, ())
    assert messages(store) == ["kept"]


def test_the_outcome_of_an_attempt_is_gone_when_the_next_begins(store: JobStore) -> None:
    """J2: a running job has no end, reason or error."""
    ScriptedExecution(store).end_in_retry()
    ScriptedExecution(store, attempt=2)
    assert not {"e", "r", "z"} & set(snapshot(store).fields)


def begin_of(fence: int, **fields: Any) -> Begin:
    return Begin("job-1", "shop.work", fields.pop("attempt", 1), "w1@host", NOW_MS, NOW_MS, fence=fence, **fields)


def test_a_delivery_may_be_registered_with_its_first_report(store: JobStore) -> None:
    """P15: a first delivery needs to know nothing, so it takes the time as its fence and costs no round trip of its own."""
    report = Report("job-1", NOW_MS, NOW_MS, begin=begin_of(NOW_MS), ended=Ended(Outcome.SUCCESS, NOW_MS + 5))
    assert store.report([report]) == [Reply.ACCEPTED]
    status = status_of("job-1", store.read("job-1"), LOG_LIMIT)
    assert (status.state, status.name, status.attempt, status.delivery) == (Outcome.SUCCESS, "shop.work", 1, 1)
    assert snapshot(store).fields["f"] == NOW_MS


def test_a_registration_that_is_sent_again_counts_once(store: JobStore) -> None:
    """L1: its answer may have been lost."""
    report = Report("job-1", NOW_MS, NOW_MS, begin=begin_of(NOW_MS), progress=b"\x01")
    store.report([report])
    before = snapshot(store)
    assert store.report([report]) == [Reply.ACCEPTED]
    assert snapshot(store) == before


@pytest.mark.parametrize("token", [7, 0], ids=["fenced", "without a token"])
def test_a_beginning_whose_answer_was_lost_is_no_second_delivery(store: JobStore, token: int) -> None:
    """Fault 14, B3, D6: the execution takes a fence of its own and registers once more; nothing was lost with it."""
    begin = begin_of(0, tag="tag", token=token)
    lost = store.begin(begin)
    own = lost.fence + 1_000
    report = Report("job-1", own, NOW_MS, begin=msgspec.structs.replace(begin, fence=own), progress=b"\x01")
    assert store.report([report]) == [Reply.ACCEPTED]
    assert store.report([report]) == [Reply.ACCEPTED]
    status = status_of("job-1", store.read("job-1"), LOG_LIMIT)
    assert (status.state, status.delivery, snapshot(store).fields["f"]) == ("STARTED", 1, own)
    assert snapshot(store).attempts == ()
    assert "x" not in snapshot(store).fields, "no loss counts against the job"
    other = store.begin(begin_of(0, tag="tag", token=token + 1, redelivered=True))
    assert (other.delivery, len(other.attempts)) == (2, 1)


def test_a_beginning_that_was_answered_by_a_clock_ahead_is_no_zombie(store: JobStore) -> None:
    """Fault 14, D7: the fence that it takes for itself may be older than the one that it was given and does not know."""
    begin = begin_of(0, tag="tag", token=7)
    lost = store.begin(begin)
    late = lost.fence - 1_000
    report = Report("job-1", late, NOW_MS, begin=msgspec.structs.replace(begin, fence=late))
    assert store.report([report]) == [Reply.UNKNOWN]
    begun = store.begin(begin)
    assert (begun.fence > lost.fence, begun.delivery, begun.stalls) == (True, 1, 0)


def test_a_beginning_whose_answer_was_lost_is_still_asked_to_stop(store: JobStore) -> None:
    """Fault 14, G3: a cancel that was requested meanwhile is one of a job that runs."""
    begin = begin_of(0, tag="tag", token=7)
    own = store.begin(begin).fence + 1_000
    assert store.cancel(CancelRequest("job-1", NOW_MS, reason="enough")) is CancelOutcome.REQUESTED
    assert store.report([Report("job-1", own, NOW_MS, begin=msgspec.structs.replace(begin, fence=own))]) == [Reply.STOPPING]
    assert status_of("job-1", store.read("job-1"), LOG_LIMIT).state == "STARTED"


def test_an_end_that_celery_has_stored_stands_whatever_was_requested(store: JobStore) -> None:
    """Fault 21, G7: it ended while the store was away, and was to be cancelled before the store heard of it."""
    begun = store.begin(begin_of(0, tag="tag", token=7))
    store.cancel(CancelRequest("job-1", NOW_MS, reason="enough"))
    ended = Ended(Outcome.SUCCESS, NOW_MS + 5)
    assert store.report([Report("job-1", begun.fence, NOW_MS, ended=ended)]) == [Reply.CANCELLED]
    assert status_of("job-1", store.read("job-1"), LOG_LIMIT).state == "STARTED"
    stands = msgspec.structs.replace(ended, stands=True)
    assert store.report([Report("job-1", begun.fence, NOW_MS, ended=stands)]) == [Reply.STOPPING]
    assert status_of("job-1", store.read("job-1"), LOG_LIMIT).state == Outcome.SUCCESS


def test_a_success_whose_result_celery_could_not_keep_becomes_a_failure(store: JobStore) -> None:
    """A6, I4: by who holds its fence; the reason is there, and a reader that comes now knows of one end."""
    begun = store.begin(begin_of(0, tag="tag", token=7))
    store.report([Report("job-1", begun.fence, NOW_MS, ended=Ended(Outcome.SUCCESS, NOW_MS + 5))])
    fail_unstored(store, Redactor(), "job-1", "another", EncodeError("no set in JSON"))
    assert status_of("job-1", store.read("job-1"), LOG_LIMIT).state == Outcome.SUCCESS, "the id was sent again"
    for _ in range(2):
        fail_unstored(store, Redactor(), "job-1", "tag", EncodeError("no set in JSON, token=hunter2"))
    status = status_of("job-1", store.read("job-1"), LOG_LIMIT)
    assert (status.state, status.error, status.reason) == (Outcome.FAILURE, "EncodeError", "no set in JSON, token=[redacted]")
    assert status.ended_ms == NOW_MS + 5
    assert [event.data["state"] for event in Follower().feed(store.read("job-1", 0)) if event.kind == "state"] == [
        "STARTED",
        "FAILURE",
    ]


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_job_that_is_over_before_it_is_registered_is_not_cancelled(store: JobStore, attempt: int) -> None:
    """Fault 21, G7: it was cancelled as one that waits, while it ran, or its retry did, and the store was away."""
    if attempt == 2:
        ScriptedExecution(store).end_in_retry("later", 1.0)
    request = CancelRequest("job-1", NOW_MS, reason="enough")
    assert store.cancel(request, queued=True) is CancelOutcome.CANCELLED
    own = NOW_MS * 1_000_000
    begin = begin_of(own, attempt=attempt, tag="another", token=8)
    report = Report("job-1", own, NOW_MS, begin=begin, ended=Ended(Outcome.SUCCESS, NOW_MS + 5, stands=True))
    over = msgspec.structs.replace(report, begin=msgspec.structs.replace(begin, over=True))
    if attempt == 2:
        assert store.report([report]) == [Reply.SUPERSEDED]
    assert store.report([over]) == [Reply.STOPPING]
    status = status_of("job-1", store.read("job-1"), LOG_LIMIT)
    assert (status.state, status.attempt) == (Outcome.SUCCESS, attempt)


def test_a_lost_job_that_is_over_before_it_is_registered_is_not_cancelled(store: JobStore) -> None:
    """Fault 21, G7: its worker died, it was to be cancelled, and the next delivery ran and ended while the store was away."""
    lost = ScriptedExecution(store)
    store.cancel(CancelRequest("job-1", NOW_MS, reason="enough"))
    own = max(NOW_MS * 1_000_000, lost.fence + 1_000)
    begin = begin_of(own, redelivered=True, token=9, over=True)
    report = Report("job-1", own, NOW_MS, begin=begin, ended=Ended(Outcome.SUCCESS, NOW_MS + 5, stands=True))
    assert store.report([report]) == [Reply.STOPPING]
    status = status_of("job-1", store.read("job-1"), LOG_LIMIT)
    assert (status.state, status.delivery) == (Outcome.SUCCESS, 2)


def test_a_registration_that_comes_after_a_later_delivery_is_superseded(store: JobStore) -> None:
    """D7: a zombie must not take the fence back by registering late."""
    late = NOW_MS
    current = ScriptedExecution(store, redelivered=True)
    assert current.fence > late
    before = snapshot(store)
    assert store.begin(begin_of(late)).fence == Verdict.SUPERSEDED
    assert snapshot(store) == before
    assert store.report([Report("job-1", late, NOW_MS, begin=begin_of(late), progress=b"\x01")]) == [Reply.SUPERSEDED]
    assert differences(before, snapshot(store)) == {"y": 1}


def test_a_registration_is_not_superseded_by_a_job_that_had_ended(store: JobStore) -> None:
    """B3: the id was sent anew; a clock that lags behind is told so, changes nothing, and is then given a larger fence."""
    first = ScriptedExecution(store)
    first.logs("of the first")
    first.end()
    late = NOW_MS
    assert store.report([Report("job-1", late, NOW_MS, begin=begin_of(late))]) == [Reply.UNKNOWN]
    assert messages(store) == ["of the first"]
    assert store.begin(begin_of(0)).fence > first.fence
    assert messages(store) == []


@pytest.mark.parametrize("created_ms", [NOW_MS - 500, 0])
@pytest.mark.parametrize("state", [Outcome.SUCCESS, Outcome.FAILURE, Outcome.REVOKED])
def test_an_attempt_that_is_told_of_behind_the_end_of_the_next_changes_nothing(
    store: JobStore, state: str, created_ms: int
) -> None:
    """L1, D7: its worker was in an outage, and so was its retry; another worker's attempt has ended the job since."""
    last = ScriptedExecution(store, attempt=2, worker="w2@host", tag="tag-2", token=2, created_ms=created_ms, now_ms=NOW_MS + 100)
    last.logs("of the last")
    last.end(state)
    before = snapshot(store)
    begin = Begin("job-1", "shop.work", 1, "w1@host", created_ms, NOW_MS, tag="tag-1", token=1, fence=NOW_MS * 1_000)
    ended = Ended(Outcome.RETRY, NOW_MS + 50)
    assert store.report([Report("job-1", begin.fence, NOW_MS, begin=begin, ended=ended)]) == [Reply.SUPERSEDED]
    assert store.begin(begin).fence == Verdict.SUPERSEDED
    assert differences(before, snapshot(store)).keys() <= {"y"}
    assert messages(store) == ["of the last"]


def test_an_attempt_that_is_told_of_behind_the_cancel_of_the_next_changes_nothing(store: JobStore) -> None:
    """G2, G7: nobody knew of it when its job was cancelled; the retry's message came, and was dropped."""
    assert store.cancel(CancelRequest("job-1", NOW_MS + 60, "enough"), queued=True) is CancelOutcome.CANCELLED
    retry = Begin("job-1", "shop.work", 2, "w2@host", NOW_MS - 500, NOW_MS + 100, tag="tag-2", token=2)
    assert store.begin(retry).fence == Verdict.CANCELLED
    begin = Begin("job-1", "shop.work", 1, "w1@host", NOW_MS - 500, NOW_MS, tag="tag-1", token=1, fence=NOW_MS * 1_000)
    report = Report("job-1", begin.fence, NOW_MS, begin=begin, ended=Ended(Outcome.RETRY, NOW_MS + 50))
    before = snapshot(store)
    assert store.report([report]) == [Reply.UNKNOWN], "there is no fence yet: it asks for one"
    assert store.begin(msgspec.structs.replace(begin, fence=0)).fence == Verdict.SUPERSEDED
    assert snapshot(store) == before


def test_a_task_that_was_replaced_keeps_the_log_of_its_first_stage(store: JobStore) -> None:
    """F2: `self.replace` ends the first stage as IGNORED; the second has the same id, and the job's log goes on."""
    first = ScriptedExecution(store)
    first.logs("of the first")
    first.end(Outcome.IGNORED)
    second = ScriptedExecution(store)
    second.logs("of the second")
    assert messages(store) == ["of the first", "of the second"]
    assert second.begun.delivery == 1


# --- report ------------------------------------------------------------------------------------------------------------


def test_a_report_of_an_unknown_job_is_answered_so_and_leaves_nothing(store: JobStore) -> None:
    """L1: the reporter registers the job anew then; a half record would hide that it is lost."""
    report = Report("job-1", 1, NOW_MS, progress=b"\x01")
    assert store.report([report]) == [Reply.UNKNOWN]
    assert store.read("job-1", 0, attempts=True) is None


def test_a_superseded_execution_can_change_nothing(store: JobStore) -> None:
    """D7: neither progress, logs, checkpoint, sign of life, outcome nor history of a zombie are taken; they are counted."""
    zombie = ScriptedExecution(store)
    current = ScriptedExecution(store, worker="w2@host", now_ms=NOW_MS + 1_000, redelivered=True)
    current.progress(50)
    current.logs("of the current one")
    before = snapshot(store)
    zombie.now_ms = NOW_MS + 5_000
    replies = [zombie.progress(1), zombie.logs("of the zombie"), zombie.checkpoint(1), zombie.end(), zombie.end_in_retry()]
    assert replies == [Reply.SUPERSEDED] * 5
    assert differences(before, snapshot(store)) == {"y": 5}
    assert status_of("job-1", store.read("job-1"), LOG_LIMIT).refused == 5


def test_the_end_of_an_attempt_is_stored_with_its_reason(store: JobStore) -> None:
    """J2: the record tells why."""
    ScriptedExecution(store).end(Outcome.FAILURE, "no such row", "LookupError")
    status = status_of("job-1", store.read("job-1"), LOG_LIMIT)
    assert (status.state, status.reason, status.error) == (Outcome.FAILURE, "no such row", "LookupError")
    assert status.ended_ms == NOW_MS + 2_000


def test_a_report_is_a_sign_of_life(store: JobStore) -> None:
    """D1: even one that says nothing else."""
    execution = ScriptedExecution(store)
    assert execution.send(Report("job-1", execution.fence, NOW_MS + 700)) is Reply.ACCEPTED
    assert status_of("job-1", store.read("job-1"), LOG_LIMIT).alive_ms == NOW_MS + 700


def test_the_last_entries_of_an_attempt_that_ended_in_a_retry_are_welcome(store: JobStore) -> None:
    """F4: with no delay the next attempt may begin before the last one has unwound."""
    first = ScriptedExecution(store)
    first.logs("a")
    first.end_in_retry()
    second = ScriptedExecution(store, attempt=2)
    second.logs("c")
    assert first.logs("b") is Reply.ACCEPTED
    assert [(entry.message, entry.attempt) for entry in logs(store)] == [("a", 1), ("c", 2), ("b", 1)]


def test_nothing_else_of_an_attempt_that_ended_in_a_retry_is_welcome(store: JobStore) -> None:
    """D7: its progress, checkpoint, sign of life and end would overwrite those of the next attempt."""
    first = ScriptedExecution(store)
    first.end_in_retry()
    second = ScriptedExecution(store, attempt=2)
    second.progress(10)
    before = snapshot(store).fields
    first.now_ms = NOW_MS + 9_000
    for reply in (first.progress(99), first.checkpoint(1), first.end()):
        assert reply is Reply.ACCEPTED
    assert snapshot(store).fields == before


def test_late_entries_are_refused_once_the_attempt_after_the_next_began(store: JobStore) -> None:
    """D7: what is that late comes from a zombie."""
    first = ScriptedExecution(store)
    first.end_in_retry()
    ScriptedExecution(store, attempt=2).end_in_retry()
    ScriptedExecution(store, attempt=3)
    assert first.logs("too late") is Reply.SUPERSEDED


def test_a_repeated_report_of_late_entries_changes_nothing_more(store: JobStore) -> None:
    """F5: sending again after a lost answer is safe for these, too."""
    first = ScriptedExecution(store)
    first.logs("a")
    first.end_in_retry()
    ScriptedExecution(store, attempt=2)
    report = first.made("b")
    first.send(report)
    first.send(report)
    assert messages(store) == ["a", "b"]


def test_sending_a_report_again_changes_nothing_more(store: JobStore) -> None:
    """L1: an answer may be lost where the report was not."""
    execution = ScriptedExecution(store)
    report = execution.made("a", "b", progress=b"\x01")
    execution.send(report)
    before = snapshot(store)
    assert execution.send(report) is Reply.ACCEPTED
    assert snapshot(store) == before


def retried(execution: ScriptedExecution, *messages: str) -> Report:
    """The last report of an attempt that ends in a retry."""
    keep = AttemptRecord(1, 1, execution.worker, NOW_MS, Outcome.RETRY, 1.5, "busy", "OSError", 30.0, NOW_MS + 31_500)
    return execution.made(*messages, ended=Ended(Outcome.RETRY, NOW_MS + 1_500, "busy", "OSError", keep))


def test_a_retry_is_in_the_journal_behind_what_was_said_before_it(store: JobStore) -> None:
    """I4: who follows the job reads of it in its place, with the time of the next attempt."""
    execution = ScriptedExecution(store)
    execution.send(retried(execution, "a"))
    log, state = decode(snapshot(store).journal)
    assert (log.kind, log.seq, state.kind, state.seq, state.timestamp) == ("log", 0, "state", 1, NOW_MS + 1_500)
    told = {"attempt": 1, "state": "RETRY", "reason": "busy", "error": "OSError", "delay": 30.0, "next_ms": NOW_MS + 31_500}
    assert state.data == told
    ScriptedExecution(store, attempt=2).logs("b")
    assert [event.seq for event in decode(snapshot(store).journal)] == [0, 1, 2]


def test_an_end_that_is_sent_again_is_kept_once(store: JobStore) -> None:
    """I4, L1: an attempt whose last answer was lost stands in the history once, and so does its retry in the journal."""
    execution = ScriptedExecution(store)
    report = retried(execution, "a")
    execution.send(report)
    before = snapshot(store)
    execution.send(report)
    assert snapshot(store) == before
    assert [record.number for record in before.attempts] == [1]


def test_a_retry_that_is_refused_leaves_no_trace(store: JobStore) -> None:
    """I4, G7: the job ends as cancelled; nobody is told of a retry that never comes."""
    execution = ScriptedExecution(store)
    store.cancel(request())
    assert execution.send(retried(execution, "a")) is Reply.CANCELLED
    assert [event.kind for event in decode(snapshot(store).journal)] == ["cancel", "log"]
    assert snapshot(store).attempts == ()


def test_a_report_that_repeats_some_batches_adds_only_the_others(store: JobStore) -> None:
    """L1: after a lost answer the reporter sends the old batches with the new."""
    execution = ScriptedExecution(store)
    first = execution.made("a", "b")
    execution.send(first)
    second = execution.made("c")
    execution.send(Report("job-1", execution.fence, NOW_MS, batches=first.batches + second.batches))
    assert messages(store) == ["a", "b", "c"]
    assert [entry.seq for entry in logs(store)] == [0, 1, 2]


def test_a_jump_in_the_numbers_counts_as_dropped(store: JobStore) -> None:
    """F3: entries that were dropped in the worker's memory are shown as a gap, and counted."""
    execution = ScriptedExecution(store)
    execution.logs("a")
    execution.logs("b", first=8)
    assert [(entry.message, entry.seq) for entry in logs(store)] == [("a", 0), ("b", 8)]
    status = status_of("job-1", store.read("job-1"), LOG_LIMIT)
    assert (status.logs, status.dropped_logs) == (9, 7)


def test_the_journal_is_trimmed_to_the_limit_by_whole_batches(store: JobStore) -> None:
    """F3: the newest entries are kept, at least the limit, and what went is counted."""
    execution = ScriptedExecution(store)
    for n in range(30):
        execution.logs(f"m{n}", f"n{n}")
    assert messages(store) == [f"{kind}{n}" for n in range(20, 30) for kind in "mn"]
    assert dropped(store) == 40
    assert snapshot(store).removed == 20


def test_no_more_than_one_batch_beyond_the_limit_is_kept(store: JobStore) -> None:
    """F3: uneven batches cost at most one."""
    execution = ScriptedExecution(store)
    for size in (7, 1, 13, 19, 2, 5, 20, 3):
        execution.logs(*[f"m{n}" for n in range(size)])
        kept = snapshot(store).fields["m"]
        assert kept <= LOG_LIMIT + 20
    assert execution.number - dropped(store) == LOG_LIMIT


def test_entries_that_are_no_logs_do_not_count_against_the_limit(store: JobStore) -> None:
    """F3: the limit is on log entries."""
    execution = ScriptedExecution(store)
    for n in range(LOG_LIMIT):
        execution.send(execution.stated(state="RETRY", n=n))
        execution.logs(f"m{n}")
    assert len(messages(store)) == LOG_LIMIT
    assert dropped(store) == 0


def test_a_journal_without_log_entries_is_bounded_too(store: JobStore) -> None:
    """L3: a job that retries for ever and logs nothing has a journal that ends somewhere."""
    execution = ScriptedExecution(store)
    store.report([execution.stated(state="RETRY", n=n) for n in range(LOG_LIMIT + 1_100)])
    assert len(snapshot(store).journal) <= LOG_LIMIT + 1_000


def test_many_jobs_are_reported_in_one_call_each_with_its_answer(store: JobStore) -> None:
    """E3: one flush writes for all jobs of the process, and one stale job does not hinder the others."""
    executions = [ScriptedExecution(store, f"job-{n}") for n in range(50)]
    ScriptedExecution(store, "job-7", redelivered=True)
    reports = [execution.made(f"of {execution.id}") for execution in executions]
    replies = store.report([*reports, Report("nobody", 1, NOW_MS)])
    expected = [Reply.SUPERSEDED if n == 7 else Reply.ACCEPTED for n in range(50)]
    assert replies == [*expected, Reply.UNKNOWN]
    assert messages(store, "job-49") == ["of job-49"]


def test_more_reports_than_one_pipeline_takes_are_all_written(store: JobStore) -> None:
    """E3: pipelines are cut, reports are not."""
    execution = ScriptedExecution(store)
    replies = store.report([Report("job-1", execution.fence, NOW_MS + n) for n in range(1_101)])
    assert replies == [Reply.ACCEPTED] * 1_101
    assert snapshot(store).fields["h"] == NOW_MS + 1_100


def test_values_of_any_bytes_come_back_as_they_were(store: JobStore) -> None:
    """E2: no value can break out of its place."""
    execution = ScriptedExecution(store)
    value = {"text": "\r\n$-1\r\n", "nul": "\x00", "wide": "日本🎉", "nan": float("inf"), "big": 2**64 - 1}
    execution.progress(value)
    execution.logs("\r\n+OK\r\n", "\x1b[31mred")
    assert progress_of(store.read("job-1"))[0] == value
    assert messages(store) == ["\r\n+OK\r\n", "\x1b[31mred"]


# --- read and watch ----------------------------------------------------------------------------------------------------


def test_an_unknown_job_reads_as_none(store: JobStore) -> None:
    """J4: not as an error, and not as an empty record."""
    assert store.read("nobody") is None
    assert store.read("nobody", 3, attempts=True) is None


def test_a_read_without_the_journal_brings_none(store: JobStore) -> None:
    """J2: a status costs the same for a job with a million entries."""
    ScriptedExecution(store).logs("a")
    found = store.read("job-1")
    assert found is not None
    assert (found.journal, found.attempts) == ((), ())


def test_reading_goes_on_where_the_last_read_ended(store: JobStore) -> None:
    """F5: also when batches were trimmed from the head in between."""
    execution = ScriptedExecution(store)
    execution.logs("a")
    execution.logs("b")
    first = snapshot(store)
    skip = first.removed + len(first.journal)
    assert (first.removed, skip) == (0, 2)
    execution.logs("c")
    second = store.read("job-1", skip)
    assert second is not None
    assert logs_of(second, LOG_LIMIT, level=None, attempt=None, after=None, limit=None)[0].message == "c"
    execution.logs(*[f"m{n}" for n in range(LOG_LIMIT)])
    third = store.read("job-1", skip + 1)
    assert third is not None
    assert (third.removed, len(third.journal)) == (3, 1)


def test_skipping_what_was_trimmed_long_ago_gives_what_there_is(store: JobStore) -> None:
    """F5: a reader that was away for long gets the rest, and sees the gap by the positions."""
    execution = ScriptedExecution(store)
    for n in range(3):
        execution.logs(*[f"{n}.{m}" for m in range(LOG_LIMIT)])
    late = store.read("job-1", 1)
    assert late is not None
    assert (late.removed, len(late.journal)) == (2, 1)


@pytest.mark.parametrize("change", ["begin", "logs", "progress", "end"])
def test_each_change_of_a_job_is_announced_to_who_watches_it(store: JobStore, change: str) -> None:
    """F5: a follower need not poll."""
    execution = ScriptedExecution(store)
    with store.watch(["other", "job-1"]) as watch:
        if change == "begin":
            ScriptedExecution(store, redelivered=True)
        elif change == "logs":
            execution.logs("a")
        elif change == "progress":
            execution.progress(1)
        else:
            execution.end()
        assert watch.wait(5.0) is True


def test_other_jobs_are_not_announced(store: JobStore) -> None:
    """F5: a follower of one job is not woken by the rest of the fleet."""
    with store.watch(["job-1"]) as watch:
        ScriptedExecution(store, "job-2").logs("a")
        assert watch.wait(0.05) is False


def test_a_job_may_be_watched_twice_at_once(store: JobStore) -> None:
    """F5: who gives an id twice waits for no second confirmation."""
    execution = ScriptedExecution(store)
    with store.watch(["job-1", "job-1"]) as watch:
        execution.progress(1)
        assert watch.wait(10)


def test_who_is_not_known_to_hear_is_told_so(plain_store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """F5: a Redis that does not confirm in time; whoever believed to hear would wait for changes that it misses."""
    monkeypatch.setattr(redis.client.PubSub, "get_message", lambda *_, **__: None)
    with pytest.raises(StoreUnavailableError, match="not confirmed"), plain_store.watch(["job-1"]):
        pass


def test_an_ear_that_is_closed_is_spoken_to_no_more() -> None:
    """O3: the twin of a worker that restarts its listener for months."""
    store = MemoryStore()
    heard = store.listen()
    heard.close()
    heard.close()
    store.shut_down("w1@host")
    assert not store._listeners


def test_what_was_announced_before_the_watch_is_not_news(store: JobStore) -> None:
    """F5: one reads after one began to watch, so nothing is missed and nothing is told twice."""
    ScriptedExecution(store).logs("a")
    with store.watch(["job-1"]) as watch:
        assert watch.wait(0.05) is False


def test_many_changes_are_one_piece_of_news(store: JobStore) -> None:
    """F5: who reads gets all of them at once."""
    execution = ScriptedExecution(store)
    with store.watch(["job-1"]) as watch:
        for n in range(20):
            execution.logs(f"m{n}")
        assert watch.wait(5.0) is True
        while watch.wait(0.05):
            pass
        execution.logs("one more")
        assert watch.wait(5.0) is True


def test_any_text_can_be_an_id(store: JobStore) -> None:
    """L3: ids are the user's; an odd one is data and breaks neither keys nor channels (fault 18)."""
    for job_id in ODD_IDS:
        with store.watch([job_id]) as watch:
            execution = ScriptedExecution(store, job_id)
            execution.logs("hello")
            execution.end_in_retry()
            assert watch.wait(5.0) is True, job_id
        assert ScriptedExecution(store, job_id, attempt=2).begun.attempts[0].reason == "later"
        assert messages(store, job_id) == ["hello"]


def test_odd_ids_never_share_a_record(store: JobStore) -> None:
    """L3: escaping must not make two ids one."""
    for job_id in (*ODD_IDS, "%7B%7D", "%257B", "a%7Bb%7Dc", "%", "%25"):
        if store.read(job_id) is None:
            ScriptedExecution(store, job_id).logs(job_id)
        assert messages(store, job_id) == [job_id]


def test_two_threads_may_report_at_once(store: JobStore) -> None:
    """J3: one process has many jobs, and their ends come from many threads."""
    executions = [ScriptedExecution(store, f"job-{n}") for n in range(2)]
    start = threading.Barrier(2)
    failures: list[BaseException] = []

    def run(execution: ScriptedExecution) -> None:
        start.wait()
        try:
            for n in range(LOG_LIMIT):
                assert execution.logs(f"{execution.id} {n}") is Reply.ACCEPTED
                assert len(messages(store, execution.id)) == n + 1
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=run, args=(execution,)) for execution in executions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    for execution in executions:
        assert messages(store, execution.id) == [f"{execution.id} {n}" for n in range(LOG_LIMIT)]


def test_of_two_threads_that_begin_a_job_at_once_one_holds_the_fence(store: JobStore) -> None:
    """D7: the race is decided in the store."""
    start = threading.Barrier(2)
    found: list[ScriptedExecution] = []

    def run() -> None:
        start.wait()
        found.append(ScriptedExecution(store))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    older, newer = sorted(found, key=lambda execution: execution.fence)
    assert (older.begun.delivery, newer.begun.delivery) == (1, 2)
    assert (older.end(), newer.end()) == (Reply.SUPERSEDED, Reply.ACCEPTED)


def test_closing_twice_is_no_error_and_the_store_can_be_used_again(store: JobStore) -> None:
    """Runtime: shutdown signals of several kinds may each close it."""
    execution = ScriptedExecution(store)
    store.close()
    store.close()
    assert execution.logs("after") is Reply.ACCEPTED


# --- Redis alone -------------------------------------------------------------------------------------------------------


def forget(store: RedisStore, job_id: str) -> None:
    for key in store.keys.of(job_id):
        store._read_client().delete(key)


def wait_for_clock(store: RedisStore, beyond_us: int) -> None:
    while True:
        seconds, micros = store._read_client().time()
        if seconds * 1_000_000 + micros > beyond_us:
            return


def test_every_key_has_the_configured_ttl(any_redis: RedisStore) -> None:
    """L3: nothing that is written stays for ever."""
    first = ScriptedExecution(any_redis)
    first.logs("a")
    first.end_in_retry()
    found = admin(any_redis)
    keys = found.keys_of("job-1")
    assert len(keys) == 3
    for key in keys:
        assert TTL - 30 < found.client.ttl(key) <= TTL


@pytest.mark.parametrize("step", ["begin", "report"])
def test_every_change_renews_the_ttl_of_all_keys(plain_store: RedisStore, redis_client: redis.Redis, step: str) -> None:
    """L3: a job that runs longer than its record is kept does not lose a part of it."""
    first = ScriptedExecution(plain_store)
    first.logs("a")
    first.end_in_retry()
    second = ScriptedExecution(plain_store, attempt=2)
    keys = plain_store.keys.of("job-1")
    for key in keys:
        redis_client.expire(key, 60)
    if step == "begin":
        ScriptedExecution(plain_store, attempt=2, redelivered=True)
    else:
        second.progress(1)
    assert [redis_client.ttl(key) > 60 for key in keys] == [True, True, True]


def test_all_keys_of_a_job_are_in_one_slot(redis_cluster: RedisCluster) -> None:
    """L3: so that one script may touch them on Redis Cluster."""
    store = RedisStore(Endpoint("redis+cluster://x", global_keyprefix="tenant:"))
    with redis_cluster.client() as client:
        for job_id in ("job-1", *ODD_IDS):
            slots = {client.execute_command("CLUSTER KEYSLOT", key) for key in store.keys.of(job_id)}
            assert len(slots) == 1, job_id


def test_the_prefixes_come_before_every_key(prefixed_store: RedisStore, redis_client: redis.Redis) -> None:
    """L3: tenants of one Redis are told apart by `global_keyprefix`."""
    first = ScriptedExecution(prefixed_store)
    first.logs("a")
    first.end_in_retry()
    keys = sorted(key.decode() for key in redis_client.scan_iter())
    assert keys == [f"tenant_a:jobs.taskora:{{job-1}}:{name}" for name in ("attempts", "job", "journal")]


def test_scripts_are_loaded_again_after_a_flush(any_redis: RedisStore) -> None:
    """L1: a failover or SCRIPT FLUSH empties the cache of scripts."""
    execution = ScriptedExecution(any_redis)
    any_redis._read_client().script_flush()
    assert execution.logs("a") is Reply.ACCEPTED
    any_redis._read_client().script_flush()
    assert messages(any_redis) == ["a"]
    any_redis._read_client().script_flush()
    assert ScriptedExecution(any_redis, redelivered=True).begun.delivery == 2


def test_a_record_of_a_newer_version_is_read_as_far_as_it_is_understood(
    plain_store: RedisStore, redis_client: redis.Redis
) -> None:
    """Fault 22: unknown attempts and damaged values are left out, the rest is shown."""
    execution = ScriptedExecution(plain_store)
    execution.logs("a")
    record, journal, attempts = plain_store.keys.of("job-1")
    redis_client.rpush(attempts, b"\xff\x00junk", b"\x81\xa1x\x01")
    redis_client.rpush(journal, b"not a batch", b"5 1 1 \xff\xff")
    redis_client.expire(attempts, 60)
    redis_client.hset(record, mapping={"p": b"\xc1", "h": b"soon", "n": b"\xff\xfe"})
    found = snapshot(plain_store)
    assert found.attempts == ()
    assert messages(plain_store) == ["a"]
    assert progress_of(found) == (None, None, "unreadable")
    assert status_of("job-1", found, LOG_LIMIT).alive_ms == 0


def test_a_connection_that_the_server_closed_while_idle_is_made_anew(plain_store: RedisStore, redis_client: redis.Redis) -> None:
    """E8, L1: Redis closes idle clients (`timeout`); the next job must not lose its checkpoint to that."""
    first = ScriptedExecution(plain_store)
    first.checkpoint(7)
    for client in redis_client.client_list():
        if client["id"] != str(redis_client.client_id()):
            redis_client.client_kill_filter(_id=client["id"])
    writer = plain_store._writer
    assert isinstance(writer, Wire)
    writer._used -= 3_600  # an hour ago
    assert select.select([writer._connection._sock], [], [], 5)[0], "the end of the connection to arrive"
    assert ScriptedExecution(plain_store, redelivered=True).begun.checkpoint is not None


# --- cancel --------------------------------------------------------------------------------------------------------------


def phases(store: JobStore, job_id: str = "job-1") -> list[str]:
    return [event.data["phase"] for event in decode(snapshot(store, job_id).journal) if event.kind == "cancel"]


def state_of(store: JobStore, job_id: str = "job-1") -> tuple[str, str | None, str | None]:
    status = status_of(job_id, store.read(job_id), LOG_LIMIT)
    return status.state, status.error, status.reason


CANCELLED = (Outcome.REVOKED, "JobCancelledError", "no longer wanted")
#: How a handler ends that takes no context.
UNAWARE = Ended(Outcome.SUCCESS, NOW_MS + 2_000, unaware=True)


def test_a_job_without_a_record_is_unknown(store: JobStore) -> None:
    """G7: it changes nothing, and says so."""
    assert store.cancel(request()) is CancelOutcome.UNKNOWN
    assert (store.read("job-1", 0), store.listed(10)) == (None, [])


def test_a_job_that_waits_in_its_queue_is_cancelled_at_once(store: JobStore) -> None:
    """G2: it is known to have been sent; whoever asks reads REVOKED, and workers that start later know of it."""
    assert store.cancel(request(), queued=True) is CancelOutcome.CANCELLED
    status = status_of("job-1", store.read("job-1"), LOG_LIMIT)
    assert (state_of(store), status.ended_ms) == (CANCELLED, CANCEL_MS)


@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("state", OUTCOMES)
def test_what_a_cancel_comes_to_depends_on_the_jobs_state(store: JobStore, state: str, queued: bool) -> None:
    """G7: what waits is cancelled, what runs is asked, what has ended stays as it is."""
    job_in(store, state)
    before = snapshot(store)
    outcome = store.cancel(request(), queued=queued)
    assert outcome is OUTCOMES[state]
    if outcome is CancelOutcome.TOO_LATE:
        assert snapshot(store) == before
    else:
        assert phases(store) == ["requested"]
        assert state_of(store) == (CANCELLED if outcome is CancelOutcome.CANCELLED else ("STARTED", None, None))


def test_the_journal_says_who_wanted_it_and_why(store: JobStore) -> None:
    """G1: the request is a part of the job's story."""
    job_in(store, "STARTED")
    store.cancel(request())
    (event,) = [event for event in decode(snapshot(store).journal) if event.kind == "cancel"]
    assert (event.timestamp, event.data["reason"], event.data["by"]) == (CANCEL_MS, "no longer wanted", "ops@desk")


def test_of_two_requests_the_first_counts(store: JobStore) -> None:
    """G7: the second is recorded, and announced, but its reason is not the job's."""
    execution = job_in(store, "STARTED")
    assert store.cancel(request()) is CancelOutcome.REQUESTED
    assert store.cancel(request(reason="another")) is CancelOutcome.REQUESTED
    assert phases(store) == ["requested", "requested"]
    execution.end(Outcome.REVOKED, "no longer wanted", "JobCancelledError")
    assert store.cancel(request(reason="a third")) is CancelOutcome.ALREADY
    assert unpacked(snapshot(store).fields["j"]) == request()


def test_a_cancel_counts_over_a_plain_revoke_and_not_the_other_way_round(store: JobStore) -> None:
    """G3, G8: who cancels behind a revoke that decides nothing wants the job to end as cancelled, with his reason."""
    execution = job_in(store, "STARTED")
    assert store.cancel(request(reason="revoked", gently=True)) is CancelOutcome.REQUESTED
    assert store.cancel(request(reason="revoked again", gently=True)) is CancelOutcome.REQUESTED
    assert unpacked(snapshot(store).fields["j"]) == request(reason="revoked", gently=True)
    assert store.cancel(request()) is CancelOutcome.REQUESTED
    assert store.cancel(request(reason="revoked", gently=True)) is CancelOutcome.REQUESTED
    assert unpacked(snapshot(store).fields["j"]) == request()
    assert execution.send(Report("job-1", execution.fence, NOW_MS, ended=UNAWARE)) is Reply.CANCELLED


def test_to_cancel_twice_what_has_not_begun_forgets_nothing(store: JobStore) -> None:
    """G2: every worker that hears a revoke remembers it; the second finds it done, and it must stay remembered."""
    store.cancel(request(), queued=True)
    before = snapshot(store)
    assert store.cancel(request(reason="again"), queued=True) is CancelOutcome.ALREADY
    assert snapshot(store) == before
    assert state_of(store) == CANCELLED


# --- cancel: what has not begun ------------------------------------------------------------------------------------------


def tombstone(store: JobStore) -> None:
    store.cancel(request(), queued=True)


def test_the_message_of_a_cancelled_job_is_dropped(store: JobStore) -> None:
    """G2: the handler never runs; the record says why, and knows the message from now on."""
    tombstone(store)
    begun = ScriptedExecution(store, tag="t1").begun
    assert begun.fence == Verdict.CANCELLED
    assert unpacked(begun.cancel or b"") == request()
    assert (state_of(store), snapshot(store).fields["l"]) == (CANCELLED, "t1")


@pytest.mark.parametrize("tag", ["t1", ""])
@pytest.mark.parametrize(("attempt", "redelivered"), [(1, True), (1, False), (2, False), (3, True)])
def test_its_redeliveries_and_its_retries_are_dropped_too(store: JobStore, tag: str, attempt: int, redelivered: bool) -> None:
    """G2, G6: the request holds for the message that was there, however it comes again; some brokers give no tag."""
    tombstone(store)
    ScriptedExecution(store, tag=tag)
    again = ScriptedExecution(store, tag=tag, attempt=attempt, redelivered=redelivered)
    assert again.begun.fence == Verdict.CANCELLED
    assert state_of(store) == CANCELLED


def test_a_retry_that_waits_is_dropped_when_it_comes(store: JobStore) -> None:
    """G2: its message is another one, and it is the next attempt of the job that was cancelled."""
    job_in(store, Outcome.RETRY)
    store.cancel(request())
    assert ScriptedExecution(store, attempt=2, tag="t2").begun.fence == Verdict.CANCELLED


def test_a_lost_delivery_that_was_cancelled_does_not_come_back(store: JobStore) -> None:
    """G2: the redelivery of what was lost has not begun."""
    job_in(store, Outcome.LOST)
    store.cancel(request())
    assert ScriptedExecution(store, tag="t1", redelivered=True).begun.fence == Verdict.CANCELLED


@pytest.mark.parametrize("tag", ["t1", "t2"])
def test_a_job_that_was_given_back_and_cancelled_does_not_come_back(store: JobStore, tag: str) -> None:
    """G2, I3: behind an early acknowledgement it comes as another message, of the same attempt."""
    job_in(store, Outcome.REJECTED)
    store.cancel(request())
    assert ScriptedExecution(store, tag=tag, redelivered=tag == "t1").begun.fence == Verdict.CANCELLED
    assert state_of(store) == CANCELLED


def test_however_often_a_running_job_is_cancelled_its_journal_is_bounded(store: JobStore) -> None:
    """L3: a script that asks again and again until the job has ended fills no memory."""
    ScriptedExecution(store).logs("said before")
    for _ in range(LOG_LIMIT + 1_005):
        store.cancel(request())
    kept = snapshot(store)
    assert len(kept.journal) == LOG_LIMIT + 1_000
    assert kept.removed == 6
    assert dropped(store) == 1


def test_a_running_job_that_was_asked_to_stop_does_not_begin_again(store: JobStore) -> None:
    """G2, G6: its worker died before it could; the redelivery ends it, with the reason that was given."""
    job_in(store, "STARTED")
    store.cancel(request())
    assert ScriptedExecution(store, tag="t1", redelivered=True, now_ms=CANCEL_MS + 5).begun.fence == Verdict.CANCELLED
    assert state_of(store) == CANCELLED
    assert snapshot(store).fields["e"] == CANCEL_MS + 5


def test_that_a_delivery_is_dropped_is_announced_where_the_job_ran(store: JobStore) -> None:
    """G7: whoever waits for the end of a job that was asked to stop is told of it."""
    job_in(store, "STARTED")
    store.cancel(request())
    with store.watch(["job-1"]) as watch:
        ScriptedExecution(store, tag="t1", redelivered=True)
        assert watch.wait(5) is True


def test_another_message_under_the_same_id_is_a_job_of_its_own(store: JobStore) -> None:
    """G2: a user may send an id again after the cancel; the request met its message already."""
    tombstone(store)
    ScriptedExecution(store, tag="t1")
    begun = ScriptedExecution(store, tag="t2").begun
    assert (begun.fence > 0, begun.cancel) == (True, None)
    assert (state_of(store), phases(store)) == (("STARTED", None, None), [])


# --- cancel: what began in the same moment ---------------------------------------------------------------------------------


def test_a_job_that_began_unregistered_in_the_moment_of_the_cancel_is_asked_to_stop(store: JobStore) -> None:
    """G7: it runs already, though the cancel was told that it had not begun: it must end as cancelled, and does."""
    tombstone(store)
    late = ScriptedExecution(store, tag="t1", fence=NOW_MS)
    assert (late.fence, state_of(store)[0]) == (NOW_MS, "STARTED")
    assert unpacked(late.begun.cancel or b"") == request()
    assert late.logs("still there") is Reply.STOPPING
    assert late.end() is Reply.CANCELLED
    assert late.end(Outcome.REVOKED, "no longer wanted", "JobCancelledError") is Reply.STOPPING
    assert (state_of(store), messages(store)) == (CANCELLED, ["still there"])


def test_it_learns_so_with_its_first_report(store: JobStore) -> None:
    """G7: that is how a first delivery registers; a short job ends in it."""
    tombstone(store)
    begin = begin_of(NOW_MS, tag="t1")
    ended = Ended(Outcome.SUCCESS, NOW_MS)
    assert store.report([Report("job-1", NOW_MS, NOW_MS, begin=begin, ended=ended)]) == [Reply.CANCELLED]
    assert store.report([Report("job-1", NOW_MS, NOW_MS, begin=begin, ended=ended)]) == [Reply.CANCELLED]
    assert (state_of(store)[0], snapshot(store).fields["d"]) == ("STARTED", 1)


def test_a_report_without_its_beginning_behind_a_tombstone_is_unknown(store: JobStore) -> None:
    """L1, G7: the record had expired, and the cancel made a new one: the job registers anew, and is then asked to stop."""
    tombstone(store)
    assert store.report([Report("job-1", NOW_MS, NOW_MS, progress=b"\x01")]) == [Reply.UNKNOWN]
    assert state_of(store) == CANCELLED


def test_a_registration_whose_message_was_dropped_already_counts_no_more(store: JobStore) -> None:
    """G2: another delivery of it was dropped; what registers late is superseded, and learns of it."""
    tombstone(store)
    ScriptedExecution(store, tag="t1")
    report = Report("job-1", NOW_MS, NOW_MS, begin=begin_of(NOW_MS, tag="t1"), progress=b"\x01")
    assert store.report([report]) == [Reply.SUPERSEDED]
    assert state_of(store) == CANCELLED


# --- cancel: the end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [Outcome.SUCCESS, Outcome.FAILURE, Outcome.RETRY, Outcome.IGNORED, Outcome.REJECTED])
def test_once_a_cancel_was_acknowledged_a_job_ends_in_no_other_way(store: JobStore, state: str) -> None:
    """G7: the end is refused, all else in the same report is written, and the attempt leaves no record of a retry."""
    execution = job_in(store, "STARTED")
    store.cancel(request())
    keep = AttemptRecord(1, 1, "w1@host", NOW_MS, Outcome.RETRY) if state == Outcome.RETRY else None
    ended = Ended(state, NOW_MS + 2_000, "because", "OSError", keep)
    report = execution.made("kept", progress=pack((40, NOW_MS, None)), checkpoint=pack(7), ended=ended)
    assert execution.send(report) is Reply.CANCELLED
    assert state_of(store) == ("STARTED", None, None)
    found = snapshot(store)
    assert (messages(store), progress_of(found)[0], "k" in found.fields, "e" in found.fields) == (["kept"], 40, True, False)
    assert found.attempts == ()


@pytest.mark.parametrize("state", [Outcome.SUCCESS, Outcome.FAILURE])
def test_the_end_of_a_handler_that_could_not_know_of_a_plain_revoke_stands(store: JobStore, state: str) -> None:
    """G8: as in plain Celery, which lets a running task be; what can see its signal ends as revoked."""
    execution = job_in(store, "STARTED")
    store.cancel(request(gently=True, reason=None))
    assert execution.end(state) is Reply.CANCELLED
    ended = msgspec.structs.replace(UNAWARE, state=state)
    assert execution.send(Report("job-1", execution.fence, NOW_MS, ended=ended)) is Reply.STOPPING
    assert state_of(store)[0] == state
    assert store.cancel(request()) is CancelOutcome.TOO_LATE


def test_it_ends_as_cancelled(store: JobStore) -> None:
    """G6: that end is the one that is taken."""
    execution = job_in(store, "STARTED")
    store.cancel(request())
    assert execution.end(Outcome.REVOKED, "no longer wanted", "JobCancelledError") is Reply.STOPPING
    assert state_of(store) == CANCELLED


@pytest.mark.parametrize("state", [Outcome.SUCCESS, Outcome.FAILURE])
def test_an_end_that_was_stored_first_stands(store: JobStore, state: str) -> None:
    """G7: never REVOKED once its success was stored."""
    execution = job_in(store, "STARTED")
    assert execution.end(state) is Reply.ACCEPTED
    assert store.cancel(request()) is CancelOutcome.TOO_LATE
    assert state_of(store)[0] == state


def test_each_report_of_a_job_that_is_to_stop_says_so(store: JobStore) -> None:
    """G3: where the announcement was missed, the next word of the job brings the news."""
    execution = job_in(store, "STARTED")
    assert execution.progress(1) is Reply.ACCEPTED
    store.cancel(request())
    assert [execution.progress(2), execution.logs("a"), execution.checkpoint(3)] == [Reply.STOPPING] * 3
    assert execution.send(Report("job-1", execution.fence, 0)) is Reply.STOPPING


def test_late_entries_of_the_attempt_before_are_not_asked_to_stop(store: JobStore) -> None:
    """G3: that execution is over; its last entries are welcome, and the request is the next attempt's."""
    before = job_in(store, Outcome.RETRY)
    now = ScriptedExecution(store, attempt=2, tag="t2")
    store.cancel(request())
    assert (before.logs("late"), now.logs("now")) == (Reply.ACCEPTED, Reply.STOPPING)


def test_a_superseded_execution_is_told_that_and_no_more(store: JobStore) -> None:
    """D7: a zombie has no end to be refused."""
    zombie = job_in(store, "STARTED")
    ScriptedExecution(store, tag="t1", redelivered=True)
    store.cancel(request())
    assert (zombie.progress(1), zombie.end()) == (Reply.SUPERSEDED, Reply.SUPERSEDED)


def test_a_look_is_no_sign_of_life(store: JobStore) -> None:
    """D4, G3: a silent job asks whether it may go on; that must not hide its silence."""
    execution = job_in(store, "STARTED")
    assert execution.send(Report("job-1", execution.fence, 0)) is Reply.ACCEPTED
    assert snapshot(store).fields["h"] == NOW_MS
    execution.send(Report("job-1", execution.fence, NOW_MS + 7))
    assert snapshot(store).fields["h"] == NOW_MS + 7


def test_the_race_of_a_cancel_and_an_end_has_one_winner(store: JobStore) -> None:
    """G7: the store decides; both sides are told the same."""
    for n in range(25):
        execution = job_in(store, "STARTED", f"job-{n}")
        start = threading.Barrier(2)
        told: list[CancelOutcome] = []

        def cancel(job_id: str = f"job-{n}", start: threading.Barrier = start, told: list[CancelOutcome] = told) -> None:
            start.wait()
            told.append(store.cancel(request(job_id)))

        thread = threading.Thread(target=cancel)
        thread.start()
        start.wait()
        reply = execution.end()
        thread.join(30)
        assert (told, reply) in (
            ([CancelOutcome.TOO_LATE], Reply.ACCEPTED), ([CancelOutcome.REQUESTED], Reply.CANCELLED),
        )  # fmt: skip


# --- cancel: what is lost ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [None, Outcome.FAILURE])
def test_a_job_that_is_lost_while_it_is_to_stop_has_ended_as_cancelled(store: JobStore, state: str | None) -> None:
    """G4, G6: its process was ended since it did not stop, or died: whatever the loss says, the request came first."""
    zombie = job_in(store, "STARTED")
    store.cancel(request())
    error = "WorkerLostError" if state else None
    lost = store.lose(loss(state=state, error=error, limit=0))
    assert lost == Lost(1, ended=True, cancelled=True)
    assert state_of(store)[:2] == CANCELLED[:2]
    assert (snapshot(store).fields["e"], snapshot(store).attempts) == (NOW_MS + 5_000, ())
    assert zombie.end() is Reply.SUPERSEDED


def test_a_job_that_was_lost_before_it_was_registered_has_ended_as_cancelled(store: JobStore) -> None:
    """G6: it began behind the cancel, and its process died before it could say so."""
    tombstone(store)
    assert store.lose(loss(token=NOW_MS * 1000)) == Lost(1, ended=True, cancelled=True)
    assert state_of(store)[:2] == CANCELLED[:2]


@pytest.mark.parametrize("limit", [0, 1])
def test_a_loss_that_is_not_the_jobs_fault_does_not_count(store: JobStore, limit: int) -> None:
    """I3, D6: a worker that is shut down takes its jobs with it; no stall of theirs."""
    job_in(store, "STARTED")
    assert store.lose(loss(counts=False, limit=limit)) == Lost(0)
    assert state_of(store)[0] == Outcome.LOST
    assert status_of("job-1", store.read("job-1"), LOG_LIMIT).stalls == 0
    ScriptedExecution(store, tag="t1", redelivered=True, token=2)
    assert store.lose(loss(token=2, limit=limit)) == Lost(1, ended=limit == 0)


def test_a_loss_of_what_was_dropped_changes_nothing(store: JobStore) -> None:
    """G2: it never ran."""
    tombstone(store)
    ScriptedExecution(store, tag="t1")
    before = snapshot(store)
    assert store.lose(loss(token=None)) == Lost(None)
    assert snapshot(store) == before


# --- announcements -------------------------------------------------------------------------------------------------------


@pytest.fixture
def heard(store: JobStore) -> Iterator[Announcements]:
    announcements = store.listen()
    yield announcements
    announcements.close()


def test_a_request_is_announced_once_it_is_stored(store: JobStore, heard: Announcements) -> None:
    """G1: whoever hears it and asks the store finds it there."""
    job_in(store, "STARTED")
    store.cancel(request(grace=2.5, gently=True))
    assert heard.next() == request(grace=2.5, gently=True)


def test_each_request_that_changes_something_is_announced(store: JobStore, heard: Announcements) -> None:
    """G1, G7: what is unknown or too late is not: there is nobody to tell."""
    job_in(store, Outcome.SUCCESS, "over")
    job_in(store, "STARTED", "runs")
    for job_id, queued in (("nobody", False), ("over", True), ("runs", False), ("queued", True)):
        store.cancel(request(job_id), queued=queued)
    store.shut_down("w1@host")
    assert [heard.next() for _ in range(3)] == [request("runs"), request("queued"), Shutdown("w1@host")]


def test_a_shutdown_is_announced(store: JobStore, heard: Announcements) -> None:
    """I3: the processes of a pool learn of it so."""
    store.shut_down("w1@host")
    assert heard.next() == Shutdown("w1@host")


def test_all_who_listen_hear_it(store: JobStore, heard: Announcements) -> None:
    """G1: each process that runs jobs has its own ear."""
    other = store.listen()
    store.shut_down("w1@host")
    assert (heard.next(), other.next()) == (Shutdown("w1@host"), Shutdown("w1@host"))
    other.close()


def test_closing_ends_a_wait_in_another_thread(store: JobStore) -> None:
    """A worker that stops must not wait for an announcement."""
    heard = store.listen()
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            while True:
                heard.next()
        except StoreUnavailableError as exc:
            raised.append(exc)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    heard.close()
    thread.join(10)
    assert len(raised) == 1


@pytest.mark.parametrize("connects", ["anew", "before"])
def test_closing_ends_a_wait_that_is_just_beginning(any_redis: RedisStore, connects: str) -> None:
    """A worker that stops: redis-py connects and subscribes anew where it finds its connection closed, and must not stay so."""
    heard = any_redis.listen()
    connection, begun, go_on = heard._pubsub.connection, threading.Event(), threading.Event()
    connect, raised = connection.connect, list[BaseException]()

    def held() -> None:
        """What redis-py calls just before it reads, and whenever the connection is gone."""
        if connects == "before":
            connect()
        begun.set()
        assert go_on.wait(10)
        if connects == "anew":
            connect()

    def wait() -> None:
        try:
            while True:
                heard.next()
        except StoreUnavailableError as exc:
            raised.append(exc)

    connection.connect = held
    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    assert begun.wait(10)
    heard.close()
    go_on.set()
    waiting.join(10)
    assert len(raised) == 1
    reader = any_redis._read_client()
    wait_until(lambda: reader.pubsub_numsub(any_redis.keys.announcements)[0][1] == 0, "the server to see nobody listen", 10)
    with pytest.raises(StoreUnavailableError):
        heard.next()


def test_what_was_announced_before_is_not_heard(store: JobStore) -> None:
    """G1: it is stored, and that is where a process that starts later looks."""
    store.shut_down("w1@host")
    heard = store.listen()
    store.shut_down("w2@host")
    assert heard.next() == Shutdown("w2@host")
    heard.close()


@pytest.mark.parametrize(
    "data", [b"", b"x", b"c", b"s", b"c\xc1", b"c\x93\x01\x02\x03", b"s\x91\xa1\xff", b"z\x91\xa1a", "ünïcode".encode()]
)
def test_what_cannot_be_read_is_none(any_redis: RedisStore, data: bytes) -> None:
    """G1: a newer version's announcement, or a stranger's, ends nobody's listening."""
    heard = any_redis.listen()
    any_redis._read_client().publish(any_redis.keys.announcements, data)
    any_redis.shut_down("w1@host")
    assert [heard.next(), heard.next()] == [None, Shutdown("w1@host")]
    heard.close()


def test_a_connection_that_is_lost_says_so(any_redis: RedisStore) -> None:
    """G1: what was announced meanwhile is not repeated, so the listener must know and look in the store."""
    heard = any_redis.listen()
    client = any_redis._read_client()
    client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    with pytest.raises(StoreUnavailableError):
        heard.next()
    heard.close()


# --- jobs that were cancelled early, in Redis alone ----------------------------------------------------------------------


def test_every_key_of_a_cancelled_job_has_the_configured_ttl(any_redis: RedisStore) -> None:
    """L3: also of one that never began."""
    any_redis.cancel(request(), queued=True)
    found = admin(any_redis)
    keys = found.keys_of("job-1")
    assert len(keys) == 2
    for key in keys:
        assert TTL - 30 < found.client.ttl(key) <= TTL
    ScriptedExecution(any_redis, tag="t1")
    assert [TTL - 30 < found.client.ttl(key) <= TTL for key in keys] == [True, True]


@pytest.mark.parametrize("job_id", ODD_IDS)
def test_any_text_can_be_the_id_of_a_cancelled_job(plain_store: RedisStore, job_id: str) -> None:
    """G1: the id travels in an announcement, and names the record."""
    heard = plain_store.listen()
    plain_store.cancel(request(job_id), queued=True)
    assert heard.next() == request(job_id)
    assert status_of(job_id, plain_store.read(job_id), LOG_LIMIT).state == Outcome.REVOKED
    heard.close()
