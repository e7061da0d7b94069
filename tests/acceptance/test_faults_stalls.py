"""Jobs that kill what runs them, and jobs that hang: given up, delivered again, and no more often than they may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import chord

from taskora_celery import JobCancelledError, JobStalledError
from tests.support import fault_jobs, gates, jobs
from tests.support.brokers import lease_of
from tests.support.fault_jobs import HEARTBEAT_TIMEOUT, exits, starts
from tests.support.recorded import recorded
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from taskora_celery import JobHandle
    from tests.support.relay import Relay

in_prefork = pytest.mark.parametrize("pool", ["prefork"], indirect=True, scope="session")
#: Celery looks after its processes every five seconds, and mostly misses the moment in which one ends.
_END = "exitcode 3|no sign of life"


# --- fault 8: handlers that kill ---------------------------------------------------------------------------------------


class Killers:
    """Jobs that end their process at each start, all at one time on one worker; all have ended."""

    def __init__(self, relay: Relay) -> None:
        self.worker = relay.worker()
        self.by_limit = {limit: exits[limit].apply_async((99,), link_error=jobs.remember_error.s()) for limit in (0, 1, 2)}
        self.rejected = fault_jobs.exit_rejected.apply_async((99,), link_error=jobs.remember_error.s())
        self.survivor = exits[None].delay(3)
        body = jobs.total.s().on_error(fault_jobs.note_error.s())
        self.body = chord([jobs.add.s(1, 1), exits[0].s(99)])(body)
        wait_until(lambda: starts(self.by_limit[2].id), "the first start")
        self.others = [jobs.add.delay(n, n).get(timeout=20) for n in range(3)]
        for handle in [*self.by_limit.values(), self.rejected, self.survivor, self.body]:
            handle.get(timeout=60, propagate=False)


@pytest.fixture(scope="module")
def _killers() -> list[Killers]:
    return []


@pytest.fixture
def killers(unswept: Relay, _killers: list[Killers]) -> Killers:
    """One run for all tests of it."""
    if not _killers:
        _killers.append(Killers(unswept))
    return _killers[0]


@in_prefork
@pytest.mark.parametrize("limit", [0, 1, 2])
def test_a_job_that_ends_its_process_each_time_fails_in_the_end(killers: Killers, limit: int) -> None:
    """Fault 8, D6: after `max_stalls`, with the count, the last words and the worker; what is linked to its failure is called."""
    handle = killers.by_limit[limit]
    check_stalled(handle, limit, killers.worker.hostname, _END)
    wait_until(lambda: gates.counted(handle.id, "remembered"), "the errback", timeout=10)
    assert gates.counted(handle.id, "remembered") == 1


@in_prefork
def test_reject_on_worker_lost_is_bounded_likewise(killers: Killers) -> None:
    """Fault 8, D6: by the default of `max_stalls`, with Celery's own options alone."""
    check_stalled(killers.rejected, 1, killers.worker.hostname, "exitcode 3")
    wait_until(lambda: gates.counted(killers.rejected.id, "remembered"), "the errback", timeout=10)


@in_prefork
def test_a_job_without_a_limit_goes_on_until_it_survives(killers: Killers) -> None:
    """D6: with `max_stalls=None` it never fails, and each loss is on its record."""
    assert killers.survivor.get(timeout=20) == "survived"
    status = recorded(killers.survivor)
    assert (status.stalls, status.delivery) == (3, 4)
    assert [record.outcome for record in killers.survivor.history()] == ["LOST", "LOST", "LOST", "SUCCESS"]


@in_prefork
def test_a_chord_sees_a_member_that_ends_its_process(killers: Killers) -> None:
    """Fault 8, D6: the body does not run, and its error callback is called."""
    assert killers.body.state == "FAILURE"
    wait_until(lambda: gates.told(killers.body.id, "errors"), "the body's error callback", timeout=10)
    assert "JobStalledError" in str(gates.told(killers.body.id, "errors")) + str(killers.body.result)


@in_prefork
def test_the_queue_goes_on_behind_jobs_that_end_their_process(killers: Killers) -> None:
    """Fault 8: other jobs of the worker are done meanwhile, and behind them."""
    assert killers.others == [0, 2, 4]
    assert jobs.add.delay(1, 1).get(timeout=20) == 2
    assert killers.worker.running


def check_stalled(handle: JobHandle, limit: int, worker: str, reason: str) -> None:
    """The job has failed for good, and says why, to everybody who asks."""
    times = limit + 1
    with pytest.raises(JobStalledError, match=reason) as caught:
        handle.get(timeout=60)
    error = caught.value
    assert (error.job_id, error.count, error.limit, error.worker) == (handle.id, times, limit, worker)
    assert error.progress == {"start": times}
    assert error.logs == [f"info: last words {number}" for number in range(1, times + 1)]
    status = recorded(handle, "FAILURE")
    assert (status.error, status.stalls) == ("JobStalledError", times)
    assert len(starts(handle.id)) == times
    *lost, end = [record.outcome for record in handle.history()]
    # The last loss is the end itself, or it is found out at the next delivery.
    assert end == "FAILURE"
    assert lost in (["LOST"] * limit, ["LOST"] * times)


def test_a_job_that_kills_its_worker_each_time_fails_in_the_end(unswept: Relay) -> None:
    """Fault 8, D6: whoever takes the job next, as long as somebody starts workers again; the queue goes on."""
    worker = unswept.worker()
    handle = fault_jobs.kill_worker.apply_async((unswept.pool == "prefork",), link_error=jobs.remember_error.s())
    killed: list[str] = []
    while len(killed) < 2:  # max_stalls is 1
        wait_until(lambda: not unswept.living, "the worker's end", timeout=60)
        killed.append(worker.hostname)
        worker = unswept.another()
    with pytest.raises(JobStalledError) as caught:
        handle.get(timeout=60)
    error = caught.value
    assert (error.count, error.limit, error.worker) == (2, 1, killed[1])
    assert error.progress == {"start": 2}
    assert error.logs == ["info: last words 1", "info: last words 2"]
    assert (recorded(handle, "FAILURE").error, len(starts(handle.id))) == ("JobStalledError", 2)
    assert [record.worker for record in handle.history()][:2] == killed
    wait_until(lambda: gates.counted(handle.id, "remembered"), "the errback", timeout=10)
    assert jobs.add.delay(1, 1).get(timeout=20) == 2


# --- fault 9: handlers that hang ---------------------------------------------------------------------------------------


@in_prefork
def test_a_process_that_hangs_is_replaced_and_its_job_delivered_again(unswept: Relay) -> None:
    """Fault 9, D4: in Python, and in C where no other thread of the process runs; the worker's other jobs are unharmed."""
    worker = unswept.worker()
    bystanders = [fault_jobs.stand_watched.delay(), fault_jobs.stand_late.delay()]
    for handle in bystanders:
        _standing(handle)
    hanging = [fault_jobs.hang.delay("python"), fault_jobs.hang.delay("c")]
    for handle in hanging:
        wait_until(lambda job=handle.id: len(starts(job)) == 2, "the second start", timeout=20)  # type: ignore[misc]
        first, second = starts(handle.id)
        # The first sign of life is the start itself, or what was logged just behind it.
        assert HEARTBEAT_TIMEOUT * 0.9 < second["at"] - first["at"] < 2 * HEARTBEAT_TIMEOUT
        assert first["pid"] != second["pid"]
        wait_until(lambda pid=first["pid"]: pid not in worker.members(), "the end of the process", timeout=20)  # type: ignore[misc]
        found = handle.get(timeout=20)
        assert found["delivery"] == 2
        assert "no sign of life for 1.5 s (heartbeat_timeout)" in found["history"][0]["reason"]
        assert recorded(handle).stalls == 1
    for handle in bystanders:
        gates.open_gate(handle.id, "delivery1")
        assert handle.get(timeout=20)["delivery"] == 1
        assert len(starts(handle.id)) == 1
    wait_until(lambda: len(worker.children()) == unswept.slots, "new processes in the place of the old", timeout=20)


@in_prefork
def test_a_process_that_hangs_is_ended_where_others_have_put_its_message_back(unswept: Relay) -> None:
    """D4: another worker was faster to see it, and its own was the first to receive the message."""
    worker = unswept.worker()
    with unswept.client() as client, lease_of(fault_jobs.app) as lease:
        client.set("unacked_mutex", "another worker", ex=600)  # more than any has: when it began is not to be told
        handle = fault_jobs.hang.delay("python")
        first: dict[str, Any] = wait_until(lambda: starts(handle.id), "the first start")[0]
        (due,) = wait_until(lambda: lease.renew([], look=True).due, "the end of its lease", timeout=20)
        lease.put_back(due.tag)
        client.delete("unacked_mutex")
    wait_until(lambda: len(starts(handle.id)) == 2, "the second start", timeout=20)
    wait_until(lambda: first["pid"] not in worker.members(), "the end of the process", timeout=20)
    assert handle.get(timeout=20)["delivery"] == 2


def _standing(handle: JobHandle) -> None:
    wait_until(lambda: starts(handle.id) and handle.get_progress() == 1, f"the start of {handle.id}")


@pytest.mark.parametrize("pool", ["threads", "solo", "gevent", "eventlet"], indirect=True, scope="session")
def test_a_silent_job_is_delivered_again_and_what_it_does_late_is_refused(unswept: Relay) -> None:
    """Fault 9, D4, D7: where no process can be ended its signal fires, and its late result is refused."""
    worker = unswept.worker()
    handle = fault_jobs.hang.delay("silently")
    first: dict[str, Any] = wait_until(lambda: starts(handle.id), "the first start")[0]
    zombie: dict[str, Any] = wait_until(lambda: gates.told(handle.id, "zombie"), "the signal", timeout=20)[0]
    assert (zombie["reason"], zombie["fence"]) == ("superseded", first["fence"])
    # Two see it, and either may be the first to tell: its own process sees the silence, the store that another has begun.
    assert zombie["message"] in {"no sign of life for 1.5 s (heartbeat_timeout)", "it was delivered again"}
    worker.wait_for_log(rf"job {handle.id} \(faults.hang\) is stalled: no sign of life", timeout=20)
    if unswept.pool == "solo":  # the one that runs jobs is busy with this one
        gates.open_gate(handle.id, "late")
    wait_until(lambda: len(starts(handle.id)) == 2, "the second start", timeout=20)
    second = starts(handle.id)[1]
    assert second["at"] - first["at"] < 2 * HEARTBEAT_TIMEOUT
    assert (second["delivery"], second["fence"] > first["fence"]) == (2, True)
    gates.open_gate(handle.id, "late")
    assert handle.get(timeout=20)["delivery"] == 2
    assert (recorded(handle).stalls, recorded(handle).delivery) == (1, 2)
    assert handle.history()[0].reason == "no sign of life for 1.5 s (heartbeat_timeout)"
    assert [entry.message for entry in handle.get_logs()] == ["start 1", "start 2"]
    assert jobs.add.delay(1, 1).get(timeout=20) == 2


@pytest.mark.parametrize("pool", ["threads", "solo", "gevent", "eventlet"], indirect=True, scope="session")
def test_jobs_that_hang_in_all_places_of_a_pool_fail_while_they_hang(unswept: Relay) -> None:
    """D6: where no process can be ended no place is free for another delivery, so the worker's parent stores the end, once."""
    worker = unswept.worker()
    remember = jobs.remember_error.s()
    handles = [fault_jobs.hang_for_good.apply_async(link_error=remember) for _ in range(unswept.slots)]
    for handle in handles:
        with pytest.raises(JobStalledError, match="no sign of life") as caught:
            handle.get(timeout=20)
        assert (caught.value.count, caught.value.limit, caught.value.worker) == (1, 0, worker.hostname)
        assert [run.outcome for run in handle.history()] == ["FAILURE"]
        worker.wait_for_log(rf"job {handle.id} \(faults.hang_for_good\) is stalled: no sign of life .*; it fails", timeout=5)
    with unswept.client() as client:
        assert client.hlen("unacked") == 0
    for handle in handles:
        gates.open_gate(handle.id, "late")
    assert jobs.add.delay(1, 1).get(timeout=20) == 2
    for handle in handles:
        wait_until(lambda job=handle.id: gates.counted(job, "remembered"), "the errback", timeout=20)  # type: ignore[misc]
        assert (gates.counted(handle.id, "remembered"), len(starts(handle.id)), handle.state) == (1, 1, "FAILURE")


@pytest.mark.parametrize("pool", ["threads", "gevent"], indirect=True, scope="session")
def test_a_job_that_hangs_behind_its_cancel_is_revoked_while_it_hangs(unswept: Relay) -> None:
    """D6, G6: nobody else could say so before a place is free."""
    unswept.worker()
    handle = fault_jobs.hang_for_good.apply_async()
    wait_until(lambda: starts(handle.id), "the start")
    assert handle.cancel("stop it", grace=60).outcome == "requested"
    with pytest.raises(JobCancelledError, match="stop it"):
        handle.get(timeout=20)
    assert (handle.state, recorded(handle, "REVOKED").state) == ("REVOKED", "REVOKED")
    gates.open_gate(handle.id, "late")
    assert jobs.add.delay(1, 1).get(timeout=20) == 2
    assert (handle.state, len(starts(handle.id))) == ("REVOKED", 1)
