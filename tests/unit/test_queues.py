"""Queues as people see them: pure functions of what the broker and the workers said."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from celery import Celery
from kombu import Queue

from taskora_celery.inspecting import Answer, Round
from taskora_celery.lease.waiting import NOT_KNOWN, Waiting
from taskora_celery.queues import QueueView, queues_counted, queues_named, queues_seen, worker_command
from taskora_celery.tally import OTHER, Count, pack_count
from taskora_celery.workers import WorkerState, WorkerView
from tests.support.brokers import work
from tests.support.eager_apps import tasks_of_their_own
from tests.support.executions import NOW_MS


def worker(name: str, *queues: str, state: WorkerState = WorkerState.ONLINE, tells: bool = True) -> WorkerView:
    return WorkerView(name, state, NOW_MS, 0, Answer(name, NOW_MS, queues=queues if tells else None))


def seen(waiting: Waiting, *workers: WorkerView, error: str | None = None) -> QueueView:
    (view,) = queues_seen(Round(NOW_MS, workers_error=error, waiting={"reports": waiting}), workers)
    return view


def test_messages_that_nobody_will_take_are_warned_of() -> None:
    """K4: only where the depth is above 0 and the consumers are 0."""
    assert seen(Waiting(3, NOW_MS - 5_000)) == QueueView("reports", 3, NOW_MS - 5_000, 0)
    assert seen(Waiting(3)).unserved
    assert not seen(Waiting(0)).unserved
    assert not seen(NOT_KNOWN).unserved
    served = seen(Waiting(3), worker("w1", "celery", "reports"), worker("w2", "celery"))
    assert (served.unserved, served.consumers, served.workers) == (False, 1, ("w1",))


def test_a_worker_that_is_offline_takes_nothing() -> None:
    """K4: what it consumed, it consumes no more; one that is only silent does."""
    assert seen(Waiting(3), worker("w1", "reports", state=WorkerState.OFFLINE)).unserved
    assert seen(Waiting(3), worker("w1", "reports", state=WorkerState.SILENT)).consumers == 1


@pytest.mark.parametrize(
    ("workers", "error"),
    [([], "no broadcasts"), ([worker("w1", tells=False)], None), ([WorkerView("w1", WorkerState.SILENT, NOW_MS, 1)], None)],
    ids=["nobody could ask", "one does not tell", "one is only known by its job"],
)
def test_where_somebody_may_take_them_nothing_is_said_of_consumers(workers: list[WorkerView], error: str | None) -> None:
    """K4: a false alarm is worse than none."""
    view = seen(Waiting(3), *workers, error=error)
    assert (view.consumers, view.unserved) == (None, False)
    assert seen(Waiting(3), *workers, worker("w2", "reports"), error=error).consumers == 1


def test_the_broker_knows_its_consumers_best() -> None:
    """K4: RabbitMQ counts all, also those that are no Celery worker."""
    assert seen(Waiting(3, None, 2)).consumers == 2
    assert seen(Waiting(3, None, 0), worker("w1", tells=False)).unserved


def test_those_that_need_somebody_come_first() -> None:
    """K4: then the longest."""
    waiting = {"a": Waiting(0), "b": Waiting(9), "c": Waiting(1), "d": NOT_KNOWN}
    views = queues_seen(Round(NOW_MS, waiting=waiting), [worker("w1", "a", "b", "d")])
    assert [view.name for view in views] == ["c", "b", "a", "d"]
    assert queues_seen(Round(NOW_MS), []) == []


@pytest.mark.parametrize("queue", ["reports", "big reports; rm -rf ~", "--help", "l'été"])
def test_the_command_to_type_is_exact(queue: str) -> None:
    """K4: a shell reads what is meant, whatever the queue is called."""
    assert worker_command("shop", "reports") == "celery -A shop worker -Q reports"
    assert worker_command("shop") == "celery -A shop worker"
    assert shlex.split(worker_command("shop.app:app", queue)) == ["celery", "-A", "shop.app:app", "worker", "-Q", queue]


ROUTES: list[tuple[Any, set[str]]] = [
    (None, set()),
    ({"a.*": {"queue": "a"}, "b.*": "b", "c.*": {"queue": Queue("c")}, "d.*": {"priority": 1}}, {"a", "b", "c"}),
    ([("a.*", {"queue": "a"}), {"b.*": "b"}, lambda *_: None], {"a", "b"}),
    (("a.*", {"queue": "a"}), {"a"}),
    ("shop.routes.Router", set()),
]


@pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")  # a task's queue works until Celery 6
@pytest.mark.parametrize(("routes", "names"), ROUTES)
def test_the_configuration_names_queues(routes: Any, names: set[str]) -> None:
    """K4: those of task_queues or the default one, of the tasks, and of the routes, in all forms that Celery takes."""
    with tasks_of_their_own():
        app = Celery("shop", broker="memory://", set_as_current=False)
        app.conf.task_routes = routes
        app.task(work, name="shop.mail", queue="mail", shared=False)
        assert queues_named(app) == {"celery", "mail"} | names
        app = Celery("shop", broker="memory://", set_as_current=False)
        app.conf.task_queues = [Queue("big"), Queue("small")]
        assert queues_named(app) == {"big", "small"}


def test_queues_in_which_jobs_have_waited_are_known() -> None:
    """K4: also those that nobody consumes any more, and no configuration names here."""
    waited = [Count("queue_wait", ("sum",), (queue,)) for queue in ("reports", "mail", OTHER)]
    others = [Count("queue_wait", ("sum",)), Count("attempts", ("SUCCESS",), ("shop.work",))]
    assert queues_counted({pack_count(count): 1 for count in [*waited, *others]}) == {"reports", "mail"}
