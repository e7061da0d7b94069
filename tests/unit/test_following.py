"""Following several jobs at once: over the in-memory store, which can be made to fail."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from taskora_celery.errors import StoreUnavailableError
from taskora_celery.following import Change, JobsFollower
from taskora_celery.records import Outcome
from taskora_celery.store.memory import MemoryStore
from tests.support.executions import ScriptedExecution

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from taskora_celery.store.protocol import Snapshot


class FailingStore(MemoryStore):
    """Fails as often as it is told to, at the read of one job."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: dict[str, int] = {}

    def read(self, job_id: str, skip: int | None = None, *, attempts: bool = False) -> Snapshot | None:
        if self.failures.get(job_id, 0):
            self.failures[job_id] -= 1
            raise StoreUnavailableError("away")
        return super().read(job_id, skip, attempts=attempts)

    @contextmanager
    def watch(self, job_ids: Sequence[str]) -> Iterator[Any]:
        if self.failures.get("watch", 0):
            self.failures["watch"] -= 1
            raise StoreUnavailableError("away")
        with super().watch(job_ids) as watch:
            yield watch


@pytest.fixture
def store() -> FailingStore:
    return FailingStore()


def told(changes: list[Change]) -> list[tuple[str, str]]:
    return [
        (change.id, event.data.message if event.kind == "log" else event.data["state"])
        for change in changes
        for event in change.events
        if event.kind in {"log", "state"}
    ]


def test_the_first_round_is_the_past_and_the_last_is_the_end(store: FailingStore) -> None:
    """K3, F5: of all jobs, each event once."""
    jobs = [ScriptedExecution(store, name) for name in ("a", "b")]
    jobs[0].logs("one")
    rounds = JobsFollower(store, ["a", "b", "a"]).rounds(30.0)
    assert told(next(rounds)) == [("a", "STARTED"), ("a", "one"), ("b", "STARTED")]
    jobs[1].logs("two")
    jobs[1].end()
    assert told(next(rounds)) == [("b", "two"), ("b", "SUCCESS")]
    jobs[0].end(Outcome.FAILURE)
    change, *more = next(rounds)
    assert (told([change]), change.over, more) == ([("a", "FAILURE")], True, [])
    assert list(rounds) == []


def test_jobs_that_have_ended_end_it_at_once(store: FailingStore) -> None:
    """K3: ``logs -f`` and ``watch`` of a job that is over."""
    ScriptedExecution(store, "a").end()
    follower = JobsFollower(store, ["a"])
    assert [change.over for changes in follower.rounds(30.0) for change in changes] == [True]
    assert follower.ended


def test_nothing_is_lost_and_nothing_comes_twice_over_an_outage(store: FailingStore) -> None:
    """K3, F5: also where one job was read before the next could not be; the outage is told once, and its end."""
    jobs = [ScriptedExecution(store, name) for name in ("a", "b")]
    outages: list[bool] = []
    follower = JobsFollower(store, ["a", "b"], on_outage=lambda exc: outages.append(exc is not None))
    rounds = follower.rounds(0.01)
    next(rounds)
    jobs[0].logs("one")
    jobs[1].logs("two")
    store.failures.update(b=2, watch=1)
    seen: list[tuple[str, str]] = []
    while len(seen) < 2:
        seen += told(next(rounds))
    assert seen == [("a", "one"), ("b", "two")]
    assert outages == [True, False]
    for job in jobs:
        job.end()
    assert [item for changes in rounds for item in told(changes)] == [("a", "SUCCESS"), ("b", "SUCCESS")]


def test_a_store_that_is_away_at_first_is_an_error(store: FailingStore) -> None:
    """K3: who asks is told at once, instead of waiting."""
    store.failures["a"] = 1
    with pytest.raises(StoreUnavailableError):
        next(JobsFollower(store, ["a"]).rounds(30.0))


def test_it_ends_at_its_time(store: FailingStore) -> None:
    """K3: ``--timeout``; the past is told all the same."""
    ScriptedExecution(store, "a")
    follower = JobsFollower(store, ["a"])
    seen = list(follower.rounds(30.0, until=time.monotonic() + 0.05))
    assert told(seen[0]) == [("a", "STARTED")]
    assert not follower.ended


def test_it_looks_once_though_its_time_is_over(store: FailingStore) -> None:
    """K3: ``--timeout 0`` asks how it stands now; who has ended does not go on."""
    ScriptedExecution(store, "a").end()
    follower = JobsFollower(store, ["a"])
    assert told(next(follower.rounds(30.0, until=0.0))) == [("a", "STARTED"), ("a", "SUCCESS")]
    assert follower.ended
    ScriptedExecution(store, "b")
    assert len(list(JobsFollower(store, ["b"]).rounds(30.0, until=0.0))) == 1


def test_a_record_that_stays_away_has_expired(store: FailingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """K3, J4: never a hang; but a Redis that lost its data is told of the job again."""
    monkeypatch.setattr("taskora_celery.following.GONE_AFTER", 0.05)
    rounds = JobsFollower(store, ["a"]).rounds(0.01)
    assert [change for changes in rounds for change in changes] == [Change("a", None, [], over=True)]


def test_an_end_that_only_the_result_backend_knows_ends_it(store: FailingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """K3: a process that was killed wrote nothing into the record."""
    monkeypatch.setattr("taskora_celery.reading.LOOK_EVERY", 0.01)
    monkeypatch.setattr("taskora_celery.reading.END_GRACE", 0.01)
    ScriptedExecution(store, "a")
    asked: list[str] = []

    def is_over(job_id: str) -> bool:
        asked.append(job_id)
        return True

    changes = [change for found in JobsFollower(store, ["a"], is_over=is_over).rounds(0.01) for change in found]
    assert (changes[-1].over, changes[-1].events, asked) == (True, [], ["a"])


def test_a_change_wakes_it_up(store: FailingStore) -> None:
    """K3, P8: announced, not polled."""
    job = ScriptedExecution(store, "a")
    rounds = JobsFollower(store, ["a"]).rounds(60.0)
    next(rounds)
    timer = threading.Timer(0.02, job.logs, ["one"])
    timer.start()
    assert told(next(rounds)) == [("a", "one")]
    timer.join()
