"""Processes and whole workers that are killed: what they held comes back, at once or in the time that the job asks for."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import WorkerLostError

from tests.support import fault_jobs, gates, plain_jobs
from tests.support.apps import pointed_at
from tests.support.fault_jobs import HEARTBEAT_TIMEOUT, starts
from tests.support.recorded import recorded
from tests.support.relay import MUTEX_EXPIRE, SWEEP, VISIBILITY_TIMEOUT, held
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from taskora_celery import JobHandle
    from tests.support.relay import Relay

#: Seconds: Celery looks after its processes every five, and mostly misses the moment in which one ends.
AT_ONCE = 8.0

in_prefork = pytest.mark.parametrize("pool", ["prefork"], indirect=True, scope="session")


def standing(handle: JobHandle, number: int = 1) -> dict[str, Any]:
    """Wait for a start of the job, and until its reports are stored; return what it told."""
    wait_until(lambda: len(starts(handle.id)) >= number and handle.get_progress() == number, f"start {number} of {handle.id}")
    return starts(handle.id)[number - 1]


def let_go(handle: JobHandle, *deliveries: int) -> None:
    """Let these deliveries of a job go on."""
    for delivery in deliveries:
        gates.open_gate(handle.id, f"delivery{delivery}")


# --- fault 4: one process of the pool ----------------------------------------------------------------------------------


GIVEN_BACK = [fault_jobs.stand_rejected, fault_jobs.stand_patient]
GIVEN_UP = [fault_jobs.stand_early, fault_jobs.stand_late]


class Killed:
    """The processes of several jobs of one worker were killed at one time, and all jobs have ended."""

    def __init__(self, relay: Relay) -> None:
        self.worker = relay.worker()
        self.handles = {task.name: task.delay() for task in (*GIVEN_BACK, *GIVEN_UP)}
        for pid in [standing(handle)["pid"] for handle in self.handles.values()]:
            os.kill(pid, signal.SIGKILL)
        self.at = time.time()
        for task in GIVEN_BACK:
            standing(self.handles[task.name], 2)
            let_go(self.handles[task.name], 2)
        for handle in self.handles.values():
            handle.get(timeout=20, propagate=False)


@pytest.fixture(scope="module")
def _killed() -> list[Killed]:
    return []


@pytest.fixture
def killed(unswept: Relay, _killed: list[Killed]) -> Killed:
    """One disaster for all tests of it."""
    if not _killed:
        _killed.append(Killed(unswept))
    return _killed[0]


@in_prefork
@pytest.mark.parametrize("task", GIVEN_BACK, ids=["rejected", "watched"])
def test_the_job_of_a_killed_process_is_delivered_again_at_once(killed: Killed, task: Any) -> None:
    """Fault 4, B2, B3, B6, E8: with `reject_on_worker_lost`, and with `heartbeat_timeout` alone; visibility timeout an hour."""
    handle = killed.handles[task.name]
    first, second = starts(handle.id)
    assert second["at"] - killed.at < AT_ONCE
    assert first["pid"] != second["pid"]
    found = handle.get(timeout=20)
    assert (found["attempt"], found["delivery"], found["checkpoint"]) == (1, 2, {"row": 100})
    (lost,) = found["history"]
    assert (lost["number"], lost["delivery"], lost["outcome"], lost["worker"]) == (1, 1, "LOST", killed.worker.hostname)
    assert "signal 9" in lost["reason"]
    assert recorded(handle).stalls == 1
    assert [(record.delivery, record.outcome) for record in handle.history()] == [(1, "LOST"), (2, "SUCCESS")]
    assert [entry.meta for entry in handle.get_logs()] == [{"delivery": 1}, {"delivery": 2}]


@in_prefork
@pytest.mark.parametrize("task", GIVEN_UP, ids=["early", "late"])
def test_without_reject_on_worker_lost_the_job_of_a_killed_process_fails(killed: Killed, task: Any) -> None:
    """Fault 4: as Celery has it, and the record says so, too; it is not delivered again."""
    handle = killed.handles[task.name]
    with pytest.raises(WorkerLostError, match="signal 9"):
        handle.get(timeout=20)
    status = recorded(handle, "FAILURE")
    assert status.error == "WorkerLostError"
    assert "signal 9" in (status.reason or "")
    assert [(record.delivery, record.outcome) for record in handle.history()] == [(1, "FAILURE")]
    assert len(starts(handle.id)) == 1


@in_prefork
def test_a_job_that_exits_is_one_whose_process_was_lost(unswept: Relay) -> None:
    """Fault 4, D5, B6: with `reject_on_worker_lost` it is given back, with every Celery; none acknowledges it as a failure."""
    unswept.worker()
    handle = fault_jobs.leave.delay()
    assert handle.get(timeout=30) == 2
    assert recorded(handle).stalls == 1
    lost, _ = handle.history()
    assert (lost.outcome, lost.reason) == ("LOST", "Worker exited prematurely: exitcode 3.")


# --- fault 5: a whole worker -------------------------------------------------------------------------------------------


class Held:
    """One worker held jobs that run, are prefetched, and one that waits for its time; it was killed as a machine dies."""

    def __init__(self, relay: Relay, stand: Any, mark: Any, countdown: float) -> None:
        self.first = relay.worker()
        self.waiting = [mark.apply_async(countdown=countdown)]
        self.prefetched = []
        with relay.client() as client:
            wait_until(lambda: held(client) == 1, "the message with a countdown")
            self.running = [stand.delay() for _ in range(relay.slots)]
            for handle in self.running:
                standing(handle)
            if relay.pool in {"prefork", "threads"}:  # the others receive nothing more while all their slots are taken
                self.prefetched = [mark.delay() for _ in range(3)]
                wait_until(lambda: held(client) == relay.slots + 4, "the prefetched messages")
        self.second = relay.another()
        assert {len(starts(handle.id)) for handle in self.running} == {1}
        self.first.kill()
        self._killed_at = time.monotonic()
        #: What the second worker can receive while nobody lets any job go on.
        self.receivable = self.running if relay.pool == "solo" else [*self.running, *self.prefetched, *self.waiting]

    def check_back_within(self, seconds: float) -> None:
        """The second worker has received all that it can within so many seconds from the kill."""
        for handle in self.receivable:
            left = self._killed_at + seconds - time.monotonic()
            self.second.wait_for_log(rf"\[{handle.id}\] received$", max(left, 0.1))

    def check_ends(self) -> None:
        """All of it ends well, and only what had begun counts as lost."""
        for handle in self.running:
            standing(handle, 2)
            let_go(handle, 2)
            found = handle.get(timeout=20)
            assert (found["attempt"], found["delivery"], found["checkpoint"]) == (1, 2, {"row": 100})
            (lost,) = found["history"]
            assert (lost["delivery"], lost["outcome"], lost["worker"]) == (1, "LOST", self.first.hostname)
            assert lost["reason"]
            assert recorded(handle).stalls == 1
        for handle in [*self.prefetched, *self.waiting]:
            assert handle.get(timeout=30) == 1
            assert (recorded(handle).stalls, recorded(handle).worker) == (0, self.second.hostname)


def test_what_a_killed_worker_held_is_back_within_the_visibility_timeout(swept: Relay) -> None:
    """Fault 5, D5, B3, E8: what ran, what was prefetched, and what waited for its time."""
    lost = Held(swept, fault_jobs.stand_late, fault_jobs.mark, 4 * VISIBILITY_TIMEOUT)
    lost.check_back_within(VISIBILITY_TIMEOUT + SWEEP)
    lost.check_ends()


@pytest.mark.parametrize("pool", ["prefork", "threads"], indirect=True, scope="session")
def test_a_worker_that_is_killed_in_its_sweep_holds_up_nobody(swept: Relay) -> None:
    """Fault 5, D5: it leaves kombu's mutex behind, for which kombu's own sweep waits: five minutes, if nothing else is set."""
    lost = Held(swept, fault_jobs.stand_late, fault_jobs.mark, 4 * VISIBILITY_TIMEOUT)
    with swept.client() as client:
        client.set("unacked_mutex", "the killed worker's", ex=MUTEX_EXPIRE)
        lost.check_back_within(VISIBILITY_TIMEOUT + SWEEP)
        assert client.get("unacked_mutex") == b"the killed worker's", "nobody but the keeper can have put them back"
    lost.check_ends()


def test_jobs_that_must_show_life_are_back_within_twice_their_timeout(unswept: Relay) -> None:
    """Fault 5, D5: although the visibility timeout is an hour, and kombu looks each 100 s; running, prefetched, waiting."""
    lost = Held(unswept, fault_jobs.stand_watched, fault_jobs.mark_watched, 6 * HEARTBEAT_TIMEOUT)
    lost.check_back_within(2 * HEARTBEAT_TIMEOUT)
    lost.check_ends()


def test_a_worker_that_dies_as_soon_as_it_has_a_job_holds_it_no_longer(unswept: Relay) -> None:
    """Fault 5, D5: from its reception on the message has the job's own timeout, not the visibility timeout of an hour."""
    unswept.worker()
    handle = fault_jobs.kill_at_once.delay(unswept.pool == "prefork")
    wait_until(lambda: not unswept.living, "the worker's end")
    died_at = time.time()
    unswept.another()
    ready_at = time.time()
    assert handle.get(timeout=20) == 1
    (second,) = starts(handle.id)
    assert second["at"] < max(died_at + 2 * HEARTBEAT_TIMEOUT, ready_at + HEARTBEAT_TIMEOUT)
    assert second["delivery"] == 2


# --- controls ----------------------------------------------------------------------------------------------------------


@in_prefork
def test_without_the_library_the_same_disasters_end_otherwise(plain_unswept: Relay) -> None:
    """Fault 4, 5, 8, 9: the control. A killed process's job fails or circles, a killed worker's waits, a hanging one hangs."""
    first = plain_unswept.worker()
    with pointed_at(plain_jobs.app, plain_unswept.redis_url, **plain_unswept.settings):
        held_up = plain_jobs.stand.delay()
        wait_until(lambda: starts(held_up.id), "the start of what will be lost")
        second = plain_unswept.another()
        first.kill()
        looping, killed, hanging = plain_jobs.exit_rejected.delay(3), plain_jobs.stand.delay(), plain_jobs.hang.delay()
        wait_until(lambda: starts(killed.id) and starts(hanging.id), "the starts on the second worker")
        os.kill(starts(killed.id)[0]["pid"], signal.SIGKILL)
        with pytest.raises(WorkerLostError):
            killed.get(timeout=20)
        assert len(starts(killed.id)) == 1, "fault 4: never again"
        assert looping.get(timeout=30) == "survived"
        assert len(starts(looping.id)) == 4, "fault 8: as often as it likes"
        # Long behind the time in which the library would have brought them back.
        assert plain_jobs.mark.apply_async(countdown=2 * HEARTBEAT_TIMEOUT).get(timeout=20) == 1
        assert len(starts(held_up.id)) == 1, "fault 5: not yet"
        assert len(starts(hanging.id)) == 1, "fault 9: not while its worker lives"
        assert starts(hanging.id)[0]["pid"] in second.children()
    plain_unswept.abandon()
