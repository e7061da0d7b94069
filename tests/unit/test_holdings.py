"""What a worker keeps: read from what its consumer holds and from what it runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import pytest
from celery.worker import state

from taskora_celery.lease.protocol import Hold
from taskora_celery.worker.holdings import Kept, copied, holdings
from tests.support.scripted_worker import ScriptedWorker

if TYPE_CHECKING:
    from collections.abc import Iterator


class Worker(ScriptedWorker):
    """Says what it keeps, and what of that it renews."""

    def keeps(self, *, draining: bool = False) -> dict[str, Kept]:
        found = holdings(self.consumer, self.requests, draining=draining)  # type: ignore[arg-type]
        return {kept.hold.tag: kept for kept in found}

    def renews(self, *, draining: bool = False) -> list[str]:
        return sorted(tag for tag, kept in self.keeps(draining=draining).items() if not kept.hold.watched)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setattr(state, "active_requests", set())
    return Worker()


def test_all_that_was_received_is_renewed(worker: Worker) -> None:
    """D3: what runs, and what waits behind it or for its time; by the delivery's own token, so that the fence counts."""
    worker.runs("runs")
    worker.receives("waits")
    assert worker.renews() == ["runs", "waits"]
    assert {kept.hold.token for kept in worker.keeps().values()} == {7}


def test_a_message_of_a_task_that_is_not_tracked_is_renewed_too(worker: Worker) -> None:
    """D3: its lease is the worker's, whatever the task's base is; there is no fence to look at."""
    worker.receives("plain", tracked=False)
    assert worker.keeps() == {"plain": Kept(Hold("plain"), None, None)}


def test_what_was_acknowledged_is_not_renewed(worker: Worker) -> None:
    """D2: a score that is renewed behind an acknowledgement would be nobody's."""
    worker.receives("acknowledged", tracked=False)
    worker.qos._dirty.add("acknowledged")
    worker.receives("given up").fenced.give_up()
    assert worker.keeps() == {}


def test_a_job_that_must_show_life_is_renewed_by_its_own_process_while_it_runs(worker: Worker) -> None:
    """D4, D3: renewed by the worker's parent a silent one would never be found out; before it runs nobody else renews it."""
    running = worker.runs("runs", timeout=5.0)
    worker.receives("waits", timeout=5.0)
    assert worker.renews() == ["waits"]
    assert sorted(worker.keeps()) == ["runs", "waits"], "it is looked at all the same"
    running.regained = True
    assert worker.renews() == ["runs", "waits"], "kombu has given it the whole visibility timeout"


def test_in_a_warm_shutdown_only_what_runs_is_renewed(worker: Worker) -> None:
    """I3, D3: what has not begun here is begun elsewhere, and only looked at."""
    worker.runs("runs")
    worker.receives("waits")
    plain = worker.receives("plain runs", tracked=False)
    state.active_requests.add(plain)
    worker.receives("plain waits", tracked=False)
    assert worker.renews(draining=True) == ["plain runs", "runs"]
    assert sorted(worker.keeps(draining=True)) == ["plain runs", "plain waits", "runs", "waits"]


@pytest.mark.parametrize("draining", [True, False])
def test_a_job_that_runs_behind_a_lost_connection_is_renewed(worker: Worker, draining: bool) -> None:
    """D3: it is in nobody's hands but its own; what only waited there is kombu's to put back."""
    running = worker.runs("runs")
    worker.receives("waits")
    worker.loses_its_connection()
    assert worker.renews(draining=draining) == ["runs"]
    running.fenced.give_up()
    assert worker.keeps(draining=draining) == {}


def test_the_url_of_its_queue_goes_with_a_message(worker: Worker) -> None:
    """D10: SQS renews by queue and receipt handle."""
    worker.runs("tracked", url="https://sqs/orders")
    worker.receives("plain", tracked=False, url="https://sqs/mails")
    found = {tag: kept.hold.queue for tag, kept in worker.keeps().items()}
    assert found == {"tracked": "https://sqs/orders", "plain": "https://sqs/mails"}
    worker.loses_its_connection()
    assert worker.keeps()["tracked"].hold.queue == "https://sqs/orders"


def test_without_a_connection_there_is_nothing_to_keep(worker: Worker) -> None:
    """D3: a worker that has none just now."""
    assert holdings(SimpleNamespace(task_consumer=None), {}, draining=False) == []


class Changing(WeakValueDictionary[str, Any]):
    """The keeper's requests, to which the main thread adds one in the middle of the first copy."""

    def __init__(self, requests: dict[str, Any], late: Any) -> None:
        super().__init__(requests)
        self.late = [late]

    def _adding(self, values: Iterator[Any]) -> Iterator[Any]:
        for value in values:
            yield value
            if self.late:
                self["late"] = self.late.pop()

    def items(self) -> Any:
        return self._adding(super().items())

    def values(self) -> Any:
        return self._adding(super().values())


def test_a_message_that_is_received_in_the_middle_of_a_look_hides_no_other(worker: Worker) -> None:
    """D3: weak dictionaries are gone through by generators, which end with their error."""
    worker.runs("runs")
    late = worker.receives("late")
    worker.loses_its_connection()
    del worker.requests["late"]
    changing = Changing(worker.requests, late)
    assert [kept.hold.tag for kept in holdings(worker.consumer, changing, draining=False)] == ["runs"]
    changing = Changing(worker.requests, late)
    assert len(copied(changing.values)) == 2
