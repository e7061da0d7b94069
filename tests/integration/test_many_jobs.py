"""The readers of many jobs, on every kind of store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from taskora_celery.errors import JobNotFoundError
from taskora_celery.following import JobsFollower
from taskora_celery.listing import AmbiguousIdError, JobsReader
from taskora_celery.views import JobFilter, TaskFacts
from tests.support.executions import NOW_MS, ScriptedExecution

if TYPE_CHECKING:
    from taskora_celery.store.protocol import JobStore


@pytest.fixture
def reader(store: JobStore) -> JobsReader:
    return JobsReader(store, 100, lambda _: TaskFacts())


def test_jobs_are_listed_found_and_followed(store: JobStore, reader: JobsReader) -> None:
    """K3: a plain Redis, TLS, Sentinel, Cluster, the oldest version, and the twin in memory."""
    jobs = [ScriptedExecution(store, f"orders-{n}") for n in range(3)]
    store.note([job.id for job in jobs], [], NOW_MS)
    assert {view.id for view in reader.views(JobFilter(), 10, NOW_MS)} == {"orders-0", "orders-1", "orders-2"}
    assert reader.find("orders-1") == "orders-1"
    with pytest.raises(AmbiguousIdError) as failure:
        reader.find("orders")
    assert failure.value.job_ids == ["orders-0", "orders-1", "orders-2"]
    with pytest.raises(JobNotFoundError):
        reader.find("order")
    rounds = JobsFollower(store, [job.id for job in jobs]).rounds(30.0)
    assert [change.id for change in next(rounds)] == ["orders-0", "orders-1", "orders-2"]
    jobs[1].logs("new")
    (change,) = next(rounds)
    assert [event.data.message for event in change.events] == ["new"]
    for job in jobs:
        job.end()
    assert {change.id for changes in rounds for change in changes if change.over} == {"orders-0", "orders-1", "orders-2"}


def test_the_detail_of_a_job_is_one_answer(store: JobStore, reader: JobsReader) -> None:
    """K3: view, attempts, and the newest entries."""
    first = ScriptedExecution(store)
    first.logs("a", "b", "c")
    first.end_in_retry("refused")
    detail = reader.detail("job-1", NOW_MS, logs=2)
    assert (detail.view.state, [entry.message for entry in detail.logs]) == ("retrying", ["b", "c"])
    assert [record.reason for record in detail.attempts] == ["refused"]
    assert reader.detail("job-1", NOW_MS, logs=0).logs == []
    with pytest.raises(JobNotFoundError):
        reader.detail("nobody", NOW_MS, logs=0)
