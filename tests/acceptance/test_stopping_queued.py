"""Cancels of jobs that have not begun: wherever their message is, the handler never runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
from celery.exceptions import TaskRevokedError

from taskora_celery import JobCancelledError, JobHandle
from tests.support import gates, jobs, stopping_jobs
from tests.support.jobs import configured
from tests.support.recorded import recorded
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    import redis
    from celery import Celery

    from tests.support.worker_fixtures import SharedWorker, StartWorker

#: What a killed worker held is delivered again after two seconds.
SHORT = configured(
    broker_transport_options={"visibility_timeout": 2, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
)


def assert_never_ran(handle: Any, reason: str) -> None:
    """The job ended as cancelled, everywhere, and its handler did nothing."""
    with pytest.raises(JobCancelledError) as caught:
        handle.get(timeout=20)
    assert (caught.value.reason, caught.value.job_id) == (reason, handle.id)
    assert (handle.state, handle.record().state, handle.record().reason) == ("REVOKED", "REVOKED", reason)
    assert stopping_jobs.story(handle.id) == []


def assert_revoked_at_once(handle: Any, reason: str) -> None:
    """Cancel, and find the end written as soon as the receipt is there."""
    receipt = handle.cancel(reason)
    assert (receipt.outcome, receipt.reason) == ("cancelled", reason)
    assert (handle.state, handle.record().state) == ("REVOKED", "REVOKED")


def messages(client: redis.Redis) -> int:
    """How many messages the broker has, delivered or not."""
    return cast("int", client.llen("celery")) + cast("int", client.hlen("unacked"))


def test_a_job_cancelled_while_no_worker_is_up_is_dropped_by_the_one_that_starts(
    pool: str, start_worker: StartWorker, redis_client: redis.Redis, jobs_app: Celery
) -> None:
    """Fault 12, G1, G2: the state is REVOKED at once; the message is dropped; what was not cancelled runs."""
    queued, scheduled = stopping_jobs.mark.delay(), stopping_jobs.mark.apply_async(countdown=600)
    spared = stopping_jobs.mark.delay()
    assert_revoked_at_once(queued, "nobody is there")
    assert_revoked_at_once(scheduled, "not even later")
    start_worker(pool=pool)
    assert spared.get(timeout=30) == "ran"
    wait_until(lambda: messages(redis_client) == 1, "the end of all messages but the scheduled one's")
    assert_never_ran(queued, "nobody is there")
    assert_never_ran(scheduled, "not even later")
    assert queued.cancel().outcome == "cancelled"


def test_a_job_whose_time_comes_after_its_cancel_is_dropped(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """G2: scheduled; the worker holds the message already, and drops it when its time comes."""
    with gates.gate_client() as client:
        handle = stopping_jobs.mark.apply_async(countdown=1.5)
        shared_worker.wait_for_log(rf"{handle.id}\] received")
        assert_revoked_at_once(handle, "too early")
        wait_until(lambda: not messages(client), "the end of the message")
    assert_never_ran(handle, "too early")


def test_a_job_that_waits_for_its_retry_is_cancelled_at_once(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """G2: between two attempts nothing runs; the second never begins."""
    handle = stopping_jobs.retry_later.delay()
    recorded(handle, "RETRY")
    wait_until(lambda: handle.state == "RETRY", "the state in the result backend")
    assert_revoked_at_once(handle, "no second try")
    with pytest.raises(JobCancelledError, match="no second try"):
        handle.get(timeout=20)
    assert stopping_jobs.story(handle.id) == ["started"]
    with gates.gate_client() as client:
        wait_until(lambda: not messages(client), "the end of the next attempt's message")
    assert stopping_jobs.story(handle.id) == ["started"]


def test_a_job_that_was_prefetched_is_dropped_by_the_worker_that_has_it(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """G2: behind jobs that fill the worker, in its own memory."""
    busy = [stopping_jobs.hold.delay() for _ in range(1 if shared_worker.pool == "solo" else 4)]
    for handle in busy:
        gates.wait_at(handle.id)
    victim, behind = stopping_jobs.mark.delay(), stopping_jobs.mark.delay()
    if shared_worker.pool != "solo":  # which receives nothing while it runs
        shared_worker.wait_for_log(rf"{victim.id}\] received")
    assert_revoked_at_once(victim, "not needed")
    for handle in busy:
        gates.open_gate(handle.id)
    assert behind.get(timeout=20) == "ran"
    assert_never_ran(victim, "not needed")
    with gates.gate_client() as client:
        wait_until(lambda: not messages(client), "the end of the message")


def test_a_cancel_outlives_the_worker_that_had_heard_of_it(
    pool: str, start_worker: StartWorker, redis_client: redis.Redis, jobs_app: Celery
) -> None:
    """Fault 12, G1: killed with the message in its memory; the worker that gets the message next was not there at the time."""
    first = start_worker(pool=pool, env=SHORT)
    handle = stopping_jobs.mark.apply_async(countdown=3)
    first.wait_for_log(rf"{handle.id}\] received")
    assert_revoked_at_once(handle, "for good")
    first.kill()
    assert messages(redis_client) == 1
    start_worker(pool=pool, env=SHORT)
    wait_until(lambda: not messages(redis_client), "the end of the message")
    assert_never_ran(handle, "for good")


def test_celerys_own_revoke_holds_when_the_worker_has_gone(
    pool: str, start_worker: StartWorker, redis_client: redis.Redis, jobs_app: Celery
) -> None:
    """G8: a plain revoke lives in a worker's memory; for a task of this base it is in the record."""
    first = start_worker(pool=pool, env=SHORT)
    handle = stopping_jobs.mark.apply_async(countdown=4)
    first.wait_for_log(rf"{handle.id}\] received")
    jobs_app.control.revoke(handle.id)
    recorded(handle, "REVOKED")  # which the worker's own set of revoked ids would not bring about
    first.kill()
    start_worker(pool=pool, env=SHORT)
    assert stopping_jobs.mark.delay().get(timeout=30) == "ran"
    wait_until(lambda: not messages(redis_client), "the end of the message")
    with pytest.raises(TaskRevokedError):  # Celery's own words, where its command was first
        handle.get(timeout=20)
    assert (handle.state, handle.record().state, handle.record().reason) == ("REVOKED", "REVOKED", "revoked")
    assert stopping_jobs.story(handle.id) == []


def test_an_id_that_was_never_sent_is_unknown(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """G7: and nothing is written for it; what has ended otherwise is too late."""
    assert JobHandle("nobody-has-sent-this", app=jobs_app).cancel().outcome == "unknown"
    done = jobs.add.delay(1, 2)
    assert done.get(timeout=20) == 3
    recorded(done)
    assert done.cancel().outcome == "too_late"
    assert (done.state, done.record().state) == ("SUCCESS", "SUCCESS")
