"""Cancels that come at any moment of a job's life, many of them at once."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.support import gates, stopping_jobs
from tests.support.outcome_watch import OutcomeWatch
from tests.support.races import race
from tests.support.recorded import recorded
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from celery import Celery

    from tests.support.worker_fixtures import SharedWorker, StartWorker

#: Fault 11 wants a thousand for each family of pools; the other two run the same code.
RACES = {"prefork": 1000, "threads": 1000, "gevent": 1000, "solo": 200, "eventlet": 200}
#: Set it to see again what was seen once.
SEED = int(os.environ.get("TASKORA_TEST_SEED", random.SystemRandom().randrange(1_000_000)))


@pytest.mark.timeout(180)
def test_a_cancel_and_the_end_of_a_job_never_both_win(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """Fault 11, G7: one outcome each, the receipt agrees with it, and who was cancelled before its time never ran."""
    threads = 2 if shared_worker.pool == "solo" else 6
    faults = race(jobs_app, shared_worker.redis_url, SEED, RACES[shared_worker.pool], threads, spread=0.12)
    assert not faults, f"TASKORA_TEST_SEED={SEED}: {len(faults)} faults\n" + "\n".join(faults[:20])


def test_a_retry_that_is_stored_late_does_not_hide_the_cancel(
    pool: str, start_worker: StartWorker, redis_url: str, jobs_app: Celery
) -> None:
    """G7: the next attempt was dropped already when the tracer of the one before stores its RETRY over the REVOKED."""
    if pool == "solo":
        pytest.skip("its next attempt begins behind the end of the one before")
    backend = f"tests.support.late_backend:LateRetries+{redis_url}"
    worker = start_worker(pool=pool, env={"RESULT_BACKEND": backend})
    handle = stopping_jobs.race.delay("later", 0)
    recorded(handle, "RETRY")
    assert handle.cancel("enough").outcome == "cancelled"
    gates.wait_at(handle.id, "retry")
    # The tracer of the next attempt has stored all that it stores, so that what comes behind the gate is the first one's.
    worker.wait_for_log(rf"\[{handle.id}\] ignored")
    assert handle.record().attempt == 2
    with OutcomeWatch(redis_url) as watch:
        gates.open_gate(handle.id, "retry")
        wait_until(lambda: watch.stored[handle.id], "the outcome, once more")
    assert (handle.record().state, handle.state) == ("REVOKED", "REVOKED")
    assert stopping_jobs.story(handle.id) == ["started"]
