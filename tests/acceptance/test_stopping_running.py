"""Cancels of jobs that run: those that obey, and those that do not."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from celery import chain, chord, group, states

from taskora_celery import Event, JobCancelledError, JobHandle
from taskora_celery.runtime import Runtime
from taskora_celery.store.journal import decode
from tests.support import gates, jobs, stopping_jobs
from tests.support.recorded import recorded
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from celery import Celery

    from tests.support.worker_fixtures import SharedWorker, StartWorker

GRACE = 0.5  # seconds: that of the deaf tasks


def started(handle: Any) -> None:
    """Wait until the handler runs, and the store knows: a request before that counts as one before the beginning."""
    gates.wait_at(handle.id)
    recorded(handle, "STARTED")


def cancelled(handle: Any, reason: str = "stop it", timeout: float = 30.0, **options: Any) -> float:
    """Cancel a job that runs, see it end as cancelled everywhere, and return the seconds that it took."""
    began = time.monotonic()
    assert handle.cancel(reason, **options).outcome == "requested"
    with pytest.raises(JobCancelledError) as caught:
        handle.get(timeout=timeout)
    took = time.monotonic() - began
    assert (caught.value.reason, caught.value.job_id) == (reason, handle.id)
    assert (handle.state, handle.record().state, handle.record().reason) == ("REVOKED", "REVOKED", reason)
    return took


def seen(handle: Any) -> list[Event]:
    """What is in the job's journal just now."""
    found = Runtime.of(handle.app).readable().read(handle.id, 0)
    return [] if found is None else decode(found.journal)


def phases(handle: Any) -> list[str]:
    """The steps of the cancel, as the journal has them."""
    return [event.data["phase"] for event in handle.events(timeout=5) if event.kind == "cancel"]


@pytest.mark.parametrize("how", ["sleep", "look", "listen", "wait", "raise", "retry"])
def test_a_handler_that_obeys_ends_at_once(shared_worker: SharedWorker, jobs_app: Celery, how: str) -> None:
    """G3, G6: by raising or by returning, also with a result, an error of its own or a retry; none of it counts."""
    handle = stopping_jobs.obey.delay(how)
    started(handle)
    assert cancelled(handle) < 5  # the default grace is ten seconds
    assert stopping_jobs.story(handle.id).count("started") == 1
    assert [entry.message for entry in handle.get_logs()] == ["runs"]
    assert phases(handle)[:2] == ["requested", "delivered"]


def test_a_cancel_in_the_first_moment_of_a_run_knows_that_it_runs(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """G2, G3: who is told that a job will never run may give the money back; it is told only of one that never does."""
    for _ in range(10):
        handle = stopping_jobs.obey.delay("sleep")
        gates.wait_at(handle.id)
        assert handle.cancel("stop it", wait=20).outcome == "cancelled"
        assert phases(handle)[0] == "requested"
        lines = stopping_jobs.story(handle.id)
        again = stopping_jobs.obey.delay("sleep")
        gates.wait_at(again.id)
        assert again.cancel("stop it").outcome == "requested"
        with pytest.raises(JobCancelledError):
            again.get(timeout=20)
        assert stopping_jobs.story(handle.id) == lines, "nothing of it ran on behind the answer"


@pytest.mark.parametrize("how", ["sleep", "loop"])
def test_a_deaf_handler_is_interrupted_when_its_grace_is_over(shared_worker: SharedWorker, jobs_app: Celery, how: str) -> None:
    """G4: out of a blocking call, too, but in threads, where that has to return; a greenlet that never waits is not reached."""
    pool = shared_worker.pool
    if pool in {"gevent", "eventlet"} and how == "loop":
        pytest.skip("nothing else runs meanwhile, so nobody could interrupt it")
    blocked = pool == "threads" and how == "sleep"
    handle = stopping_jobs.deaf.delay(how, 2.0 if blocked else 60.0)
    started(handle)
    took = cancelled(handle)
    assert GRACE < took < 10
    wait_until(lambda: "left" in stopping_jobs.story(handle.id), "the handler's end")
    assert stopping_jobs.story(handle.id)[:3] == ["started", "interrupted", "left"]
    assert phases(handle)[:3] == ["requested", "delivered", "interrupted"]
    assert jobs.add.delay(1, 2).get(timeout=20) == 3


@pytest.mark.parametrize("how", ["swallow", "lock"])
def test_a_process_whose_job_does_not_stop_is_ended_and_the_others_go_on(
    start_worker: StartWorker, jobs_app: Celery, how: str
) -> None:
    """G4: by itself behind the second grace, by the worker's parent where even that cannot run; the pool is whole again."""
    worker = start_worker(concurrency=2)
    other = stopping_jobs.hold.delay()
    started(other)
    before = worker.children()
    handle = stopping_jobs.deaf.delay(how, 60.0)
    started(handle)
    took = cancelled(handle)
    assert 2 * GRACE < took < 15
    assert "left" not in stopping_jobs.story(handle.id)
    gates.open_gate(other.id)
    assert other.get(timeout=20) is None
    wait_until(lambda: len(worker.children()) == 2, "a pool of two")
    assert len(set(before) & set(worker.children())) == 1
    assert [jobs.add.delay(n, 1).get(timeout=20) for n in range(4)] == [1, 2, 3, 4]
    assert worker.stop() == 0


def test_a_shielded_block_stays_whole(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """G4: the interruption waits for the end of the shield."""
    handle = stopping_jobs.shielded.delay(0.6)
    started(handle)
    cancelled(handle)
    assert stopping_jobs.story(handle.id)[:3] == ["started", "whole", "interrupted"]


@pytest.mark.parametrize("task", [stopping_jobs.clean_by_option, stopping_jobs.clean_by_method], ids=["option", "method"])
def test_on_cancel_runs_between_the_handler_and_the_outcome(shared_worker: SharedWorker, jobs_app: Celery, task: Any) -> None:
    """G5: who sees the outcome finds its logs; it has the arguments and the context."""
    handle = task.delay("well")
    started(handle)
    cancelled(handle)
    assert stopping_jobs.story(handle.id)[:3] == ["left", "cleans cancelled", "cleaned"]
    assert [(entry.message, entry.meta) for entry in handle.get_logs()] == [("cleaning up", {"how": "well"})]


def test_an_error_in_on_cancel_is_logged_and_changes_nothing(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """G5: the job ends as cancelled all the same."""
    handle = stopping_jobs.clean_by_option.delay("error")
    started(handle)
    cancelled(handle)
    first, second = handle.get_logs()
    assert (first.message, second.message, second.level) == ("cleaning up", "on_cancel failed", "error")
    assert second.meta is not None
    assert "no way to clean up" in second.meta["error"]


def test_on_cancel_has_no_more_time_than_the_grace(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """G5: it is interrupted likewise."""
    handle = stopping_jobs.clean_by_option.delay("slow")
    started(handle)
    assert GRACE < cancelled(handle) < 10
    assert "cleaned" not in stopping_jobs.story(handle.id)
    assert jobs.add.delay(1, 2).get(timeout=20) == 3


def test_celerys_signal_and_event_tell_of_the_cancel_once(pool: str, start_worker: StartWorker, jobs_app: Celery) -> None:
    """G6: ``task_revoked`` and ``task-revoked``, for a job that ran and for one that had not begun."""
    start_worker(pool=pool, args=["-E"])
    events: list[str] = []
    connection = jobs_app.connection_for_read()
    receiver = jobs_app.events.Receiver(connection, handlers={"task-revoked": lambda event: events.append(event["uuid"])})

    thread = threading.Thread(target=receiver.capture, kwargs={"limit": None, "wakeup": False}, daemon=True)
    thread.start()
    running, scheduled = stopping_jobs.obey.delay("sleep"), stopping_jobs.mark.apply_async(countdown=1)
    started(running)
    cancelled(running)
    assert scheduled.cancel().outcome == "cancelled"
    for handle in (running, scheduled):
        wait_until(lambda: stopping_jobs.story(f"{handle.id}:revoked"), "Celery's signal")  # noqa: B023
        wait_until(lambda: handle.id in events, "Celery's event")  # noqa: B023
        assert events.count(handle.id) == 1
        assert stopping_jobs.story(f"{handle.id}:revoked") == ["terminated=False"]
    receiver.should_stop = True


def test_a_canvas_with_a_cancelled_member_ends_as_with_a_failed_one(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """G6: the chain stops, the group says it, the chord's body gets an error, and ``link_error`` is called."""
    linked = stopping_jobs.obey.apply_async(("sleep",), link_error=stopping_jobs.tell_error.s())
    started(linked)
    cancelled(linked)
    wait_until(lambda: "error JobCancelledError" in stopping_jobs.story(linked.id), "link_error")

    last = chain(stopping_jobs.obey.s("sleep"), jobs.remember.s())()
    first = jobs_app.AsyncResult(last.parent.id)
    started(stopping_jobs.obey.AsyncResult(first.id))
    cancelled(stopping_jobs.obey.AsyncResult(first.id))
    wait_until(lambda: last.state == states.REVOKED, "the end of the chain, which Celery stores behind that of its member")

    if shared_worker.pool != "solo":
        both = group(jobs.add.s(1, 2), stopping_jobs.obey.s("sleep"))()
        started(both.children[1])  # itself: Celery 5.5 listens to a job no more when another handle of it goes
        cancelled(both.children[1])
        with pytest.raises(JobCancelledError):
            both.get(timeout=20)

    body = chord([jobs.add.s(1, 2), stopping_jobs.obey.s("sleep")])(jobs.total.s())
    member = body.parent.children[1]
    started(member)
    cancelled(member)
    with pytest.raises(Exception, match="cancelled"):
        body.get(timeout=20)
    wait_until(lambda: body.state == states.FAILURE, "the end of the chord's body")


def test_a_plain_revoke_fires_the_signal_and_no_more(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """G8: a deaf handler is not interrupted, since Celery's revoke never was that; its result does not count."""
    if shared_worker.pool == "solo":
        pytest.skip("a solo worker hears no remote control while it runs")
    handle = stopping_jobs.deaf.delay("sleep", 4 * GRACE)
    started(handle)
    jobs_app.control.revoke(handle.id)
    with pytest.raises(Exception, match="revoked"):
        handle.get(timeout=20)
    recorded(handle, "REVOKED")
    wait_until(lambda: "left" in stopping_jobs.story(handle.id), "the handler's own end")
    assert "interrupted" not in stopping_jobs.story(handle.id)
    assert phases(handle)[:2] == ["requested", "delivered"]
    obeying = stopping_jobs.obey.delay("wait")
    started(obeying)
    jobs_app.control.revoke(obeying.id)
    wait_until(lambda: "woken cancelled" in stopping_jobs.story(obeying.id), "the signal")
    recorded(obeying, "REVOKED")


def test_revoke_with_terminate_keeps_celerys_meaning(start_worker: StartWorker, jobs_app: Celery) -> None:
    """G8: the process is ended at once, and the record says REVOKED, as the backend does."""
    worker = start_worker(concurrency=2)
    handle = stopping_jobs.obey.delay("wait")
    started(handle)
    before = worker.children()
    jobs_app.control.revoke(handle.id, terminate=True)
    wait_until(lambda: set(before) != set(worker.children()), "the end of the process")
    recorded(handle, "REVOKED")
    wait_until(lambda: handle.state == "REVOKED", "the state in the result backend")
    assert stopping_jobs.story(handle.id)[:1] == ["started"]
    assert "woken cancelled" not in stopping_jobs.story(handle.id)
    assert [jobs.add.delay(n, 1).get(timeout=20) for n in range(4)] == [1, 2, 3, 4]


def test_revoke_with_terminate_is_a_plain_revoke_in_threads(start_worker: StartWorker, jobs_app: Celery) -> None:
    """G8: Celery can end no thread; the signal fires, and the log has one line of it instead of a traceback."""
    worker = start_worker(pool="threads")
    handle = stopping_jobs.obey.delay("wait")
    started(handle)
    jobs_app.control.revoke(handle.id, terminate=True)
    recorded(handle, "REVOKED")
    worker.wait_for_log(rf"job {handle.id} \(.*\) cannot be ended in a pool of kind 'thread': terminate fires its signal")
    assert "NotImplementedError" not in worker.logs()


def test_a_plain_revoke_keeps_the_result_of_a_handler_without_a_context(
    pool: str, start_worker: StartWorker, jobs_app: Celery
) -> None:
    """G8: as in plain Celery."""
    if pool == "solo":
        pytest.skip("hears of a revoke only behind its job")
    start_worker(pool=pool)
    handle = stopping_jobs.without_context.delay()
    started(handle)
    jobs_app.control.revoke(handle.id)
    wait_until(lambda: "delivered" in [step.data["phase"] for step in seen(handle) if step.kind == "cancel"], "the signal")
    gates.open_gate(handle.id)
    assert recorded(handle).state == "SUCCESS"
    # Handles that have not seen what Celery 5.6 stores at once, REVOKED, and take for the end.
    wait_until(lambda: JobHandle(handle.id, app=jobs_app).state == "SUCCESS", "the result")
    assert JobHandle(handle.id, app=jobs_app).get(timeout=20) == "kept"


def test_a_cancel_needs_no_remote_control(pool: str, start_worker: StartWorker, jobs_app: Celery) -> None:
    """G9: nothing of it goes by way of Celery's mailbox."""
    start_worker(
        pool=pool, args=["--without-gossip"], env=jobs.configured(worker_enable_remote_control=False), concurrency=2
    )  # fmt: skip
    handle = stopping_jobs.obey.delay("sleep")
    started(handle)
    assert cancelled(handle) < 5
