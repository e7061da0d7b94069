"""``ctx.signal`` inside real workers: fired by the handler's own code, as later the library will."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import gates, jobs

if TYPE_CHECKING:
    from celery import Celery

    from tests.support.worker_fixtures import SharedWorker

pytestmark = pytest.mark.usefixtures("shared_worker")


def test_an_abort_from_another_thread_ends_a_long_sleep(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """C1, C2, C4: it wakes ``ctx.sleep``, ``wait`` and ``wait_async``, calls every listener once, and the first abort stays."""
    handle = jobs.abort_in_thread.delay()
    gates.wait_at(handle.id)
    gates.open_gate(handle.id)
    found = handle.get(timeout=20)  # the sleep itself would take ten minutes
    assert found["before"] == [False, None, None, False, False]
    assert found["woken"] == ["timeout", "wrong file"]
    assert found["again"] is False
    assert found["after"] == [True, "timeout", "wrong file", True, True]
    assert found["heard"] == [["first", "timeout"], ["third", "wrong file"], "late"]
    assert found["awaited"] is True
    shared_worker.wait_for_log(r"a listener of ctx\.signal failed", timeout=5)


def test_the_signal_of_one_job_is_not_that_of_the_next(jobs_app: Celery) -> None:
    """C1: each job has a signal of its own, also in the same thread or greenlet."""
    first = jobs.abort_in_thread.delay()
    gates.open_gate(first.id)
    second = jobs.abort_in_thread.delay()
    assert first.get(timeout=20)["after"][0] is True
    gates.wait_at(second.id)
    gates.open_gate(second.id)
    assert second.get(timeout=20)["before"][0] is False
