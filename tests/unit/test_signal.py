"""``ctx.signal``: how a running job learns that it should stop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import get_args

import pytest

from taskora_celery.context import Context
from taskora_celery.errors import JobAbortedError
from taskora_celery.signal import AbortReason, Signal
from tests.support.landing import ends, landing_in_a_lock
from tests.support.waiting import wait_until

REASONS: tuple[AbortReason, ...] = get_args(AbortReason)


def in_fifty_threads(act: Callable[[int], object]) -> None:
    """Call it with the numbers from 0 on, all at once."""
    start = threading.Barrier(50)

    def run(n: int) -> None:
        start.wait()
        act(n)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)


@pytest.fixture
def signal() -> Signal:
    return Signal()


def test_nothing_is_aborted_at_first(signal: Signal) -> None:
    """C1: `aborted` is False, `reason` and `message` are None."""
    assert (signal.aborted, signal.is_set(), signal.reason, signal.message) == (False, False, None, None)
    signal.raise_if_aborted()


@pytest.mark.parametrize("reason", REASONS)
def test_an_abort_tells_why(signal: Signal, reason: AbortReason) -> None:
    """C1: the four reasons."""
    assert signal.abort(reason, "words") is True
    assert (signal.aborted, signal.is_set(), signal.reason, signal.message) == (True, True, reason, "words")


def test_there_are_four_reasons() -> None:
    """C1: no other word may appear."""
    assert REASONS == ("cancelled", "timeout", "shutdown", "superseded")


def test_the_first_abort_wins(signal: Signal) -> None:
    """C1: and it never resets."""
    signal.abort("cancelled", "first")
    assert signal.abort("timeout", "second") is False
    assert (signal.reason, signal.message) == ("cancelled", "first")


def test_the_first_abort_wins_from_fifty_threads(signal: Signal) -> None:
    """C1: cancel, timeout and shutdown may come in the same moment."""
    winners: list[str] = []
    calls: list[str | None] = []
    signal.add_listener(lambda fired: calls.append(fired.message))

    def abort(n: int) -> None:
        if signal.abort(REASONS[n % 4], str(n)):
            winners.append(str(n))

    in_fifty_threads(abort)
    assert winners == [signal.message]
    assert calls == [signal.message]
    assert signal.reason == REASONS[int(winners[0]) % 4]


def test_raise_if_aborted_raises_with_reason_and_message(signal: Signal) -> None:
    """C2: let it leave the handler."""
    signal.abort("shutdown", "worker stops")
    with pytest.raises(JobAbortedError) as caught:
        signal.raise_if_aborted()
    assert (caught.value.reason, caught.value.message) == ("shutdown", "worker stops")


def test_waiting_ends_with_the_abort(signal: Signal) -> None:
    """C2: as `threading.Event.wait` does."""
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(signal.wait(30)))
    waiting.start()
    signal.abort("cancelled")
    waiting.join(10)
    assert answers == [True]


def test_waiting_in_vain_says_so(signal: Signal) -> None:
    """C2: False after the timeout, True at once after the abort."""
    assert signal.wait(0) is False
    signal.abort("cancelled")
    assert (signal.wait(0), signal.wait()) == (True, True)


def test_a_wait_takes_what_an_event_takes_and_a_timedelta(signal: Signal) -> None:
    """C2: a time that is over is no error; durations are seconds or a `timedelta`."""
    assert (signal.wait(-1), signal.wait(timedelta(milliseconds=1)), signal.wait(timedelta(seconds=-1))) == (False, False, False)


@pytest.mark.parametrize("fired", [False, True])
def test_what_cannot_be_called_is_no_listener(signal: Signal, fired: bool) -> None:
    """C2: `add_listener(connection.cancel())`, say: it would be noticed only when the job is to stop, in a log."""
    if fired:
        signal.abort("cancelled")
    with pytest.raises(TypeError, match="callback=None cannot be called: give the function itself, not what it returns"):
        signal.add_listener(None)  # type: ignore[arg-type]


def test_many_threads_may_wait(signal: Signal) -> None:
    """B7: all are woken by one abort."""
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(signal.wait(30))) for _ in range(20)]
    for thread in threads:
        thread.start()
    signal.abort("cancelled")
    for thread in threads:
        thread.join(10)
    assert answers == [True] * 20


def test_a_listener_is_called_with_the_signal(signal: Signal) -> None:
    """C2: at the abort, once."""
    seen: list[Signal] = []
    signal.add_listener(seen.append)
    assert seen == []
    signal.abort("cancelled")
    signal.abort("timeout")
    assert seen == [signal]


def test_a_listener_that_is_added_after_the_abort_is_called_at_once(signal: Signal) -> None:
    """C4: nobody has to look first."""
    signal.abort("cancelled")
    seen: list[Signal] = []
    signal.add_listener(seen.append)
    assert seen == [signal]


def test_a_listener_that_was_removed_is_not_called(signal: Signal) -> None:
    """C2: and to remove one that is not there is no error."""
    seen: list[Signal] = []
    signal.add_listener(seen.append)
    signal.remove_listener(seen.append)
    signal.remove_listener(seen.append)
    signal.abort("cancelled")
    assert seen == []


@pytest.mark.parametrize("late", [False, True])
def test_a_listener_that_raises_is_logged_and_harms_nothing(signal: Signal, caplog: pytest.LogCaptureFixture, late: bool) -> None:
    """C4: the others are called, and the abort stands."""
    seen: list[str] = []

    def broken(_: Signal) -> None:
        raise RuntimeError("broken listener")

    if late:
        signal.abort("cancelled")
    signal.add_listener(broken)
    signal.add_listener(lambda _: seen.append("called"))
    signal.abort("cancelled")
    assert (seen, signal.aborted) == (["called"], True)
    assert "broken listener" in caplog.text


def test_a_listener_may_use_the_signal_itself(signal: Signal) -> None:
    """C4: no lock is held while it runs."""
    seen: list[object] = []

    def busy(fired: Signal) -> None:
        fired.remove_listener(busy)
        fired.add_listener(lambda _: seen.append("nested"))
        seen.append((fired.wait(), fired.abort("timeout")))

    signal.add_listener(busy)
    signal.abort("cancelled")
    assert seen == ["nested", (True, False)]


def _add_at(start: threading.Barrier, signal: Signal, listener: Callable[[Signal], None]) -> None:
    start.wait()
    signal.add_listener(listener)


def test_a_listener_added_in_the_moment_of_the_abort_is_called_once() -> None:
    """C4: neither lost nor called twice, whoever is first."""
    for _ in range(200):
        signal = Signal()
        calls: list[Signal] = []
        start = threading.Barrier(2)
        adding = threading.Thread(target=_add_at, args=(start, signal, calls.append))
        adding.start()
        start.wait()
        signal.abort("cancelled")
        adding.join(10)
        assert calls == [signal]


def test_a_coroutine_waits_without_blocking_the_loop(signal: Signal) -> None:
    """C2: `await signal.wait_async()`, woken from another thread."""

    async def run() -> list[str]:
        order: list[str] = []

        async def waiter() -> None:
            await signal.wait_async()
            order.append("woken")

        task = asyncio.create_task(waiter())
        await asyncio.sleep(0)
        order.append("loop is free")
        await asyncio.to_thread(signal.abort, "cancelled")
        await asyncio.wait_for(task, 10)
        return order

    assert asyncio.run(run()) == ["loop is free", "woken"]


def test_a_coroutine_that_comes_late_does_not_wait(signal: Signal) -> None:
    """C2, C4: after the abort it returns at once."""
    signal.abort("cancelled")
    asyncio.run(asyncio.wait_for(signal.wait_async(), 10))


def test_a_coroutine_that_gives_up_leaves_nothing_behind(signal: Signal) -> None:
    """C2: a wait with a timeout in a loop must not pile up listeners."""

    async def run() -> None:
        for _ in range(10):
            task = asyncio.create_task(signal.wait_async())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert signal._listeners == []


def test_a_loop_that_is_closed_does_not_hinder_the_abort(signal: Signal, caplog: pytest.LogCaptureFixture) -> None:
    """C4: its waiter is gone, and nobody needs to hear of it."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(signal.wait_async())
    loop.run_until_complete(asyncio.sleep(0))
    listeners = list(signal._listeners)
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
    for listener in listeners:
        signal.add_listener(listener)
    signal.abort("cancelled")
    assert caplog.records == []


def test_a_sleep_ends_early_by_raising() -> None:
    """C2: `ctx.sleep(seconds)`."""
    ctx = Context("job-1", "work")
    raised: list[BaseException] = []

    def sleep() -> None:
        try:
            ctx.sleep(30)
        except JobAbortedError as exc:
            raised.append(exc)

    sleeping = threading.Thread(target=sleep)
    sleeping.start()
    wait_until(lambda: ctx.signal._waiters, "the sleep")
    ctx.signal.abort("shutdown")
    sleeping.join(10)
    assert [str(error) for error in raised] == ["shutdown"]


def test_a_sleep_after_the_abort_raises_at_once() -> None:
    """C2: a loop of work and sleep stops at its next sleep."""
    ctx = Context("job-1", "work")
    ctx.signal.abort("cancelled")
    with pytest.raises(JobAbortedError):
        ctx.sleep(30)


def test_a_sleep_that_is_not_disturbed_returns() -> None:
    """C2: nothing is raised."""
    Context("job-1", "work").sleep(0)


def test_the_repr_tells_the_state(signal: Signal) -> None:
    """C1: for those who print it."""
    assert repr(signal) == "<Signal not aborted>"
    signal.abort("timeout")
    assert repr(signal) == "<Signal timeout>"


# --- in two steps, for signal handlers -------------------------------------------------------------------------------------


def test_a_mark_sets_the_fields_and_wakes_nobody(signal: Signal) -> None:
    """C3: a signal handler may take no lock, and call no listener; who looks sees it."""
    seen: list[Signal] = []
    signal.add_listener(seen.append)
    assert signal.mark("timeout", "soft_time_limit") is True
    assert (signal.aborted, signal.reason, signal.message, seen) == (True, "timeout", "soft_time_limit", [])


def test_who_waits_is_woken_when_the_mark_is_told(signal: Signal) -> None:
    """C2, C3: threads, coroutines and listeners, each once, however often it is told."""
    answers: list[bool] = []
    seen: list[Signal] = []
    signal.add_listener(seen.append)
    waiting = threading.Thread(target=lambda: answers.append(signal.wait(30)))
    waiting.start()
    signal.mark("timeout")
    signal.tell()
    signal.tell()
    waiting.join(10)
    assert (answers, seen) == ([True], [signal])


def test_an_abort_behind_a_mark_is_not_the_first(signal: Signal) -> None:
    """C1: nor a mark behind an abort; nobody is woken twice."""
    seen: list[str | None] = []
    signal.add_listener(lambda fired: seen.append(fired.reason))
    signal.mark("timeout")
    assert (signal.abort("cancelled"), signal.mark("shutdown"), signal.reason, seen) == (False, False, "timeout", [])
    signal.tell()
    assert seen == ["timeout"]


def test_a_mark_may_interrupt_the_signals_own_lines(signal: Signal) -> None:
    """C3: a signal handler comes between any two of them, also while its lock is held."""
    with signal._lock:
        assert signal.mark("timeout") is True
    signal.tell()
    assert signal.wait(0) is True


def test_of_marks_and_aborts_from_fifty_threads_one_is_first(signal: Signal) -> None:
    """C1: and its words stand."""
    winners: list[str] = []

    def fire(n: int) -> None:
        fired = signal.mark("timeout", str(n)) if n % 2 else signal.abort("cancelled", str(n))
        if fired:
            winners.append(str(n))

    in_fifty_threads(fire)
    assert winners == [signal.message]


def test_a_waiter_that_comes_between_mark_and_tell_does_not_wait(signal: Signal) -> None:
    """C2: nor does a listener that is added there wait for the telling."""
    signal.mark("timeout")
    seen: list[Signal] = []
    signal.add_listener(seen.append)
    assert (signal.wait(30), seen) == (True, [signal])


def test_a_time_limit_that_lands_in_a_wait_keeps_nobody_from_firing(signal: Signal) -> None:
    """H1: Celery's soft limit raises wherever the handler is; the thread that fires serves other jobs, too."""
    with landing_in_a_lock():
        signal.wait(0)
    assert ends(signal.abort, "timeout")
    assert signal.wait() is True
