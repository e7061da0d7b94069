"""Soft time limits, in every pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from tests.support import jobs, stopping_jobs
from tests.support.recorded import recorded

if TYPE_CHECKING:
    from celery import Celery

    from tests.support.worker_fixtures import SharedWorker

pytestmark = pytest.mark.usefixtures("shared_worker")


@pytest.mark.parametrize("how", ["sleep", "loop"])
def test_a_handler_that_takes_no_notice_is_interrupted(shared_worker: SharedWorker, jobs_app: Celery, how: str) -> None:
    """H1, H2: with Celery's own exception; the signal has fired before, and the outcome is a failure."""
    handle = stopping_jobs.soft.delay(how)
    with pytest.raises(SoftTimeLimitExceeded):
        handle.get(timeout=20)
    assert stopping_jobs.story(handle.id) == ["started", "limit timeout"]
    status = recorded(handle, "FAILURE")
    assert (handle.state, status.error, status.attempt) == ("FAILURE", "SoftTimeLimitExceeded", 1)
    assert jobs.add.delay(1, 2).get(timeout=20) == 3


def test_a_handler_that_stops_by_itself_ends_likewise(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """H1, H2: whether it was interrupted or has looked at the signal is nobody's business."""
    handle = stopping_jobs.soft.delay("obey")
    with pytest.raises(SoftTimeLimitExceeded):
        handle.get(timeout=20)
    assert recorded(handle, "FAILURE").error == "SoftTimeLimitExceeded"


def test_the_signal_fires_at_the_limit(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """H1: who waits for it is woken, or interrupted, at once."""
    handle = stopping_jobs.soft.delay("wait")
    handle.get(timeout=20, propagate=False)
    assert stopping_jobs.story(handle.id)[1] in {"woken timeout", "limit timeout"}
    first, second = stopping_jobs.told_at(handle.id, "started")[0], stopping_jobs.story(handle.id)[1]
    assert 0.9 < stopping_jobs.told_at(handle.id, second)[0] - first < 3


def test_it_is_retried_only_where_autoretry_names_it(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """H2."""
    handle = stopping_jobs.soft_again.delay("loop")
    with pytest.raises(SoftTimeLimitExceeded):
        handle.get(timeout=20)
    assert stopping_jobs.story(handle.id) == ["started", "limit timeout"] * 2
    assert recorded(handle, "FAILURE").attempt == 2


def test_a_deadline_that_was_extended_is_the_one_that_counts(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """H3: also of Celery's own limit in prefork."""
    handle = stopping_jobs.soft.delay("extend")
    with pytest.raises(SoftTimeLimitExceeded):
        handle.get(timeout=20)
    assert stopping_jobs.story(handle.id) == ["started", "held off", "limit timeout"]
    (began,), (ended,) = stopping_jobs.told_at(handle.id, "started"), stopping_jobs.told_at(handle.id, "limit timeout")
    assert 2.8 < ended - began < 6


def test_a_deadline_that_cannot_be_extended_says_so(pool: str, shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """H3: beyond the hard limit, where the pool keeps one, and where there is no soft one."""
    refused = stopping_jobs.extend_too_far.delay().get(timeout=20)
    if pool in {"prefork", "gevent"}:
        assert "hard time_limit, which this pool keeps, ends the job in" in refused[0]
        assert refused[1]
    else:
        assert refused == []
    assert "no soft time limit" in stopping_jobs.extend_nothing.delay().get(timeout=20)
