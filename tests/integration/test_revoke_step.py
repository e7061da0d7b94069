"""Celery's own ``revoke``, as a worker's remote control runs it (rule G8)."""

# mypy: allow-untyped-decorators

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import pytest
from celery.worker import state as worker_state

from taskora_celery.errors import StoreUnavailableError
from taskora_celery.runtime import Runtime
from taskora_celery.store.journal import decode
from taskora_celery.worker.revoke import RevokeStep, mailbox_of
from tests.support.cancels import job_in
from tests.support.scripted_store import ScriptedStore
from tests.support.traced import traced_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

JOB = "job-1"


class Active:
    """A request that the pool runs."""

    def __init__(self, job_id: str) -> None:
        self.id = job_id


class Mailbox:
    """The part of a worker's consumer that holds its remote control; it outlives a lost connection."""

    def __init__(self, app: Celery, revoke: Any) -> None:
        self.table = {"revoke": revoke, "ping": None}
        self.node = SimpleNamespace(handlers=self.table)
        box = SimpleNamespace(node=self.node)
        self.consumer = SimpleNamespace(app=app, blueprint=SimpleNamespace(order=[SimpleNamespace(box=box)]))


@pytest.fixture
def store() -> ScriptedStore:
    return ScriptedStore()


@pytest.fixture
def app(store: ScriptedStore) -> Iterator[Celery]:
    with traced_app(store) as made:
        yield made


class Revoked:
    """A worker whose remote control is asked to revoke, and what Celery's own command was asked."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.asked: list[Any] = []
        self.mailbox = Mailbox(app, self._revoke)
        self.step = RevokeStep(self.mailbox.consumer)
        self.step.start(self.mailbox.consumer)

    def _revoke(self, state: Any, task_id: Any, terminate: bool = False, signal: Any = None) -> dict[str, str]:
        self.asked.append((task_id, terminate, signal))
        return {"ok": "revoked"}

    def __call__(self, ids: Any, **options: Any) -> Any:
        return self.mailbox.node.handlers["revoke"](None, task_id=ids, **options)

    def request(self, job_id: str = JOB) -> Any:
        """The request that is stored for a job, None where there is none."""
        return Runtime.of(self.app).cancel_request(job_id)


@pytest.fixture
def revoke(app: Celery, monkeypatch: pytest.MonkeyPatch) -> Revoked:
    monkeypatch.setattr(worker_state, "active_requests", set())
    return Revoked(app)


def test_a_revoke_is_stored_once_however_often_the_worker_has_connected(revoke: Revoked, store: ScriptedStore) -> None:
    """G8: the steps of a consumer are started anew behind each lost connection, and its table of commands is the same."""
    job_in(store, "STARTED", JOB)
    for _ in range(2):
        revoke.step.start(revoke.mailbox.consumer)
    assert revoke(JOB) == {"ok": "revoked"}
    assert revoke.asked == [(JOB, False, None)]
    found = store.read(JOB, 0)
    assert found is not None
    assert [event.data["phase"] for event in decode(found.journal)] == ["requested"]
    assert revoke.mailbox.table["revoke"].__self__ is revoke, "Celery's own table, which other workers use, is as it was"


def test_a_revoke_fires_the_signal_and_never_escalates(revoke: Revoked, store: ScriptedStore) -> None:
    """G8: Celery's revoke never interrupted a running task; who cancels by a handle has asked for more."""
    job_in(store, "STARTED", JOB)
    revoke(JOB)
    assert (revoke.request().gently, revoke.request().reason, revoke.request().by) == (True, "revoked", "celery revoke")


@pytest.mark.parametrize("ids", [["job-1", "job-2"], ("job-1", "job-2")])
def test_a_queued_job_is_dropped_for_good(revoke: Revoked, store: ScriptedStore, ids: Any) -> None:
    """G8: each of those that were named, also by workers that start later."""
    assert revoke(ids) == {"ok": "revoked"}
    assert revoke.asked == [(ids, False, None)]
    assert [store.read(job_id).fields["s"] for job_id in ids] == ["REVOKED"] * 2  # type: ignore[union-attr]


class Changing(WeakSet[Active]):
    """Celery's set of what runs, to which a thread of the pool adds a job while it is gone through."""

    def __iter__(self) -> Iterator[Active]:
        for request in super().__iter__():
            yield request
            if len(self) == 1:
                self.late = Active("late")
                self.add(self.late)


def test_a_job_that_begins_in_the_moment_of_a_revoke_is_no_error(
    revoke: Revoked, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G8: the request is stored all the same, and Celery's answer is the answer."""
    active = Active("other")
    monkeypatch.setattr(worker_state, "active_requests", Changing([active]))
    assert revoke(JOB) == {"ok": "revoked"}
    assert revoke.request() is not None


def test_to_revoke_nothing_is_celerys_business(revoke: Revoked, store: ScriptedStore) -> None:
    """A6: it has its own answer."""
    assert revoke(None) == {"ok": "revoked"}
    assert (revoke.asked, store.listed(10)) == ([(None, False, None)], [])


def test_to_terminate_keeps_celerys_meaning(revoke: Revoked, store: ScriptedStore) -> None:
    """G8: of what runs here Celery ends the process, and no signal fires; what waits is dropped like any other."""
    worker_state.active_requests.add(Active(JOB))
    job_in(store, "STARTED", JOB)
    revoke([JOB, "job-2"], terminate=True, signal="KILL")
    assert revoke.asked == [([JOB, "job-2"], True, "KILL")]
    assert (revoke.request(), store.read("job-2").fields["s"]) == (None, "REVOKED")  # type: ignore[union-attr]


def test_a_store_that_is_away_leaves_celerys_revoke_as_it_is(
    revoke: Revoked, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """G8, L1: it holds until this worker ends, and the log says so."""

    def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailableError("away")

    monkeypatch.setattr(store, "cancel", away)
    assert revoke(JOB) == {"ok": "revoked"}
    assert "holds until this worker ends" in caplog.text


def test_without_remote_control_there_is_nothing_to_do(app: Celery) -> None:
    """G9: a cancel by a handle needs none."""
    steps = [SimpleNamespace(), SimpleNamespace(box=None), SimpleNamespace(box=SimpleNamespace())]
    consumer = SimpleNamespace(app=app, blueprint=SimpleNamespace(order=steps))
    assert mailbox_of(consumer) is None
    RevokeStep(consumer).start(consumer)
    assert steps == [SimpleNamespace(), SimpleNamespace(box=None), SimpleNamespace(box=SimpleNamespace())]
