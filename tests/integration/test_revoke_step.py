"""Celery's own ``revoke``, as a worker's remote control runs it (rule G8)."""

# mypy: allow-untyped-decorators

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from taskora_celery.runtime import Runtime
from taskora_celery.store.journal import decode
from taskora_celery.worker.revoke import RevokeStep
from tests.support.cancels import job_in
from tests.support.scripted_store import ScriptedStore
from tests.support.traced import traced_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

JOB = "job-1"


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


def test_a_revoke_is_stored_once_however_often_the_worker_has_connected(app: Celery, store: ScriptedStore) -> None:
    """G8: the steps of a consumer are started anew behind each lost connection, and its table of commands is the same."""
    asked: list[Any] = []

    def revoke(state: Any, task_id: Any, terminate: bool = False, signal: Any = None) -> dict[str, str]:
        asked.append((task_id, terminate, signal))
        return {"ok": "revoked"}

    job_in(store, "STARTED", JOB)
    mailbox = Mailbox(app, revoke)
    step = RevokeStep(mailbox.consumer)
    for _ in range(3):
        step.start(mailbox.consumer)
    assert mailbox.node.handlers["revoke"](None, task_id=JOB) == {"ok": "revoked"}
    assert asked == [(JOB, False, None)]
    found = Runtime.of(app).readable().read(JOB, 0)
    assert found is not None
    assert [event.data["phase"] for event in decode(found.journal)] == ["requested"]
    assert mailbox.table["revoke"] is revoke, "Celery's own table, which other workers of the process use, is as it was"
