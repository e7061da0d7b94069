"""The test kit: retries and requeues are followed, and their delays take no time."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from taskora_celery import MaxRetriesExceededError
from taskora_celery.local import local_context
from taskora_celery.runtime import Runtime
from taskora_celery.testing import run_job
from tests.support import kit_jobs as jobs
from tests.support.kit_quick_jobs import Told, told

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_retries_are_followed_in_virtual_time() -> None:
    """O1, I1, I4: each attempt with its delay and its reason; an hour takes no time."""
    started = time.monotonic()
    run = run_job(jobs.retries, 1800)
    assert time.monotonic() - started < 30
    assert (run.result, run.attempts, run.deliveries, run.delays, run.elapsed) == (3, 3, 3, (1800.0, 1800.0), 3600.0)
    assert [(record.number, record.outcome, record.reason, record.delay) for record in run.history] == [
        (1, "RETRY", "not yet 1", 1800.0), (2, "RETRY", "not yet 2", 1800.0), (3, "SUCCESS", None, None),
    ]  # fmt: skip
    assert run.progress == (1, 2, 3)
    started_at = [record.started_ms for record in run.history]
    assert [later - earlier for earlier, later in pairwise(started_at)] == [1_800_000, 1_800_000]


@pytest.mark.parametrize(("delay", "delays"), [(0, (0.0, 0.0)), (0.25, (0.25, 0.25)), (None, (180.0, 180.0))])
def test_delays_are_exact(delay: float | None, delays: tuple[float, ...]) -> None:
    """O1, I2: as given; without one, the task's default_retry_delay."""
    assert run_job(jobs.retries, delay).delays == delays


def test_retries_end_where_max_retries_says() -> None:
    """O1, I2: FAILURE with the reason, chained to its cause."""
    run = run_job(jobs.retries_in_vain)
    assert (run.state, run.attempts, run.delays) == ("FAILURE", 3, (40.0, 40.0))
    assert isinstance(run.exception, MaxRetriesExceededError)
    assert run.exception.reason == "the server is away"


def test_backoff_is_the_tasks_own() -> None:
    """O1, I2: retry_backoff and retry_backoff_max decide where the handler leaves it to the task."""
    assert run_job(jobs.backs_off).delays == (3.0, 6.0, 10.0, 10.0)


@pytest.mark.parametrize(
    ("error", "state", "delays"), [("os", "SUCCESS", (2.0, 4.0)), ("file", "FAILURE", ()), ("value", "FAILURE", ())]
)
def test_autoretry_goes_by_celerys_rules(error: str, state: str, delays: tuple[float, ...]) -> None:
    """O1, B2, I6: autoretry_for, but not dont_autoretry_for, and with Celery's own backoff."""
    run = run_job(jobs.autoretries, error)
    assert (run.state, run.delays, run.attempts) == (state, delays, len(delays) + 1)


def test_celerys_own_retry_and_an_instant_are_followed() -> None:
    """O1, I6, B2: ``self.retry(countdown=)`` and ``ctx.retry(eta=)``."""
    run = run_job(jobs.retries_by_self)
    assert (run.result, run.delays, run.history[0].error) == (2, (12.5,), "OSError")
    assert run_job(jobs.retries_at).delays == (120.0,)


def test_celery_is_told_of_virtual_delays() -> None:
    """O1, I4: what ``on_retry``, the RETRY state and the event say of an instant counts from virtual time, too."""
    Told.delays.clear()
    run = run_job(told)
    assert run.delays == (3600.0, 120.0)
    assert Told.delays == [3600.0, 120.0]


def test_the_next_attempt_finds_what_the_last_one_left() -> None:
    """O1, E8, B4, B6: the checkpoint, the history, and the creation time."""
    run = run_job(jobs.remembers)
    checkpoint, delays, created = run.result
    assert (checkpoint, delays) == ("half", [3600.0])
    assert created * 1000 == run.history[0].started_ms


def test_a_job_that_goes_on_for_ever_is_ended() -> None:
    """O1: an unlimited retry would hang the test."""
    with pytest.raises(RuntimeError, match="was delivered 7 times and has not ended"):
        run_job(jobs.retries_for_ever, max_deliveries=7)


def test_a_requeue_uses_no_attempt() -> None:
    """O1, I3: where the message was acknowledged early it is sent anew, with its checkpoint."""
    run = run_job(jobs.requeues_once)
    assert (run.state, run.result, run.attempts, run.deliveries, run.delays) == ("SUCCESS", [1, 1], 1, 2, ())


def test_a_countdown_of_the_call_passes_before_the_first_attempt() -> None:
    """O1: the options of a signature count as in apply_async; it is no retry's delay."""
    run = run_job(jobs.echo.s(1).set(countdown=90))
    assert (run.elapsed, run.delays, run.attempts) == (90.0, (), 1)


SAID = "ctx.{0}(…) was called and not raised, so nothing came of it: write `raise ctx.{0}(…)`"


@pytest.mark.parametrize("name", ["forgets_its_raise", "forgets_its_raise_too"])
@pytest.mark.parametrize("call", ["retry", "requeue"])
def test_what_is_not_raised_is_said_in_the_log(name: str, call: str) -> None:
    """I1: a plain handler and a coroutine end well, and are told that nothing came of it."""
    run = run_job(getattr(jobs, name), call)
    assert (run.result, run.attempts, run.deliveries) == ("done", 1, 1)
    assert [(entry.level, entry.message) for entry in run.logs] == [("warn", SAID.format(call))]


def test_what_is_raised_and_caught_is_the_handlers_own_affair() -> None:
    """I1: it looked at it."""
    assert run_job(jobs.forgets_its_raise, "retry", catches=True).logs == ()


@pytest.fixture
def _forgotten() -> Iterator[None]:
    """The app that runs a coroutine here has its loop no longer than that."""
    yield
    Runtime.forget(jobs.app)


@pytest.mark.usefixtures("_forgotten")
def test_what_is_not_raised_is_said_in_a_direct_call_and_an_eager_run() -> None:
    """I1, A5: in the log of the context."""
    ctx = local_context()
    assert jobs.forgets_its_raise("retry", ctx=ctx) == "done"
    for where in (ctx, jobs.forgets_its_raise.apply(("retry",)), jobs.forgets_its_raise_too.apply(("retry",))):
        assert [entry.message for entry in where.get_logs()] == [SAID.format("retry")]


def test_what_is_not_raised_is_said_in_a_direct_call_of_a_coroutine() -> None:
    """I1, A5: in the log of the context, too."""
    ctx = local_context()
    assert asyncio.run(jobs.forgets_its_raise_too("retry", ctx=ctx)) == "done"
    assert [entry.message for entry in ctx.get_logs()] == [SAID.format("retry")]


def test_what_is_not_raised_is_said_once() -> None:
    """I1: a context may serve several direct calls, and the next one has forgotten nothing."""
    ctx = local_context()
    jobs.forgets_its_raise("retry", ctx=ctx)
    jobs.small_buffer(0, ctx=ctx)
    assert [entry.message for entry in ctx.get_logs()] == [SAID.format("retry")]
