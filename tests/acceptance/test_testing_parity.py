"""The test kit against a real worker: the same task ends likewise in both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from taskora_celery.testing import JobRun, run_job
from tests.support import kit_jobs as jobs
from tests.support import kit_quick_jobs as quick_jobs
from tests.support.apps import pointed_at
from tests.support.recorded import recorded
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskora_celery import JobHandle
    from tests.support.worker import Worker
    from tests.support.worker_fixtures import StartWorker

TIMEOUT = 60.0  # seconds


@pytest.fixture
def worker(start_worker: StartWorker, redis_url: str) -> Iterator[Worker]:
    """A worker with threads: its jobs wait side by side."""
    with pointed_at(jobs.app, redis_url):
        yield start_worker("tests.support.kit_quick_jobs:app", "threads", concurrency=8)


#: Each with what happens to it in the kit and how long its delays are, so that a worker is through in a moment.
CASES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "a success": (jobs.reports_in_an_outage, (3,)),
    "encoded values": (jobs.echo, ((1, (2,)),)),
    "a class": (jobs.summing, (1, 2)),
    "a failure": (jobs.fails, ()),
    "a result that cannot be encoded": (jobs.returns_a_set, ()),
    "retries": (jobs.retries, (0.2,)),
    "retries used up": (quick_jobs.retries_in_vain_at_once, ()),
    "autoretry": (quick_jobs.autoretries_at_once, ("os",)),
    "no autoretry": (quick_jobs.autoretries_at_once, ("file",)),
    "a checkpoint": (quick_jobs.remembers_at_once, ()),
    "a rejection": (jobs.rejects_once, ()),
    "a requeue": (jobs.requeues_once, ()),
    "logging": (jobs.logs_elsewhere, ()),
    "a replacement": (jobs.replaced, ()),
}


def _told(handle: JobHandle) -> dict[str, Any]:
    """What an observer can see of a job, less its times."""
    value = handle.result
    record = handle.record()
    return {
        "state": handle.state,
        "result": (type(value).__name__, str(value)),
        "progress": handle.get_progress(),
        "logs": [(e.level, e.message, e.attempt, e.meta, e.logger, e.seq) for e in handle.get_logs()],
        "history": [(r.number, r.delivery, r.outcome, r.reason, r.error, r.delay) for r in handle.history()],
        "record": (record.state, record.attempt, record.delivery, record.reason, record.error, record.logs, record.stalls),
    }


def _recorded(run: JobRun) -> dict[str, Any]:
    """What the kit says by itself, in the same words as far as it has them."""
    value = run.result if run.exception is None else run.exception
    return {
        "state": run.state,
        "result": (type(value).__name__, str(value)),
        "progress": run.progress[-1] if run.progress else None,
        "logs": [(e.level, e.message, e.attempt, e.meta, e.logger) for e in run.logs],
        "delays": [record.delay for record in run.history if record.outcome == "RETRY"],
    }


def test_the_same_task_ends_likewise_in_the_kit_and_in_a_worker(worker: Worker) -> None:
    """O1: state, result, exception, progress, logs, history and record, of every kind of end."""
    handles = {name: task.delay(*args) for name, (task, args) in CASES.items()}
    for name, handle in handles.items():
        wait_until(handle.ready, f"the end of {name}", timeout=TIMEOUT)
        task, args = CASES[name]
        run = run_job(task.s(*args).set(task_id=handle.id))  # its id is in texts
        # That a result could not be encoded is in Celery's result a moment before the worker can write it to the record.
        recorded(handle, handle.state, timeout=TIMEOUT)
        told = _told(handle)
        assert _told(run.handle) == told, name
        theirs = _recorded(run)
        assert theirs.pop("delays") == list(run.delays), name
        told["logs"] = [entry[:-1] for entry in told["logs"]]
        if run.state == "FAILURE":  # the handler's own object against what the result backend made of it
            theirs["result"], told["result"] = theirs["result"][0], told["result"][0]
        assert theirs == {key: told[key] for key in theirs}, name


def test_a_cancel_ends_likewise_in_the_kit_and_in_a_worker(worker: Worker) -> None:
    """O1, G3, G6: REVOKED, with the reason, and the same steps in the journal."""
    handle = jobs.count.delay(1_000)
    wait_until(lambda: handle.get_progress() is not None, "a job that runs", timeout=TIMEOUT)
    receipt = handle.cancel("wrong file")
    wait_until(handle.ready, "the end", timeout=TIMEOUT)
    run = run_job(jobs.count.s(1_000).set(task_id=handle.id), cancel_at=3, cancel_reason="wrong file")
    assert run.receipt is not None
    assert (run.receipt.outcome, run.receipt.reason) == (receipt.outcome, receipt.reason)
    told, theirs = _told(run.handle), _told(handle)
    for one in (told, theirs):
        del one["progress"]  # how far it came is a matter of time
    assert told == theirs
    assert _phases(run.handle) == _phases(handle)


def _phases(handle: JobHandle) -> list[tuple[str, Any]]:
    return [(event.kind, event.data.get("phase")) for event in handle.events(timeout=5) if event.kind == "cancel"]
