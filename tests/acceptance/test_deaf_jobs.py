"""A job that cannot hear that it is cancelled, since C code holds its interpreter."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.support import gates, jobs

if TYPE_CHECKING:
    from celery import Celery

    from tests.support.worker_fixtures import StartWorker

GRACE = 0.2  # seconds


def test_the_parent_ends_the_process_of_a_deaf_job_that_was_acknowledged_early(
    start_worker: StartWorker, jobs_app: Celery
) -> None:
    """G4: in prefork, also for Celery's default `acks_late=False`; and its end is seen at once, not 5 s later."""
    worker = start_worker(concurrency=1)
    handle = jobs.hold_the_interpreter.delay()
    gates.wait_at(handle.id)
    gates.open_gate(handle.id)
    time.sleep(0.5)  # nothing can say that the interpreter is held
    asked = time.monotonic()
    assert handle.cancel("deaf", grace=GRACE, wait=30).outcome == "cancelled"
    assert time.monotonic() - asked < 3.0
    assert (handle.state, handle.record().state) == ("REVOKED", "REVOKED")
    worker.wait_for_log("does not hear that it was cancelled", timeout=5)
    assert jobs.add.delay(1, 2).get(timeout=20) == 3
