"""The test kit: a context for a handler that is called directly, virtual time for fakes, and the store."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from taskora_celery import JobAbortedError, NoActiveJobError, RetryError
from taskora_celery.records import AttemptRecord
from taskora_celery.store import memory
from taskora_celery.testing import MemoryStore, VirtualClock, advance, fake_context, run_job
from tests.support import kit_jobs as jobs
from tests.support import store_fixtures


def test_a_fake_context_keeps_what_is_reported() -> None:
    """O2, A5: a direct call with it; no job, no store."""
    ctx = fake_context()
    assert jobs.greet("Ada", ctx=ctx) == "hello Ada"
    assert list(ctx.values) == [50, {"current": 1, "total": 1, "percent": 100.0, "message": "done"}]
    assert [(entry.level, entry.message, entry.meta) for entry in ctx.get_logs()] == [("info", "greeting", {"name": "Ada"})]
    assert (ctx.checkpoints, ctx.heartbeats, ctx.sleeps) == ([{"name": "Ada"}], 1, [3.0])
    assert ctx.clock.monotonic() == 3.0


def test_a_fake_context_knows_what_it_is_given() -> None:
    """O2, B: identity, history, checkpoint and deadline."""
    record = AttemptRecord(1, 1, "w", 0, "RETRY", reason="busy", delay=5.0)
    ctx = fake_context(
        "shop.work", "job-7", attempt=2, max_attempts=4, delivery=3, fence=9, checkpoint={"row": 5}, history=[record],
        time_limit=timedelta(minutes=1),
    )  # fmt: skip
    assert (ctx.id, ctx.name, ctx.attempt, ctx.max_attempts, ctx.delivery, ctx.fence) == ("job-7", "shop.work", 2, 4, 3, 9)
    assert (ctx.last_checkpoint, ctx.history, ctx.remaining()) == ({"row": 5}, (record,), 60.0)
    ctx.sleep(45)
    assert ctx.remaining() == 15.0


def test_a_fake_context_can_be_aborted() -> None:
    """O2, C1, C2: before the call, or from another thread; a sleep ends at once."""
    ctx = fake_context()
    ctx.abort("shutdown", "the worker shuts down")
    with pytest.raises(JobAbortedError, match="shutdown"):
        jobs.count(3, ctx=ctx)
    assert (list(ctx.values), ctx.clock.monotonic()) == ([1], 0.0)


def test_a_retry_leaves_a_direct_call_as_what_it_is() -> None:
    """O2, I1: the exception that the handler raised, with its delay."""
    with pytest.raises(RetryError) as caught:
        jobs.retries(30, ctx=fake_context())
    assert (caught.value.delay, caught.value.reason) == (30.0, "not yet 1")


def test_a_fake_that_takes_its_time_lets_it_pass() -> None:
    """O1: for the handler of a run, and for one that is called directly; nowhere else."""
    assert run_job(jobs.limited, 30).elapsed == 30.0
    ctx = fake_context(time_limit=100)
    assert jobs.limited(30, ctx=ctx) == 70.0
    with pytest.raises(NoActiveJobError, match=r"run_job\(\)"):
        advance(1)
    with pytest.raises(ValueError, match="-1"):
        advance(-1)


def test_the_store_of_the_kit_is_the_one_of_the_contract_suite() -> None:
    """O3: what users get is what runs beside Redis in ``tests/integration/test_store_contract.py``."""
    assert MemoryStore is memory.MemoryStore
    assert vars(store_fixtures)["MemoryStore"] is MemoryStore


# --- the clock -----------------------------------------------------------------------------------------------------------


def test_the_clock_stands_still_until_it_is_moved() -> None:
    """O1: both clocks move together, from a whole second on."""
    clock = VirtualClock(1_790_000_000.0)
    clock.advance(1.5)
    assert (clock.time(), clock.monotonic()) == (1_790_000_001.5, 1.5)
    assert VirtualClock().time().is_integer()


def test_what_is_due_is_done_at_its_time() -> None:
    """O1: in the order of time, with the clock at that time; what it adds is done, too."""
    clock, done = VirtualClock(0.0), list[tuple[str, float]]()

    def note(name: str) -> None:
        done.append((name, clock.monotonic()))

    def first() -> None:
        note("first")
        clock.call_in(1, lambda: note("added"))

    clock.call_in(5, lambda: note("later"))
    clock.call_in(2, first)
    clock.call_in(9, lambda: note("beyond"))
    clock.advance(6)
    assert done == [("first", 2.0), ("added", 3.0), ("later", 5.0)]
    assert clock.monotonic() == 6.0


def test_time_stops_where_it_is_told_to() -> None:
    """O1: a sleep ends at the abort, not at its own end."""
    clock, fired = VirtualClock(0.0), threading.Event()
    clock.call_in(4, fired.set)
    clock.advance(100, until=fired.is_set)
    assert clock.monotonic() == 4.0
    assert clock.wait(lambda: False, at_most=50) is False
    assert clock.monotonic() == 54.0
