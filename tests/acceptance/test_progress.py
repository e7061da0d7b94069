"""Progress and checkpoints of running jobs, as an observer sees them."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import pytest
from celery.result import AsyncResult

from tests.support import gates, jobs, reporting_jobs
from tests.support.recorded import recorded
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from celery import Celery

    from tests.support.worker_fixtures import SharedWorker

pytestmark = pytest.mark.usefixtures("shared_worker")


def _backend_shows(handle: Any, app: Celery, expected: Any) -> None:
    """Wait until any Celery tool sees this progress."""

    def seen() -> bool:
        result = AsyncResult(handle.id, app=app)
        return (result.state, result.info) == ("PROGRESS", expected)

    wait_until(seen, f"PROGRESS with {expected}", timeout=10)


def test_progress_is_seen_while_the_job_runs_and_afterwards(jobs_app: Celery) -> None:
    """E1, E3, E4, E6: in the record and as PROGRESS; a number under the usual keys, an object as itself; the last after get()."""
    handle = reporting_jobs.report_at_gates.delay([33, {"stage": "b", "rows": [1, 2]}, 12.5])
    gates.wait_at(handle.id)
    wait_until(lambda: handle.get_progress() == 33, "the first report", timeout=10)
    _backend_shows(handle, jobs_app, {"progress": 33, "current": 33, "total": 100, "percent": 33.0})
    gates.open_gate(handle.id)
    gates.wait_at(handle.id)
    wait_until(lambda: handle.get_progress() == {"stage": "b", "rows": [1, 2]}, "the second report", timeout=10)
    _backend_shows(handle, jobs_app, {"stage": "b", "rows": [1, 2]})
    gates.open_gate(handle.id)
    gates.wait_at(handle.id)
    _backend_shows(handle, jobs_app, {"progress": 12.5, "current": 12.5, "total": 100, "percent": 12.5})
    gates.open_gate(handle.id)
    assert handle.get(timeout=20) == "done"
    assert handle.get_progress() == 100
    status = handle.record()
    assert (status.state, status.progress, status.progress_mark) == ("SUCCESS", 100, None)
    assert AsyncResult(handle.id, app=jobs_app).state == "SUCCESS"


def test_steps_and_tracked_items_are_shown_with_their_share(jobs_app: Celery) -> None:
    """E1, E4, E7: ``current``, ``total``, ``message`` and ``percent``; ctx.track ends with the last item."""
    handle = reporting_jobs.report_steps.delay()
    gates.wait_at(handle.id)
    steps = {"current": 3, "total": 8, "percent": 37.5, "message": "reading"}
    wait_until(lambda: handle.get_progress() == steps, "the steps", timeout=10)
    _backend_shows(handle, jobs_app, steps)
    gates.open_gate(handle.id)
    assert handle.get(timeout=20) == "done"
    assert handle.get_progress() == {"current": 40, "total": 40, "percent": 100.0, "message": "writing"}


def test_the_last_report_is_there_whenever_the_outcome_is(jobs_app: Celery) -> None:
    """E3, F4: forty jobs that report at their very end, read the moment that their outcome is known."""
    for n in range(20):
        handle = reporting_jobs.report_and_return.delay(n)
        assert handle.get(timeout=20) == n
        assert (handle.get_progress(), [entry.message for entry in handle.get_logs()]) == (n, [f"entry {n}"])
        assert handle.record().state == "SUCCESS"
        failed = reporting_jobs.report_and_fail.delay(n)
        with pytest.raises(ValueError, match=f"no {n}"):
            failed.get(timeout=20)
        assert (failed.get_progress(), [entry.message for entry in failed.get_logs()]) == (n, [f"entry {n}"])
        status = failed.record()
        assert (status.state, status.error, status.reason) == ("FAILURE", "ValueError", f"no {n}, password=[redacted]")


def test_a_silent_jobs_end_is_recorded_soon(jobs_app: Celery) -> None:
    """E6, J2: a job that reports nothing does not wait for the store; its record comes with the next flush."""
    handle = jobs.add.delay(1, 2)
    assert handle.get(timeout=20) == 3
    recorded(handle)
    assert [record.outcome for record in handle.history()] == ["SUCCESS"]
    assert handle.get_progress() is None


def test_progress_and_checkpoint_are_kept_over_a_retry(jobs_app: Celery) -> None:
    """E4, E8: until the next report the last one stands; the checkpoint is found by the next attempt, and gone after success."""
    handle = reporting_jobs.keep_over_retry.delay()
    gates.wait_at(handle.id)
    assert handle.record().attempt == 2
    assert handle.get_progress() == {"rows": 40}
    gates.open_gate(handle.id)
    assert handle.get(timeout=20) == [40, "rows"]
    assert handle.get_progress() == {"rows": 40}


ODD = [
    ("opaque", "repr", {"what": "<Opaque>", "n": 1}),
    ("nan", None, "nan"),
    ("infinite", None, {"rate": math.inf}),
    ("circular", "repr", {"name": "loop", "self": "<circular>"}),
    ("huge", "cut", "huge"),
    ("surrogate", None, "file-\\udcff"),
    ("large_int", "repr", repr(2**200)),
]


def test_values_that_no_store_takes_harm_no_job(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """E2: unserialisable, NaN, infinite, circular, huge: stored as what can be stored, marked, warned about once."""
    written = shared_worker.log_size()
    handle = reporting_jobs.report_odd.delay([name for name, _, _ in ODD])
    for name, mark, expected in ODD:
        gates.wait_at(handle.id)
        status = wait_until(lambda: _shown(handle, name, expected), f"progress {name}", timeout=10)  # noqa: B023
        assert status.progress_mark == mark, name
        wait_until(lambda: AsyncResult(handle.id, app=jobs_app).state == "PROGRESS", f"PROGRESS {name}", timeout=10)
        assert AsyncResult(handle.id, app=jobs_app).info is not None
        gates.open_gate(handle.id)
    assert handle.get(timeout=20) == "unharmed"
    assert handle.get_progress() == 100
    assert len(re.findall(rf"job {handle.id} \(.*\): a progress value was", shared_worker.logs()[written:])) == 1


def _shown(handle: Any, name: str, expected: Any) -> Any:
    """The job's record if it shows the value, else None."""
    status = recorded(handle, "STARTED")
    value = status.progress
    if name == "nan":
        shown = isinstance(value, float) and math.isnan(value)
    elif name == "huge":
        shown = isinstance(value, dict) and 1000 < len(value.get("text", "")) < 100_000 and value["text"].endswith("…[cut]")
    else:
        shown = value == expected
    return status if shown else None


def test_a_job_whose_result_is_ignored_writes_no_progress_to_the_backend(jobs_app: Celery) -> None:
    """E5: nobody would take it away again; the record has it all the same."""
    handle = reporting_jobs.report_unasked.delay()
    gates.wait_at(handle.id)
    wait_until(lambda: handle.get_progress() == 50, "the report in the record", timeout=10)
    witness = jobs_app.backend.client
    gates.open_gate(handle.id)
    recorded(handle)
    assert not witness.exists(jobs_app.backend.get_key_for_task(handle.id))
    assert AsyncResult(handle.id, app=jobs_app).state == "PENDING"


def test_progress_never_follows_an_outcome(jobs_app: Celery) -> None:
    """E5: the backend publishes each state it stores; the outcome is the last of them."""
    handle = reporting_jobs.report_at_gates.delay([1, 2, 3])
    key = jobs_app.backend.get_key_for_task(handle.id)
    with jobs_app.backend.client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(key)
        for _ in range(3):
            gates.wait_at(handle.id)
            gates.open_gate(handle.id)
        states: list[str] = []

        def ended() -> bool:
            message = pubsub.get_message(timeout=0.05)
            if message is not None:
                states.append(jobs_app.backend.decode_result(message["data"])["status"])
            return "SUCCESS" in states

        wait_until(ended, "the outcome", timeout=20)
        assert jobs.add.delay(1, 1).get(timeout=20) == 2
        assert pubsub.get_message(timeout=0.3) is None
    assert set(states) <= {"PROGRESS", "SUCCESS"}
    assert states[-1] == "SUCCESS"
