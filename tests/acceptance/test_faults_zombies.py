"""Workers that sleep until others have their jobs, and children that outlive their parent: what they still do changes nothing."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import fault_jobs, gates, jobs, plain_jobs
from tests.support.apps import pointed_at
from tests.support.fault_jobs import starts
from tests.support.recorded import recorded
from tests.support.relay import held, queued, resume
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from taskora_celery import JobHandle
    from tests.support.relay import Relay

#: How the first run of a job ends behind its back; each is a job of its own, and all of them run at one time.
WAYS = ["return", "raise", "autoretry", "ctx.retry", "self.retry", "requeue"]

in_prefork = pytest.mark.parametrize("pool", ["prefork"], indirect=True, scope="session")


def started(handle: JobHandle, number: int) -> dict[str, Any]:
    """Wait for a start of the job, and until what it reports is stored; return what it told."""

    def reported() -> bool:
        progress = handle.get_progress()
        return len(starts(handle.id)) >= number and isinstance(progress, dict) and progress["start"] == number

    wait_until(reported, f"start {number} of {handle.id}", timeout=30)
    return starts(handle.id)[number - 1]


def zombie_of(handle: JobHandle) -> dict[str, Any]:
    """Wait until the first run has seen its signal and is about to end; return what it told."""
    found: dict[str, Any] = wait_until(lambda: gates.told(handle.id, "zombie"), f"the signal of {handle.id}", timeout=30)[0]
    return found


def check_refused(handle: JobHandle, first: dict[str, Any]) -> None:
    """Nothing of what the first run did behind its back is to be seen."""
    assert zombie_of(handle)["reason"] == "superseded"
    assert zombie_of(handle)["message"]
    assert handle.get_progress() == {"start": 2}
    assert [entry.message for entry in handle.get_logs()] == ["start 1", "start 2"]
    assert (handle.record().state, handle.record().delivery) == ("STARTED", 2)
    assert [record.outcome for record in handle.history()] == ["LOST", None]
    assert len(starts(handle.id)) == 2
    assert starts(handle.id)[1]["fence"] > first["fence"], "for the users' own guards"


def test_a_worker_that_slept_changes_nothing_when_it_wakes(swept: Relay) -> None:
    """Fault 6, D7, C3: its reports, its result, its retry and its acknowledgement are refused, and its signal fires.

    The message of the newer delivery is left alone: when that one's worker dies, a third has the job.
    """
    first = swept.worker()
    haunted = {way: _haunted(way) for way in WAYS[: swept.slots]}
    watched = [fault_jobs.haunted_watched.delay("return")] if swept.slots > len(WAYS) else []
    everything = [*haunted.values(), *watched]
    before = {handle.id: started(handle, 1) for handle in everything}
    second = swept.another()
    with swept.without_sweeps():
        swept.pause(first)
    for handle in everything:
        started(handle, 2)
    resume(first)
    for handle in everything:
        gates.open_gate(handle.id, "start1")
    for handle in haunted.values():
        check_refused(handle, before[handle.id])
        wait_until(lambda job=handle: job.record().refused > 0, "the count of what was refused")  # type: ignore[misc]
    for handle in watched:
        if swept.pool == "prefork":
            wait_until(lambda job=handle.id: before[job]["pid"] not in first.members(), "the end of the silent process")  # type: ignore[misc]
        else:
            check_refused(handle, before[handle.id])
    with swept.client() as client:
        assert (held(client), client.hlen("unacked"), queued(client)) == (len(everything), len(everything), 0)
    second.kill()
    for handle in everything:
        started(handle, 3)
        gates.open_gate(handle.id, "start3")
        found = handle.get(timeout=20)
        assert found == {"start": 3, "delivery": 3, "checkpoint": {"start": 2}}
        assert recorded(handle).stalls == 2
        assert [record.outcome for record in handle.history()] == ["LOST", "LOST", "SUCCESS"]
    for handle in haunted.values():
        wait_until(lambda job=handle.id: gates.counted(job, "remembered"), "the callback", timeout=10)  # type: ignore[misc]
        assert gates.counted(handle.id, "remembered") == 1, "called once, by the run that counts"


def _haunted(way: str) -> JobHandle:
    handle: JobHandle = fault_jobs.haunted.apply_async((way,), link=fault_jobs.note.s(), link_error=jobs.remember_error.s())
    return handle


@in_prefork
def test_a_child_that_outlives_its_parent_changes_nothing(swept: Relay) -> None:
    """Fault 7, D9: it stops renewing, so that another worker has the job in time; its signal fires, and it is fenced as above."""
    first = swept.worker()
    handle = fault_jobs.orphaned.delay("return")
    before = started(handle, 1)
    swept.another()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    started(handle, 2)
    assert before["pid"] in first.members(), "the child lives on"
    gates.open_gate(handle.id, "start1")
    zombie = zombie_of(handle)
    assert (zombie["reason"], zombie["message"]) == ("superseded", "the worker's parent process is gone")
    wait_until(lambda: before["pid"] not in first.members(), "the child's end", timeout=20)
    check_refused(handle, before)
    gates.open_gate(handle.id, "start2")
    assert handle.get(timeout=20) == {"start": 2, "delivery": 2, "checkpoint": {"start": 1}}
    assert recorded(handle).stalls == 1


@in_prefork
def test_without_the_library_what_a_zombie_does_counts(plain_swept: Relay) -> None:
    """Fault 6, 7: the control. Its result is the job's, and its acknowledgement takes the newer delivery's message away."""
    first = plain_swept.worker()
    with pointed_at(plain_jobs.app, plain_swept.redis_url, **plain_swept.settings), plain_swept.client() as client:
        with plain_swept.without_sweeps():
            slept, orphaned = plain_jobs.stand.delay(), plain_jobs.orphaned.delay()
            wait_until(lambda: starts(slept.id) and starts(orphaned.id), "the first starts")
            second = plain_swept.another()
            plain_swept.pause(first)
        wait_until(lambda: len(starts(slept.id)) == len(starts(orphaned.id)) == 2, "the second starts")
        resume(first)
        gates.open_gate(slept.id, "start1")
        assert slept.get(timeout=20) == {"start": 1}, "fault 6: the zombie's"
        wait_until(lambda: held(client) == 1, "the zombie's acknowledgement")
        os.kill(first.pid, signal.SIGKILL)
        gates.open_gate(orphaned.id, "start1")
        assert orphaned.get(timeout=20) == {"start": 1}, "fault 7: the orphan's"
        second.kill()
        assert held(client) == 1, "fault 6: nobody will ever run again what the second worker ran"
    plain_swept.abandon()
