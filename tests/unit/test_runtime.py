"""What an app's jobs share in one process, and who sets it up."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from taskora_celery import runtime as runtime_module
from taskora_celery.context import JobInfo
from taskora_celery.runtime import Runtime
from taskora_celery.stopping import JobStop
from tests.support.cancels import request
from tests.support.executions import NOW_MS, ScriptedExecution
from tests.support.scripted_store import ScriptedStore
from tests.support.traced import traced_app

if TYPE_CHECKING:
    import pytest


def test_no_job_begins_before_the_process_is_ready_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """F6, K6: of two that are the first at once, one makes it ready; the other's log would not be captured until then."""
    begun, go_on = threading.Event(), threading.Event()

    def install(_: object) -> None:
        begun.set()
        go_on.wait(10)

    monkeypatch.setattr(runtime_module, "install_capture", install)
    with traced_app(ScriptedStore()) as app:
        runtime = Runtime.of(app)
        jobs = [threading.Thread(target=runtime.prepare) for _ in range(2)]
        jobs[0].start()
        assert begun.wait(10)
        jobs[1].start()
        jobs[1].join(0.2)
        waits = jobs[1].is_alive()
        go_on.set()
        for job in jobs:
            job.join(10)
    assert waits


def test_a_job_that_is_about_to_begin_is_told_what_the_store_has_said_of_it() -> None:
    """G3: it is registered, so that the reporter's thread asks for it; told once, it would never be told again."""
    with traced_app(ScriptedStore()) as app:
        runtime = Runtime.of(app)
        store = runtime.readable()
        ScriptedExecution(store)
        store.cancel(request())
        ctx = runtime.new_context("job-1", "shop.work", 1, info=JobInfo(timestamp=NOW_MS - 500), time=runtime.clock.time)
        assert runtime._on_stopping(ctx)
        stop = JobStop(runtime.stopper, ctx, worker="w1@host", grace=60.0, in_child=False)
        runtime.stopper.watch(stop)
        stop.close_for_good()
    assert ctx.signal.reason == "cancelled"
