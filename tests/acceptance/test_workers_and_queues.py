"""Workers and queues as they are seen among real workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import celery
import pytest

from taskora_celery import __version__
from taskora_celery.board.access import SecretAuth
from taskora_celery.board.app import Board
from taskora_celery.inspecting import Round
from taskora_celery.listing import JobsReader
from taskora_celery.queues import QueueView, queues_seen
from taskora_celery.rounds import Inspector
from taskora_celery.workers import JOBS_LOOKED_AT, OFFLINE_AFTER, WorkerState, WorkerView, standing_text, workers_seen
from tests.support import gates, jobs, plain_jobs
from tests.support.boards import SECRET, Client, client_of, running
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery

    from tests.support.worker_fixtures import StartWorker


@pytest.fixture
def client(jobs_app: Celery) -> Iterator[Client]:
    """Somebody who is let in to the board of the app's jobs."""
    board = Board(jobs_app, SecretAuth(SECRET), (), read_only=False)
    with running(board) as url, client_of(url) as client:
        yield client


class Fleet:
    """What a page would show of the app's workers and queues."""

    def __init__(self, app: Celery) -> None:
        self.reader = JobsReader.of(app)
        self.inspector = Inspector(app, timeout=0.5)

    def workers(self, later: float = 0.0) -> dict[str, WorkerView]:
        """Go round; return the workers as they would be seen ``later`` seconds from then."""
        found, running = self.inspector.look(), self.reader.glance("STARTED", JOBS_LOOKED_AT, going=True)
        now_ms = found.asked_ms + int(later * 1000)
        return {view.name: view for view in workers_seen(found, running.jobs, now_ms)}

    def wait_for(self, name: str, found: Callable[[WorkerView], bool]) -> WorkerView:
        """Go round until a worker is seen as it should be."""
        return wait_until(lambda: [view for view in self.workers().values() if view.name == name and found(view)], name)[0]

    def queues(self) -> dict[str, QueueView]:
        """Go round; return the queues."""
        found: Round = self.inspector.look()
        running = self.reader.glance("STARTED", JOBS_LOOKED_AT, going=True)
        return {view.name: view for view in queues_seen(found, workers_seen(found, running.jobs, found.asked_ms))}


@pytest.fixture
def fleet(jobs_app: Celery) -> Fleet:
    return Fleet(jobs_app)


def test_a_worker_that_is_killed_is_offline_with_its_running_job(start_worker: StartWorker, fleet: Fleet) -> None:
    """K4: two workers, one dies with a job; the other is online, and says what it is."""
    doomed = start_worker(pool="threads", concurrency=3, hostname="doomed@test", queues="doomed")
    start_worker(pool="prefork", concurrency=2, hostname="other@test", queues=["celery", "mail"])
    handle = jobs.sleep_for.apply_async((600,), queue="doomed")
    fleet.wait_for("doomed@test", lambda view: view.jobs == 1)
    fleet.wait_for("other@test", lambda view: view.answer is not None)
    seen = fleet.workers()
    busy, other = seen["doomed@test"], seen["other@test"]
    assert (handle.record().state, busy.jobs, other.jobs) == ("STARTED", 1, 0)
    assert (busy.state, other.state) == (WorkerState.ONLINE, WorkerState.ONLINE)
    assert busy.answer is not None
    assert (busy.answer.pool, busy.answer.slots, busy.answer.active, busy.queues) == ("threads", 3, 1, ("doomed",))
    assert (busy.answer.version, busy.answer.celery) == (__version__, celery.__version__)
    assert other.answer is not None
    assert (other.answer.pool, other.answer.slots, other.answer.active) == ("prefork", 2, 0)
    assert set(other.queues or ()) == {"celery", "mail"}

    doomed.kill()
    assert fleet.workers()["doomed@test"].state is WorkerState.SILENT, "one answer may be late"
    seen = fleet.workers(later=OFFLINE_AFTER + 1)
    assert standing_text(seen["doomed@test"]) == "offline with 1 running job"
    assert seen["doomed@test"].queues == ("doomed",), "what it was is still known"
    assert list(seen) == ["doomed@test", "other@test"]
    assert seen["other@test"].state is WorkerState.ONLINE


def test_a_worker_that_nobody_has_seen_alive_is_known_by_its_job(start_worker: StartWorker, jobs_app: Celery) -> None:
    """K4: the board was started after it had died."""
    worker = start_worker(pool="solo", hostname="doomed@test")
    handle = jobs.save_and_stop.delay()
    gates.wait_at(handle.id)
    wait_until(lambda: handle.get_progress() == 10, "its report")
    worker.kill()
    fleet = Fleet(jobs_app)
    view = fleet.workers(later=OFFLINE_AFTER + 1)["doomed@test"]
    assert (view.state, view.jobs, view.answer) == (WorkerState.OFFLINE, 1, None)


def test_a_solo_worker_is_silent_while_its_job_shows_life(start_worker: StartWorker, fleet: Fleet) -> None:
    """K4: it does not answer while it runs a job, and is not said to be dead for that."""
    start_worker(pool="solo", hostname="alone@test")
    fleet.wait_for("alone@test", lambda view: view.answer is not None)
    handle = jobs.beat_until_open.delay(True)
    wait_until(lambda: gates.counted(handle.id, "starts"), "the job's start")
    view = fleet.wait_for("alone@test", lambda view: view.jobs == 1)
    assert view.state is WorkerState.SILENT
    assert standing_text(view) == "no answer"
    gates.open_gate(handle.id)
    assert handle.get(timeout=30) == 1
    fleet.wait_for("alone@test", lambda view: view.state is WorkerState.ONLINE)


def test_a_worker_without_this_library_answers_as_well(start_worker: StartWorker, jobs_app: Celery, fleet: Fleet) -> None:
    """K4: with its slots, jobs and queues, by Celery's own commands; it is a consumer like another."""
    start_worker("tests.support.plain_jobs:app", pool="threads", concurrency=2, hostname="plain@test", queues="reports")
    start_worker(pool="solo", hostname="ours@test")
    assert plain_jobs.sleep.name == "plain.sleep"
    jobs_app.send_task("plain.sleep", args=(600,), queue="reports")
    view = fleet.wait_for("plain@test", lambda view: view.answer is not None and view.answer.active == 1)
    assert view.answer is not None
    assert (view.state, view.answer.version, view.answer.slots) == (WorkerState.ONLINE, None, 2)
    assert view.queues == ("reports",)
    assert fleet.queues()["reports"].consumers == 1


def test_only_a_queue_with_messages_and_without_a_consumer_is_warned_of(
    start_worker: StartWorker, jobs_app: Celery, fleet: Fleet
) -> None:  # fmt: skip
    """K4: one with a consumer is not, and an empty one is not."""
    worker = start_worker(pool="solo", hostname="w1@test", queues=["celery", "reports"])
    fleet.wait_for("w1@test", lambda view: view.answer is not None)
    held = jobs.save_and_stop.apply_async(queue="reports")
    gates.wait_at(held.id)
    for queue in ("reports", "mail"):
        for _ in range(8):
            jobs.add.apply_async((1, 2), queue=queue)
    seen = fleet.queues()
    assert seen["celery"].depth == 0
    assert (seen["mail"].depth, seen["mail"].consumers, seen["mail"].unserved) == (8, 0, True)
    assert next(iter(seen)) == "mail"
    assert seen["mail"].oldest_ms is not None
    assert (seen["reports"].consumers, seen["reports"].unserved) == (1, False)
    assert seen["reports"].depth, "it has fetched some, and not all"
    assert [view.name for view in seen.values() if view.unserved] == ["mail"]
    worker.kill()
    found = fleet.inspector.look()
    late = queues_seen(found, workers_seen(found, (), found.asked_ms + int(OFFLINE_AFTER * 1000) + 1))
    assert {view.name for view in late if view.unserved} >= {"mail", "reports"}


def test_the_board_shows_workers_and_queues_as_they_come_and_go(
    start_worker: StartWorker, jobs_app: Celery, client: Client
) -> None:  # fmt: skip
    """K4: a queue's warning goes when a worker comes; one that dies with a job is offline with it, and its queue is warned of."""
    for _ in range(8):
        jobs.add.apply_async((1, 2), queue="mail")
    command = "celery -A jobs worker -Q mail"
    with client.watching("/queues/events") as queues:
        queues.until("fragment", command)
        held = jobs.save_and_stop.apply_async(queue="mail", priority=0)
        worker = start_worker(pool="solo", hostname="doomed@test", queues="mail")
        gates.wait_at(held.id)
        with client.watching("/workers/events") as workers:
            workers.until("fragment", "doomed@test")
            worker.kill()
            workers.until("fragment", "offline with 1 running job")
    assert "doomed@test" in client.get("/workers").text
    for _ in range(2):
        jobs.add.apply_async((1, 2), queue="mail")
    with client.watching("/queues/events") as queues:
        queues.until("fragment", command)
        start_worker(pool="solo", hostname="heir@test", queues="mail")
        while command in queues.until("fragment").data["html"]:
            pass
    with client.watching("/workers/events") as workers:
        assert "heir@test" in workers.until("fragment", "heir@test").data["html"]
