"""The test kit: what happens to a job, and that the outcome is the one that production shows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from taskora_celery import Context, JobCancelledError, JobStalledError, NotSupportedError
from taskora_celery.testing import At, NotReachedError, run_job
from tests.support import kit_jobs as jobs

# --- cancel --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "progress", "elapsed"), [(4, (1, 2), 1.0), (2.5, (1, 2, 3), 2.5), (timedelta(seconds=1), (1,), 1.0)]
)
def test_a_cancel_comes_at_a_report_or_at_a_time(at: At, progress: tuple[int, ...], elapsed: float) -> None:
    """O1, G3, G6: the handler stops by ``ctx.sleep``; REVOKED, with the reason."""
    run = run_job(jobs.count, 5, cancel_at=at, cancel_reason="wrong file")
    assert (run.state, run.result, run.reason) == ("REVOKED", None, "wrong file")
    assert isinstance(run.exception, JobCancelledError)
    assert run.exception.reason == "wrong file"
    assert run.receipt is not None
    assert run.receipt.outcome == "requested"
    assert (run.progress, run.elapsed) == (progress, elapsed)


def test_a_cancel_before_the_beginning_keeps_the_handler_from_running() -> None:
    """O1, G2: at 0 it waits in its queue."""
    run = run_job(jobs.count, 5, cancel_at=0, cancel_reason="too many")
    assert (run.state, run.attempts, run.steps, run.reason) == ("REVOKED", 0, 0, "too many")
    assert run.receipt is not None
    assert run.receipt.outcome == "cancelled"


def test_a_cancel_in_the_wait_for_a_retry_ends_the_job() -> None:
    """O1, G2: the next attempt never runs."""
    run = run_job(jobs.retries, 60, cancel_at=75.0)
    assert (run.state, run.attempts, run.delays, run.progress) == ("REVOKED", 2, (60.0, 60.0), (1, 2))


def test_a_cancelled_handler_that_does_not_look_runs_to_its_end_within_its_grace() -> None:
    """O1, G3: its result is discarded all the same."""
    run = run_job(jobs.deaf, 5, cancel_at=1)
    assert (run.state, run.result, run.progress) == ("REVOKED", None, (1, 2, 3, 4, 5))


@pytest.mark.parametrize(("grace", "progress"), [(None, 5), (2.0, 2)])
def test_a_stubborn_handler_is_interrupted_when_its_grace_is_over(grace: float | None, progress: int) -> None:
    """O1, G4, G5: by JobCancelledError; then ``on_cancel`` runs, and its logs are kept."""
    jobs.cleaned.clear()
    run = run_job(jobs.stubborn, 100, cancel_at=1, cancel_grace=grace)
    assert (run.state, len(run.progress)) == ("REVOKED", progress)
    assert jobs.cleaned == [(run.id, 100)]
    assert [entry.message for entry in run.logs] == ["cleaning up"]
    phases = [event.data["phase"] for event in run.handle.events(timeout=1) if event.kind == "cancel"]
    assert phases == ["requested", "delivered", "interrupted"]


def test_a_shield_holds_the_interruption_off() -> None:
    """O1, G4: it comes at the end of the block."""
    run = run_job(jobs.shielded, cancel_at=1)
    assert (run.state, [entry.message for entry in run.logs], run.elapsed) == ("REVOKED", ["whole"], 60.0)


def test_a_cancelled_job_is_not_retried() -> None:
    """O1, G6: whatever the handler raises behind the cancel."""
    run = run_job(jobs.retries, 60, cancel_at=1)
    assert (run.state, run.attempts, run.delays) == ("REVOKED", 1, ())


# --- time limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [2, 1.5])
def test_a_time_limit_interrupts_at_a_report_or_at_a_time(at: At) -> None:
    """O1, H1, H2: FAILURE with SoftTimeLimitExceeded, also where the task has no limit of its own."""
    run = run_job(jobs.deaf, 5, timeout_at=at)
    assert (run.state, run.progress) == ("FAILURE", (1, 2))
    assert isinstance(run.exception, SoftTimeLimitExceeded)


def test_the_tasks_own_limit_is_kept_in_virtual_time() -> None:
    """O1, H1, B5: within it, beyond it at work, beyond it asleep."""
    assert run_job(jobs.limited, 45).result == 15.0
    for run in (run_job(jobs.limited, 3600), run_job(jobs.limited_sleeper)):
        assert (run.state, run.elapsed) == ("FAILURE", 60.0)
        assert isinstance(run.exception, SoftTimeLimitExceeded)


def test_a_limit_of_the_call_is_kept() -> None:
    """O1, H1: as in apply_async."""
    run = run_job(jobs.limited.s(3600).set(soft_time_limit=5))
    assert (run.state, run.elapsed) == ("FAILURE", 5.0)


def test_an_extended_deadline_is_kept() -> None:
    """O1, H3: and where there is none, it cannot be moved."""
    assert run_job(jobs.extends).result == 10.0

    @jobs.app.task(shared=False, name="kit.without_limit")  # type: ignore[untyped-decorator]
    def without_limit(ctx: Context) -> None:
        """Want more time than none."""
        ctx.extend_deadline(5)

    assert isinstance(run_job(without_limit).exception, NotSupportedError)


# --- shutdown ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [6, 1.5])
def test_a_shutdown_gives_the_job_back_and_another_worker_goes_on(at: At) -> None:
    """O1, I3: no attempt is used, and the checkpoint is kept."""
    run = run_job(jobs.count, 3, shutdown_at=at)
    assert (run.state, run.result, run.attempts, run.deliveries) == ("SUCCESS", 3, 1, 2)
    assert run.progress == (1, 2, 3)
    assert run.history[-1].worker == "worker-2@test"


def test_a_handler_that_does_not_stop_for_a_shutdown_is_left_to_finish() -> None:
    """O1, I3: the signal alone interrupts nobody."""
    run = run_job(jobs.deaf, 3, shutdown_at=1)
    assert (run.state, run.deliveries, run.result) == ("SUCCESS", 1, 3)


# --- leases --------------------------------------------------------------------------------------------------------------


def test_a_lost_lease_fires_the_signal_and_refuses_the_outcome() -> None:
    """O1, D7: the next delivery goes on from the checkpoint; the first one is in the history as lost."""
    run = run_job(jobs.count, 3, lease_lost_at=4)
    assert (run.state, run.result, run.attempts, run.deliveries) == ("SUCCESS", 3, 1, 2)
    assert [(record.delivery, record.outcome) for record in run.history] == [(1, "LOST"), (2, "SUCCESS")]
    assert run.handle.record().stalls == 1


def test_the_signal_of_a_lost_lease_fires_at_once() -> None:
    """O1, C3, D7: the handler need not report again to learn of it."""
    jobs.signals.clear()
    assert run_job(jobs.looks_at_once, lease_lost_at=1).result == 2
    assert jobs.signals == ["superseded", None]


def test_the_outcome_of_the_earlier_delivery_is_nobodys() -> None:
    """O1, D7: also where no result backend says which one counts."""
    run = run_job(jobs.looks_at_once, deliver_twice=True)
    assert (run.state, run.result, run.deliveries) == ("SUCCESS", 2, 2)


def test_a_lease_lost_too_often_fails_the_job() -> None:
    """O1, D6: past ``max_stalls`` it is JobStalledError, with the last progress."""

    @jobs.app.task(shared=False, name="kit.fragile", acks_late=True, max_stalls=0)  # type: ignore[untyped-decorator]
    def fragile(ctx: Context) -> None:
        """Be lost."""
        ctx.progress(40)
        ctx.sleep(1)

    run = run_job(fragile, lease_lost_at=1)
    assert (run.state, run.deliveries) == ("FAILURE", 2)
    assert isinstance(run.exception, JobStalledError)
    assert run.exception.progress == 40


def test_of_two_deliveries_at_once_the_later_one_counts() -> None:
    """O1, D7: the earlier one's reports and result are refused; none of them is recorded."""
    run = run_job(jobs.deaf_and_late, 3, deliver_twice=True)
    assert (run.state, run.deliveries, run.attempts) == ("SUCCESS", 2, 1)
    assert run.result == 2, "the delivery that counts"
    assert run.progress == ([1, 0], [2, 0], [2, 1], [2, 2])
    assert run.handle.record().refused >= 1
    assert [(record.delivery, record.outcome) for record in run.history] == [(1, "LOST"), (2, "SUCCESS")]


def test_a_message_that_comes_again_behind_the_end_changes_nothing() -> None:
    """O1, D7: its outcome is stored, and the handler does not run."""
    run = run_job(jobs.count, 2, deliver_twice=100)
    assert (run.state, run.result, run.deliveries, run.progress) == ("SUCCESS", 2, 2, (1, 2))


def test_silence_is_a_stall_and_life_is_none() -> None:
    """O1, D4, D6: heartbeat_timeout in virtual time; the second stall is one too many."""
    run = run_job(jobs.silent)
    assert (run.state, run.deliveries) == ("FAILURE", 3)
    assert isinstance(run.exception, JobStalledError)
    assert run.exception.count == 2
    lively = run_job(jobs.lively)
    assert (lively.result, lively.heartbeats, lively.elapsed) == ("alive", 10, 250.0)


@pytest.mark.parametrize("option", ["lease_lost_at", "deliver_twice"])
def test_a_message_that_is_acknowledged_early_has_no_lease_to_lose(option: str) -> None:
    """O1, D8: the test is told that it would show nothing."""
    with pytest.raises(ValueError, match="acks_late is off"):
        run_job(jobs.greet, "Ada", **{option: 1})


# --- the store -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("down", [True, (0, 3), (2, 5), (4, 1000)])
def test_a_store_that_is_down_hurts_no_job(down: Any) -> None:
    """O1, L1: the handler notices nothing, and all that it reports is recorded."""
    run = run_job(jobs.count, 4, store_down=down)
    assert (run.state, run.result, run.progress, run.steps) == ("SUCCESS", 4, (1, 2, 3, 4), 12)


def test_reports_of_an_outage_are_written_when_the_store_is_back() -> None:
    """O1, L1: nothing is lost of what fits into the buffer; the latest progress is."""
    run = run_job(jobs.reports_in_an_outage, 6, store_down=(2, 9))
    assert [entry.message for entry in run.handle.get_logs()] == [f"line {number}" for number in range(6)]
    assert (run.handle.get_progress(), run.handle.record().dropped_logs) == (5, 0)
    assert run.handle.record().state == "SUCCESS"


def test_what_the_buffer_does_not_hold_is_dropped_and_counted() -> None:
    """O1, L1: the oldest entries."""
    run = run_job(jobs.small_buffer, 500, store_down=(1, 400))
    assert (run.state, len(run.logs)) == ("SUCCESS", 500)
    kept = run.handle.get_logs()
    assert 0 < len(kept) < 500
    assert len(kept) + run.handle.record().dropped_logs == 500


def test_of_a_store_that_stays_down_observers_learn_nothing() -> None:
    """O1, L1: the result backend knows the outcome, the record does not."""
    run = run_job(jobs.count, 2, store_down=True)
    assert (run.handle.get_progress(), run.handle.get_logs(), run.history, run.handle.get(timeout=1)) == (None, [], (), 2)


def test_a_cancel_is_heard_when_the_store_is_back() -> None:
    """O1, G9, L1: its announcement was lost; the answer to the next flush says it."""
    run = run_job(jobs.sleepy_count, 60, cancel_at=2, store_down=(2, 10))
    assert run.state == "REVOKED"
    assert 10 < run.steps < 60


# --- the signal, and what is not reached ---------------------------------------------------------------------------------


def test_waiting_for_the_signal_takes_virtual_time() -> None:
    """O1, C2: with a timeout, and without; where nothing fires it, it says so instead of hanging."""
    assert run_job(jobs.waits, 30).result == [False, None, 30.0]
    run = run_job(jobs.waits, None, shutdown_at=50.0)
    assert run.result == [True, "shutdown", 50.0]
    assert "would never return" in str(run_job(jobs.waits, None).exception)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cancel_at": 50}, "cancel_at did not come: it was to be at report 50, and the job ended after 3 reports"),
        ({"timeout_at": 7.5}, "timeout_at did not come: it was to be after 7.5 s"),
        ({"shutdown_at": 4}, "shutdown_at did not come"),
        ({"lease_lost_at": 4}, "lease_lost_at did not come"),
    ],
)
def test_what_does_not_come_fails_the_test(options: dict[str, Any], message: str) -> None:
    """O1: a test whose cancel never came would pass, and show nothing."""
    with pytest.raises(NotReachedError, match=message):
        run_job(jobs.count, 1, **options)
