"""Cancels that come at any moment of a job's life, many of them at once."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.support.races import race

if TYPE_CHECKING:
    from celery import Celery

    from tests.support.worker_fixtures import SharedWorker

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
