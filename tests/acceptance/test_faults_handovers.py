"""Workers that are told to stop, and connections that break, while jobs run: the jobs go on, once."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis

from tests.support import fault_jobs, gates
from tests.support.fault_jobs import HEARTBEAT_TIMEOUT, starts
from tests.support.recorded import recorded
from tests.support.relay import VISIBILITY_TIMEOUT, held
from tests.support.sweeping import sweeping
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.support.relay import Relay


def test_a_warm_shutdown_keeps_what_still_runs(swept: Relay) -> None:
    """Fault 1, I3, D3: a job that runs for three visibility timeouts after SIGTERM runs once, and its worker ends well."""
    first = swept.worker()
    running = [fault_jobs.sleep.delay(3 * VISIBILITY_TIMEOUT)]
    if swept.slots > 1:
        running.append(fault_jobs.beat.delay(3 * VISIBILITY_TIMEOUT))
    wait_until(lambda: all(starts(handle.id) for handle in running), "the long jobs' start")
    first.signal(signal.SIGTERM)
    with sweeping(fault_jobs.app, VISIBILITY_TIMEOUT), swept.client() as client:
        swept.another()
        assert [handle.get(timeout=60) for handle in running] == [1] * len(running)
        assert first.wait(timeout=30) == 0
        wait_until(lambda: not held(client), "the acknowledgements")
    assert [len(starts(handle.id)) for handle in running] == [1] * len(running)
    assert {recorded(handle).worker for handle in running} == {first.hostname}


@pytest.mark.parametrize("pool", ["prefork", "threads"], indirect=True, scope="session")
def test_a_warm_shutdown_hands_over_what_has_not_begun(swept: Relay) -> None:
    """I3, D5, D7: another worker begins it long before the last job of the first has ended, whose end then leaves it alone."""
    first = swept.worker()
    blocking = [fault_jobs.stand_late.delay() for _ in range(swept.slots)]
    wait_until(lambda: all(starts(handle.id) for handle in blocking), "the jobs in all slots")
    behind = [fault_jobs.stand_late.delay(), fault_jobs.stand_watched.delay()]
    with swept.client() as client:
        wait_until(lambda: held(client) == swept.slots + len(behind), "the prefetched messages")
        first.signal(signal.SIGTERM)
        second = swept.another()
        wait_until(lambda: all(starts(handle.id) for handle in behind), "their start elsewhere", timeout=20)
        for handle in blocking:
            gates.open_gate(handle.id, "delivery1")
            assert handle.get(timeout=20)["delivery"] == 1
        assert first.wait(timeout=30) == 0
        assert (held(client), client.hlen("unacked"), client.llen("celery")) == (len(behind), len(behind), 0)
        for handle in behind:
            gates.open_gate(handle.id, f"delivery{starts(handle.id)[0]['delivery']}")
            assert handle.get(timeout=20)["attempt"] == 1
        assert {recorded(handle).worker for handle in behind} == {second.hostname}
        assert "came back to its own worker" not in second.logs()
    assert [len(starts(handle.id)) for handle in [*blocking, *behind]] == [1] * (len(blocking) + len(behind))
    assert all(recorded(handle).stalls == 0 for handle in [*blocking, *behind])


def cut_connections(client: redis.Redis, command: str | None = None) -> int:
    """Break the connections to the database (those that wait in a command), less the gates' and the test's; say how many."""
    database, mine = client.connection_pool.connection_kwargs["db"], client.client_id()
    others = [
        each["id"]
        for each in client.client_list(_type="normal")
        if int(each["db"]) == database
        and int(each["id"]) != mine
        and each["name"] != gates.CLIENT_NAME
        and command in {None, each["cmd"]}
    ]
    return sum(client.execute_command("CLIENT", "KILL", "ID", number) for number in others)


def test_a_job_goes_on_when_its_workers_connections_break(swept: Relay) -> None:
    """D3, D7: kombu puts back what runs, and receives it again itself: the run that is under way is not joined by another."""
    worker = swept.worker()
    waiting = fault_jobs.mark.apply_async(countdown=3 * VISIBILITY_TIMEOUT)
    with swept.client() as client:
        wait_until(lambda: held(client) == 1, "the message with a countdown")
        running = [task.delay() for task in (fault_jobs.stand_late, fault_jobs.stand_watched)[: swept.slots]]
        for handle in running:
            wait_until(lambda job=handle: starts(job.id) and job.get_progress() == 1, "the start")  # type: ignore[misc]
        written = worker.log_size()
        assert cut_connections(client) > 1
        if swept.pool != "solo":  # which notices when the job has ended
            for handle in running:
                worker.wait_for_log(rf"job {handle.id}: its message came back to its own worker", timeout=30, after=written)
        until = time.monotonic() + VISIBILITY_TIMEOUT
        wait_until(lambda: time.monotonic() > until or any(len(starts(job.id)) > 1 for job in running), "a second start, or none")
        for handle in running:
            gates.open_gate(handle.id, "delivery1")
            assert handle.get(timeout=30)["delivery"] == 1
        assert waiting.get(timeout=30) == 1
        wait_until(lambda: not held(client) and not client.llen("celery"), "the end of all messages", timeout=20)
    assert [len(starts(handle.id)) for handle in [*running, waiting]] == [1] * (len(running) + 1)
    assert all(recorded(handle).stalls == 0 for handle in [*running, waiting])


@pytest.mark.parametrize("pool", ["threads"], indirect=True, scope="session")
def test_what_waits_in_a_pool_begins_once_when_its_workers_connection_breaks(unswept: Relay) -> None:
    """D3, D7: a pool of threads runs whatever it was given; it would run all of it twice, the second time beside the first."""
    worker = unswept.worker()
    with unswept.client() as client:
        running = [fault_jobs.stand_late.delay() for _ in range(unswept.slots)]
        for handle in running:
            wait_until(lambda job=handle: starts(job.id) and job.get_progress() == 1, "the start")  # type: ignore[misc]
        waiting = [fault_jobs.stand_late.delay() for _ in range(2)]
        for handle in waiting:
            worker.wait_for_log(rf"faults.stand_late\[{handle.id}\] received")
        written = worker.log_size()
        assert cut_connections(client, "brpop") == 1
        for handle in [*running, *waiting]:
            worker.wait_for_log(rf"faults.stand_late\[{handle.id}\] received", timeout=30, after=written)
        for handle in running:  # one by one: whoever has a place begins, and stays
            gates.open_gate(handle.id, "delivery1")
            handle.get(timeout=30)
        mark = fault_jobs.mark.delay()
        assert mark.get(timeout=30) == 1, "what came behind them is through"
        for handle in waiting:
            gates.open_gate(handle.id, f"delivery{handle.record().delivery}")
            handle.get(timeout=30)
        wait_until(lambda: not held(client) and not client.llen("celery"), "the end of all messages", timeout=20)
    assert [len(starts(handle.id)) for handle in [*running, *waiting]] == [1] * (len(running) + 2)
    assert all(recorded(handle).stalls == 0 for handle in [*running, *waiting])


def stolen_message(client: redis.Redis) -> bytes:
    """Cut the consumer's connection only, and take what kombu puts back before the worker gets it again; return it."""
    assert cut_connections(client, "brpop") == 1
    message: Any = wait_until(lambda: client.rpop("celery"), "the message in the queue", interval=0.0005)
    return bytes(message)


@pytest.mark.parametrize("pool", ["prefork", "threads"], indirect=True, scope="session")
def test_who_shows_life_is_not_stalled_while_its_message_is_in_the_queue(unswept: Relay) -> None:
    """D4: a broken connection put it there; its worker may get it back much later, or find its job ended by then."""
    worker = unswept.worker()
    handle = fault_jobs.stand_watched.delay()
    wait_until(lambda: starts(handle.id) and handle.get_progress() == 1, "the start")
    with unswept.client() as client:
        message = stolen_message(client)
        until = time.monotonic() + HEARTBEAT_TIMEOUT  # several looks of the keeper's
        wait_until(lambda: time.monotonic() > until or handle.record().stalls, "a stall, or none")
        client.rpush("celery", message)
    worker.wait_for_log(rf"job {handle.id}: its message came back to its own worker", timeout=30)
    gates.open_gate(handle.id, "delivery1")
    assert handle.get(timeout=30)["delivery"] == 1
    assert (len(starts(handle.id)), recorded(handle).stalls) == (1, 0)
    assert "another worker on this Redis database" not in worker.logs()


@pytest.mark.parametrize("pool", ["prefork"], indirect=True, scope="session")
def test_who_hangs_is_found_out_after_a_broken_connection_too(unswept: Relay) -> None:
    """Fault 9, D4: the message came back to its own worker, with a visibility timeout of an hour."""
    unswept.worker()
    handle = fault_jobs.hang.delay("c")
    wait_until(lambda: starts(handle.id), "the start")
    with unswept.client() as client:
        cut_connections(client)
    cut_at = time.time()
    wait_until(lambda: len(starts(handle.id)) == 2, "the second start", timeout=20)
    assert starts(handle.id)[1]["at"] - cut_at < 2 * HEARTBEAT_TIMEOUT
    assert handle.get(timeout=20)["delivery"] == 2
    assert recorded(handle).stalls == 1
