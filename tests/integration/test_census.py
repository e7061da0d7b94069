"""How many jobs there are in each state: in every store, from the index, without reading what is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskora_celery.census import Census
from taskora_celery.records import Outcome
from taskora_celery.views import TaskFacts
from tests.support.cancels import loss
from tests.support.executions import NOW_MS, ScriptedExecution

if TYPE_CHECKING:
    import pytest

    from taskora_celery.store.protocol import JobStore


def census(store: JobStore, heartbeat_timeout: float | None = None) -> Census:
    return Census(store, lambda _: TaskFacts(None, heartbeat_timeout))


def test_jobs_are_counted_by_the_word_of_their_state(store: JobStore) -> None:
    """K4: running, retrying, stalled (silent, or lost), failed, done; one whose record has expired is none."""
    for number in range(6):
        ScriptedExecution(store, f"job-{number}", tag=f"t{number}", token=number)
    ScriptedExecution(store, "job-1").end_in_retry()
    ScriptedExecution(store, "job-2").end()
    ScriptedExecution(store, "job-3").end(Outcome.FAILURE, "no")
    store.lose(loss("job-4", tag="t4", token=4))
    ScriptedExecution(store, "job-5", now_ms=NOW_MS - 60_000)
    store.note(["job-0", "job-1", "job-4", "job-5", "gone"], ["job-2", "job-3"], NOW_MS)
    found = census(store, 30.0).look(NOW_MS)
    assert found.counts == {"running": 1, "retrying": 1, "done": 1, "failed": 1, "stalled": 2}
    assert found.unread == 0


def test_what_has_ended_is_read_once(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """K4: an end is final, until the job's state changes all the same (it was sent anew)."""
    job = ScriptedExecution(store, "job-1")
    job.end()
    store.note([], ["job-1"], NOW_MS)
    read: list[Any] = []
    records = store.records

    def noted(_: Any, job_ids: Any, **more: Any) -> Any:
        read.append(list(job_ids))
        return records(job_ids, **more)

    monkeypatch.setattr(type(store), "records", noted)
    counting = census(store)
    assert [counting.look(NOW_MS).counts for _ in range(2)] == [{"done": 1}] * 2
    assert read == [["job-1"], []]
    ScriptedExecution(store, "job-1", created_ms=NOW_MS + 5_000, now_ms=NOW_MS + 6_000).end(Outcome.FAILURE, "no")
    store.note([], ["job-1"], NOW_MS + 7_000)
    assert counting.look(NOW_MS + 8_000).counts == {"failed": 1}


def test_jobs_that_are_too_many_are_said_to_be(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """K4: a look is bounded."""
    monkeypatch.setattr("taskora_celery.census.GOING_READ", 2)
    for number in range(3):
        ScriptedExecution(store, f"job-{number}")
        store.note([f"job-{number}"], [], NOW_MS + number)
    found = census(store).look(NOW_MS)
    assert (found.counts, found.unread) == ({"running": 2}, 1)
