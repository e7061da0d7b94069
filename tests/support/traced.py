"""Run a task's body as a worker does, tracer and all, but in this process: with a store that does what the test says."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.app.trace import build_tracer

from taskora_celery import ContextTask
from taskora_celery.runtime import Runtime
from tests.support.eager_apps import tasks_of_their_own

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskora_celery.store.protocol import JobStore


@contextmanager
def traced_app(store: JobStore, **settings: Any) -> Iterator[Celery]:
    """An app whose jobs run through `traced`, with this store; its broker and its backend are memory."""
    app = Celery("traced", broker="memory://", backend="cache+memory://", task_cls=ContextTask, set_as_current=False)
    app.conf.update({"taskora_flush_interval": 0.005, **settings})
    with tasks_of_their_own():
        Runtime._by_app[app] = Runtime(app, store)
        try:
            yield app
        finally:
            Runtime.forget(app)


def traced(task: Any, *args: Any, task_id: str | None = None, **request: Any) -> tuple[str, Any]:
    """Run one delivery of a job; return the state that Celery gives it, and its result or its exception."""
    task_id = task_id or str(uuid.uuid4())
    tracer = build_tracer(task.name, task, app=task.app)
    told = {
        "id": task_id, "args": list(args), "kwargs": {}, "is_eager": False, "hostname": "w1@host", "retries": 0,
        "delivery_info": {"routing_key": "celery"}, "called_directly": False, **request,
    }  # fmt: skip
    result, info, _, _ = tracer(task_id, list(args), {}, told)
    return ("SUCCESS", result) if info is None else (info.state, info.retval)
