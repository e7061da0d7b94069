"""The context inside real workers of all five pools."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from celery import Celery, chain, chord, group
from celery.beat import ScheduleEntry, Scheduler

from taskora_celery import JobHandle, JobNotFoundError, NoActiveJobError, current_context
from tests.support import gates, jobs, reporting_jobs
from tests.support.recorded import recorded
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.support.worker_fixtures import SharedWorker

pytestmark = pytest.mark.usefixtures("shared_worker")


def test_a_handler_gets_its_context_in_every_form(jobs_app: Celery) -> None:
    """A1: by annotation or by name, at any place, keyword-only, after self, in a class-based task."""
    for task in (jobs.annotated, jobs.keyword_only, jobs.bound, jobs.class_task, jobs.unaware):
        handle = task.delay({"row": 1})
        assert handle.get(timeout=20) == [{"row": 1}, handle.id], task.name


def test_code_far_below_a_handler_finds_the_context(jobs_app: Celery) -> None:
    """A3: current_context() is the handler's own context at any depth; outside a job there is none."""
    handle = jobs.identify.delay("rows")
    assert handle.get(timeout=20)["same"] is True
    assert current_context(None) is None
    with pytest.raises(NoActiveJobError):
        current_context()


def test_a_task_called_directly_inside_a_job_shares_its_context(jobs_app: Celery) -> None:
    """A5: a direct call is no job of its own."""
    handle = jobs.nested.delay("x")
    assert handle.get(timeout=20) == [{"inner": "x"}, handle.id, handle.id]


def test_a_users_own_base_class_keeps_its_call_and_its_hooks(jobs_app: Celery) -> None:
    """A4, A6: ``__call__``, ``before_start``, ``on_success`` and ``after_return`` run once each, without super()."""
    handle = jobs.class_task.delay(1)
    assert handle.get(timeout=20) == [1, handle.id]
    for hook in ("call", "before_start", "on_success", "after_return"):
        wait_until(lambda hook=hook: gates.counted(handle.id, hook), hook, timeout=5)  # type: ignore[misc]
        assert gates.counted(handle.id, hook) == 1, hook


def test_an_untracked_task_leaves_no_trace(jobs_app: Celery) -> None:
    """A7: no context, no record."""
    handle = jobs.untracked.delay(1)
    assert handle.get(timeout=20) == [1, None]
    with pytest.raises(JobNotFoundError):
        handle.record()


def test_callers_of_every_kind_leave_the_context_out(jobs_app: Celery) -> None:
    """A2: delay, signatures, chain, group, chord, link, and a beat schedule."""
    assert jobs.bound.s(2).apply_async().get(timeout=20)[0] == 2
    assert jobs.bound.si(3).delay().get(timeout=20)[0] == 3
    assert chain(jobs.add.s(1, 2), jobs.bound.s())().get(timeout=20)[0] == 3
    assert [r[0] for r in group(jobs.bound.s(n) for n in range(3))().get(timeout=20)] == [0, 1, 2]
    assert chord([jobs.retry_once_in_canvas.s(n) for n in (1, 2)], jobs.total.s())().get(timeout=20) == 3

    linked = jobs.add.apply_async((20, 3), link=jobs.remember.s())
    wait_until(lambda: gates.counted("23", "remembered"), "the linked task", timeout=10)
    assert linked.get(timeout=20) == 23

    scheduler = Scheduler(jobs_app, lazy=True)
    entry = ScheduleEntry("every-minute", jobs.bound.name, schedule=timedelta(minutes=1), args=("beat",), app=jobs_app)
    assert scheduler.apply_async(entry).get(timeout=20)[0] == "beat"


def test_wrong_arguments_are_refused_at_the_caller(jobs_app: Celery) -> None:
    """A2: Celery's own check still works, and never counts the context; a context that is passed is refused."""
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'data'"):
        jobs.identify.delay()
    with pytest.raises(TypeError, match="takes 1 positional argument but 2 were given"):
        jobs.identify.delay(1, 2)
    with pytest.raises(TypeError, match="callers leave it out"):
        jobs.identify.delay(1, ctx=None)


def test_a_publisher_without_the_library_can_send_jobs(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """A2, B4: plain Celery's send_task works; the creation time is then that of the first receipt."""
    plain = Celery("plain", broker=shared_worker.redis_url, backend=shared_worker.redis_url, set_as_current=False)
    before = int(time.time() * 1000)
    result = plain.send_task(jobs.identify.name, ("rows",))
    found = result.get(timeout=20)
    assert found["data"] == "rows"
    assert before <= found["timestamp"] <= time.time() * 1000
    assert recorded(JobHandle(result.id, app=jobs_app)).created_ms == found["timestamp"]
    plain.close()


def test_a_job_knows_who_it_is(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """B1, B2, B3, B4, B5, B6: what stands in the context of a first attempt."""
    before = int(time.time() * 1000)
    handle = jobs.identify.apply_async(("rows",), countdown=0.2)
    sent = int(time.time() * 1000)
    found = handle.get(timeout=20)
    assert (found["id"], found["name"]) == (handle.id, "tests.support.jobs.identify")
    assert (found["attempt"], found["max_attempts"], found["delivery"]) == (1, 4, 1)
    assert before <= found["timestamp"] <= sent, "stamped by the publisher, not by the worker"
    assert found["created"] == found["timestamp"] / 1000
    assert 290 < found["remaining"] <= 300
    assert found["history"] == []
    assert found["fence"] > 0
    status = recorded(handle)
    assert (status.worker, status.created_ms) == (shared_worker.hostname, found["timestamp"])
    assert 290 < found["deadline"] - status.started_ms / 1000 <= 300.5


def test_a_job_without_time_limit_has_no_deadline(jobs_app: Celery) -> None:
    """B5: None where there is no limit; the limit of the call wins over that of the task."""
    found = jobs.retry_with.delay([]).get(timeout=20)
    assert (found["deadline"], found["remaining"]) == (None, None)
    found = jobs.identify.apply_async((1,), soft_time_limit=30, time_limit=60).get(timeout=20)
    assert 25 < found["remaining"] <= 30


def test_a_retry_is_the_next_attempt_of_the_same_job(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """B2, B3, B4, B6, I4: attempt counts, delivery begins anew, the creation time stays, history tells why."""
    handle = jobs.retry_with.delay([0, 0.2])
    found = handle.get(timeout=20)
    assert (found["id"], found["attempt"], found["max_attempts"], found["delivery"]) == (handle.id, 3, 6, 1)
    first, second = found["history"]
    assert (first["number"], first["delivery"], first["worker"]) == (1, 1, shared_worker.hostname)
    assert (first["outcome"], first["reason"]) == ("RETRY", "rate limited 1")
    assert (first["error"], first["delay"]) == ("ConnectionError", 0)
    assert (second["number"], second["reason"], second["delay"]) == (2, "rate limited 2", 0.2)
    assert found["timestamp"] <= first["started_ms"] <= second["started_ms"]
    assert 0 <= first["duration"] < 10
    assert found["timestamp"] == handle.record().created_ms


def test_a_context_serves_threads_and_coroutines(jobs_app: Celery) -> None:
    """B7: every entry of four threads and of an event loop is there, in the order of each."""
    handle = jobs.share_context.delay(4)
    assert handle.get(timeout=30)["ids"] == [handle.id] * 5
    messages = [entry.message for entry in handle.get_logs()]
    assert len(messages) == 4 * 25 + 5
    for number in range(4):
        own = [message for message in messages if message.startswith(f"thread {number} ")]
        assert own == [f"thread {number} entry {n}" for n in range(25)]
    assert handle.get_progress() == {"done": True}


def test_no_job_leaves_a_context_behind(jobs_app: Celery) -> None:
    """A3: after many jobs in the same threads and greenlets, an untracked one still finds none."""
    handles = [reporting_jobs.report_and_return.delay(n) for n in range(20)]
    assert [handle.get(timeout=20) for handle in handles] == list(range(20))
    assert jobs.untracked.delay(1).get(timeout=20) == [1, None]
