"""What stock Flower sees of real workers' jobs, by their events alone; Flower itself is in `test_flower`."""

from __future__ import annotations

import itertools
import json
import os
import signal
from typing import TYPE_CHECKING

import pytest

from taskora_celery.events import EVENT_BYTES, STARTED
from tests.support import fault_jobs, gates, jobs, reporting_jobs
from tests.support.fault_jobs import starts
from tests.support.monitor import Monitor
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

    from tests.support.relay import Relay
    from tests.support.worker_fixtures import SharedWorker

in_prefork = pytest.mark.parametrize("pool", ["prefork"], indirect=True, scope="session")


@pytest.fixture
def monitor(shared_worker: SharedWorker, jobs_app: Celery) -> Iterator[Monitor]:
    """A monitor that asks for events, as Flower does: the worker was not started with ``-E``."""
    with Monitor(jobs_app) as monitor:
        yield monitor


# --- progress ------------------------------------------------------------------------------------------------------------


def test_a_running_jobs_progress_is_text_that_the_outcome_replaces(monitor: Monitor) -> None:
    """K1, E3: one event that tells all of the job; the state stays STARTED, and nothing comes behind the outcome."""
    handle = reporting_jobs.report_steps.delay()
    shown = monitor.wait_for(handle.id, STARTED)
    assert (shown.state, shown.result) == ("STARTED", "37.5% 3/8 reading")
    told = shown.event
    assert told["name"] == reporting_jobs.report_steps.name
    assert (told["args"], told["kwargs"], told["retries"]) == ("()", "{}", 0)
    assert (told["attempt"], told["max_attempts"]) == (1, 4)
    assert told["progress"] == {"current": 3, "total": 8, "percent": 37.5, "message": "reading"}
    gates.open_gate(handle.id)
    # A solo worker's own events wait until its job has ended.
    assert abs(told["started"] - monitor.wait_for(handle.id, "task-started").event["timestamp"]) < 1
    monitor.wait_for(handle.id, "task-succeeded")
    assert (monitor.task(handle.id).state, monitor.task(handle.id).result) == ("SUCCESS", "'done'")
    later = jobs.add.delay(1, 2)
    monitor.wait_for(later.id, "task-succeeded")
    assert monitor.seen(handle.id)[-1].type == "task-succeeded"
    assert [seen.type for seen in monitor.seen(later.id)] == ["task-received", "task-started", "task-succeeded"], "a silent job"


@in_prefork
def test_a_job_makes_one_event_a_second_at_most(monitor: Monitor) -> None:
    """K1: however often it reports; each shows what is the latest then."""
    handle = reporting_jobs.progress_until_open.delay()
    monitor.wait_for(handle.id, STARTED, 3)
    gates.open_gate(handle.id)
    monitor.wait_for(handle.id, "task-succeeded")
    at = [seen.event["timestamp"] for seen in monitor.seen(handle.id, STARTED)]
    assert all(later - earlier > 0.9 for earlier, later in itertools.pairwise(at))
    assert gates.counted(handle.id, "reports") > 10 * len(at)
    values = [seen.event["progress"]["current"] for seen in monitor.seen(handle.id, STARTED)]
    assert values == sorted(set(values))


def test_a_retry_shows_its_reason_and_the_next_attempt_its_number(monitor: Monitor) -> None:
    """K1, I4, F7: the reason is Celery's own event's, without what must not be seen."""
    handle = reporting_jobs.fail_in_steps.delay("password=hunter2", api_key="k-1234")
    first = monitor.wait_for(handle.id, STARTED)
    assert first.result == "50% 1/2 shelf 1"
    assert first.event["args"] == "('password=[redacted]',)"
    assert first.event["kwargs"] == "{'api_key': '[redacted]'}"
    gates.open_gate(handle.id)
    retried = monitor.wait_for(handle.id, "task-retried")
    assert retried.state == "RETRY"
    assert "shop is closed" in retried.event["exception"]
    assert "hunter2" not in retried.event["exception"]
    gates.wait_at(handle.id)
    second = monitor.wait_for(handle.id, STARTED, 2)
    assert second.state == "STARTED"
    assert second.result == "50% 1/2 shelf 2 · attempt 2/3"
    assert (second.event["attempt"], second.event["retries"]) == (2, 1)
    gates.open_gate(handle.id)
    failed = monitor.wait_for(handle.id, "task-failed")
    assert failed.state == "FAILURE"
    assert monitor.seen(handle.id)[-1].type == "task-failed"


@in_prefork
def test_an_event_is_small_and_its_text_one_line_whatever_a_job_reports(monitor: Monitor) -> None:
    """K1, E2: huge, circular, not a number, with control characters."""
    names = ["huge", "circular", "nan", "surrogate", "opaque"]
    for name in names:
        handle = reporting_jobs.report_odd.delay([name, "x" * 5_000])
        seen = monitor.wait_for(handle.id, STARTED)
        text = seen.event["result"]
        assert 0 < len(text) <= 200, name
        assert text.isprintable(), name
        told = {key: value for key, value in seen.event.items() if key != "local_received"}
        assert len(json.dumps(told)) <= EVENT_BYTES + 300, name
        gates.open_gate(handle.id)


@in_prefork
def test_terminate_wins_over_progress(monitor: Monitor) -> None:
    """K1, G8: REVOKED stays, also where the process reports until it is killed."""
    handle = reporting_jobs.progress_until_open.delay()
    monitor.wait_for(handle.id, STARTED)
    handle.revoke(terminate=True)
    assert monitor.wait_for(handle.id, "task-revoked").state == "REVOKED"
    other = jobs.add.delay(1, 2)
    monitor.wait_for(other.id, "task-succeeded")
    assert monitor.task(handle.id).state == "REVOKED"


@pytest.mark.parametrize("pool", ["prefork", "threads"], indirect=True, scope="session")
def test_nobody_is_told_what_nobody_asked_for(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """K1: without ``-E``, and behind ``disable_events``, a job makes no event; what is asked for in the middle comes."""
    handle = reporting_jobs.report_at_gates.delay([10, 20])
    gates.wait_at(handle.id)
    wait_until(lambda: handle.state == "PROGRESS", "what all but monitors see")
    with Monitor(jobs_app) as monitor:
        gates.open_gate(handle.id)
        assert monitor.wait_for(handle.id, STARTED).result == "20%"
        gates.wait_at(handle.id)
        gates.open_gate(handle.id)
        monitor.wait_for(handle.id, "task-succeeded")
    with Monitor(jobs_app, asks=False) as monitor:
        unheard = reporting_jobs.report_at_gates.delay([10])
        gates.wait_at(unheard.id)
        wait_until(lambda: unheard.state == "PROGRESS", "what all but monitors see")
        gates.open_gate(unheard.id)
        unheard.get(timeout=20)
        assert monitor.seen(unheard.id) == []


# --- recovery ------------------------------------------------------------------------------------------------------------


def recovered(monitor: Monitor, job_id: str, reason: str) -> None:
    """The job is told to be retried, for this reason, and then to run again: never the other way round."""
    retried = monitor.wait_for(job_id, "task-retried")
    assert retried.state == "RETRY"
    assert reason in retried.event["exception"]
    assert monitor.wait_for(job_id, "task-started", 2).state == "STARTED"
    kinds = [seen.type for seen in monitor.seen(job_id) if seen.type in {"task-received", "task-retried"}]
    assert kinds == ["task-received", "task-retried", "task-received"]


@in_prefork
def test_the_job_of_a_killed_worker_is_not_started_for_ever(left_to_us: Relay) -> None:
    """K1, D5: the worker that puts its message back says so, before anybody can receive it again.

    Of what kombu's own sweep puts back monitors hear nothing but the next start.
    """
    first = left_to_us.worker()
    second = left_to_us.another()
    with Monitor(fault_jobs.app) as monitor:
        fault_jobs.app.control.enable_events(reply=True, timeout=5, limit=2)
        handles = [fault_jobs.stand_late.delay() for _ in range(4)]
        for handle in handles:
            monitor.wait_for(handle.id, "task-started")
        lost = [handle for handle in handles if monitor.task(handle.id).worker.hostname == first.hostname]
        first.kill()
        for handle in lost:
            recovered(monitor, handle.id, "its worker was not heard of in time")
            assert monitor.task(handle.id).worker.hostname == second.hostname
        for handle in handles:
            gates.open_gate(handle.id, f"delivery{2 if handle in lost else 1}")
            monitor.wait_for(handle.id, "task-succeeded")
    assert lost, "the other worker took all"


@in_prefork
def test_the_job_of_a_killed_process_and_of_a_silent_one_say_why_they_run_again(unswept: Relay) -> None:
    """K1, D4: the worker's parent says it for its own processes."""
    unswept.worker()
    with Monitor(fault_jobs.app) as monitor:
        killed, silent, spent = fault_jobs.stand_rejected.delay(), fault_jobs.hang.delay("python"), fault_jobs.exits[0].delay(1)
        wait_until(lambda: starts(killed.id), "its start")
        os.kill(starts(killed.id)[0]["pid"], signal.SIGKILL)
        recovered(monitor, killed.id, "signal 9")
        gates.open_gate(killed.id, "delivery2")
        recovered(monitor, silent.id, "no sign of life for 1.5 s")
        failed = monitor.wait_for(spent.id, "task-failed")
        assert failed.state == "FAILURE"
        assert "JobStalledError" in failed.event["exception"]
        for handle in (killed, silent):
            monitor.wait_for(handle.id, "task-succeeded")
