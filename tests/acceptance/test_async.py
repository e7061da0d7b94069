"""``async def`` handlers in real workers of every pool."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from taskora_celery import HandlerCancelledError, JobCancelledError
from tests.support import async_jobs, gates, jobs
from tests.support.recorded import recorded
from tests.support.stopping_jobs import story
from tests.support.waiting import wait_until
from tests.support.worker import STOP_TIMEOUT

if TYPE_CHECKING:
    from celery import Celery

    from tests.support.worker_fixtures import SharedWorker, StartWorker

GRACE = async_jobs.GRACE


def running(handle: Any) -> None:
    """Wait until the handler runs, and the store knows."""
    gates.wait_at(handle.id)
    recorded(handle, "STARTED")


def cancelled(handle: Any, timeout: float = 30.0) -> float:
    """Cancel a job that runs, see it end as cancelled everywhere, and return the seconds that it took."""
    began = time.monotonic()
    assert handle.cancel("stop it").outcome == "requested"
    with pytest.raises(JobCancelledError):
        handle.get(timeout=timeout)
    took = time.monotonic() - began
    assert (handle.state, handle.record().state, handle.record().reason) == ("REVOKED", "REVOKED", "stop it")
    return took


def assert_serves_on() -> None:
    """The process and its loop are as good as ever."""
    assert async_jobs.meet_nobody.delay(3).get(timeout=20) == 3


def test_one_loop_serves_all_jobs_of_a_process(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """M1: what belongs to a loop, as a pool of connections does, is made by one job and used by the next."""
    answers = [async_jobs.share.delay(f"job {n}").get(timeout=20) for n in range(12)]
    by_process: dict[str, list[list[str]]] = {}
    for pid, *found in answers:
        by_process.setdefault(pid, []).append(found)
    for seen in by_process.values():
        assert seen[0] == []
        assert all(found for found in seen[1:])
    assert max(len(seen) for seen in by_process.values()) > 1


def test_a_coroutine_finds_its_own_job_wherever_it_looks(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """M1: its request, its context and its context variables, in child tasks and threads, too, while others run beside it."""
    handles = [async_jobs.look_around.delay(n) for n in range(8)]
    for handle in handles:
        found = handle.get(timeout=30)
        assert found["seen"] == [[handle.id] * 4]
        assert found["before"] == "", "nothing is left of the job before"
        assert [entry.meta["n"] for entry in handle.get_logs()] == list(range(20))
        assert handle.get_progress() == 19


def test_as_many_run_at_once_as_the_pool_has_places(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """M3: one loop is no bottleneck."""
    places = 1 if shared_worker.pool == "solo" else 4
    handles = [async_jobs.meet.delay(n) for n in range(places)]
    for handle in handles:
        gates.wait_at(handle.id)
    for handle in handles:
        gates.open_gate(handle.id)
    assert [handle.get(timeout=20) for handle in handles] == list(range(places))


def test_a_plain_handler_may_run_a_loop_beside_ours(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """M1: asyncio keeps the running loop by thread; greenlets share theirs with our loop, which waits meanwhile."""
    if shared_worker.pool == "solo":
        pytest.skip("nothing runs beside anything")
    coroutine = async_jobs.meet.delay(1)
    gates.wait_at(coroutine.id)
    # One after the other: two greenlets cannot both be in `asyncio.run`, with or without this library.
    assert [async_jobs.run_a_loop.delay(n).get(timeout=20) for n in range(2)] == [0, 1]
    gates.open_gate(coroutine.id)
    assert coroutine.get(timeout=20) == 1


def test_what_a_coroutine_sends_is_its_child(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """M1: Celery finds the parent where it looks for it."""
    handle = async_jobs.send.delay()
    child = jobs.add.AsyncResult(handle.get(timeout=20))
    assert child.get(timeout=20) == 3
    wait_until(lambda: [found.id for found in handle.children or []] == [child.id], "the parent's children")


@pytest.mark.parametrize(("task", "result"), [("retry", 3), ("autoretry", [2, 1])])
def test_a_coroutine_is_retried_as_any_handler(shared_worker: SharedWorker, jobs_app: Celery, task: str, result: Any) -> None:
    """I2, I4: by `ctx.retry` and by Celery's `autoretry_for`."""
    handle = getattr(async_jobs, task).delay()
    assert handle.get(timeout=20) == result
    assert [record.outcome for record in handle.history()][-1] == "SUCCESS"


def test_a_cancel_is_a_cancelled_error_at_the_next_await(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """M2, G3: at once, and the handler may await while it cleans up."""
    handle = async_jobs.obey.delay()
    running(handle)
    gates.open_gate(handle.id)
    assert cancelled(handle) < 5
    assert story(handle.id) == ["started", "cleaned up: cancelled"]
    assert_serves_on()


def test_a_cancel_that_is_swallowed_counts_all_the_same(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """M2, G3: a handler must raise it again; one that returns ends as cancelled."""
    handle = async_jobs.swallow.delay()
    running(handle)
    cancelled(handle)


def test_a_coroutine_that_goes_on_is_closed_behind_its_graces(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """M2, G4: whatever it catches; nothing of it runs on inside the next job, and its process lives."""
    handle = async_jobs.deaf.delay("catch")
    running(handle)
    assert 2 * GRACE < cancelled(handle) < 10
    lines = story(handle.id)
    assert lines.count("caught") >= 2
    assert_serves_on()
    assert len(story(handle.id)) == len(lines), "it takes no further step"
    assert lines[0].startswith("started in ")
    assert not [
        line for line in shared_worker.logs().splitlines() if "Process" in line and "exited" in line and lines[0][11:] in line
    ]


def test_a_process_whose_loop_is_blocked_is_ended(start_worker: StartWorker, jobs_app: Celery) -> None:
    """M2, G4: where even the loop cannot be reached, as for any other handler; only prefork can."""
    start_worker(pool="prefork")
    handle = async_jobs.deaf.delay("block")
    running(handle)
    assert 2 * GRACE < cancelled(handle) < 15
    assert_serves_on()


def test_a_plain_revoke_lets_a_coroutine_run(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """G8: its signal fires, and nothing is interrupted."""
    if shared_worker.pool == "solo":
        pytest.skip("a solo worker hears no remote control while its job runs")
    handle = async_jobs.wait_for_signal.delay()
    running(handle)
    jobs_app.control.revoke(handle.id)
    with pytest.raises(JobCancelledError):
        handle.get(timeout=20)
    assert story(handle.id) == ["saw it"]


def test_a_shield_keeps_a_block_whole(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """G4, M2: what was to interrupt it does so behind it."""
    handle = async_jobs.shielded.delay()
    running(handle)
    assert cancelled(handle) < 5
    assert story(handle.id) == ["whole"]


def test_on_cancel_may_be_a_coroutine(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """G5, M1: it runs on the same loop, with the same request."""
    handle = async_jobs.with_hook.delay("file")
    running(handle)
    cancelled(handle)
    assert story(handle.id) == ["on_cancel file True"]


def test_the_soft_limit_is_a_cancelled_error_and_ends_as_celerys(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """M2, H1: it reaches Celery as SoftTimeLimitExceeded, once, and the process goes on."""
    handle = async_jobs.over_limit.delay()
    with pytest.raises(SoftTimeLimitExceeded):
        handle.get(timeout=20)
    (line,) = story(handle.id)
    assert line.startswith("cleaned up in ")
    assert line.endswith(": timeout")
    assert handle.record().state == "FAILURE"
    assert_serves_on()


def test_a_warm_shutdown_is_a_cancelled_error_and_the_job_goes_on_elsewhere(
    pool: str, start_worker: StartWorker, jobs_app: Celery
) -> None:
    """M2, I3: no attempt is used, and the checkpoint is there."""
    worker = start_worker(pool=pool)
    handle = async_jobs.obey.delay()
    gates.wait_at(handle.id)
    wait_until(lambda: handle.get_progress() == 7, "the report")
    gates.open_gate(handle.id)
    assert worker.stop(STOP_TIMEOUT + 15) == 0
    start_worker(pool=pool)
    assert handle.get(timeout=30) == "delivery 2 of attempt 1 at {'row': 7}"
    assert story(handle.id) == ["started", "cleaned up: shutdown", "started"]


def test_tasks_that_a_handler_leaves_behind_end_with_it(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """M1: they are cancelled, and closed where they catch that; nothing of one job runs on inside the next."""
    handle = async_jobs.leave_behind.delay()
    handle.get(timeout=30)
    lines = story(handle.id)
    assert {"tick", "stubborn"} <= set(lines)
    assert_serves_on()
    assert len(story(handle.id)) == len(lines)
    assert "a handler ended before 2 task(s) that it had started" in shared_worker.logs()


def test_a_handler_that_blocks_the_loop_is_reported_once_with_its_stack(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """M3: in the job's own log, and in the worker's."""
    handle = async_jobs.block.delay(2.0)
    handle.get(timeout=30)
    (entry,) = [entry for entry in handle.get_logs() if "blocks the event loop" in entry.message]
    assert entry.level == "warn"
    assert 'async_jobs.py", line' in entry.meta["stack"]
    if shared_worker.pool not in {"gevent", "eventlet"}:
        assert "time.sleep(seconds)" in entry.meta["stack"]
    assert shared_worker.logs().count(f"job {handle.id} (tests.support.async_jobs.block) has blocked its event loop") == 1


def test_a_cancel_that_nobody_wanted_is_a_failure(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """M2: `CancelledError` never reaches Celery, which knows no outcome for it."""
    handle = async_jobs.cancel_itself.delay()
    with pytest.raises(HandlerCancelledError, match=handle.id):
        handle.get(timeout=20)
    assert (handle.state, handle.record().state) == ("FAILURE", "FAILURE")
