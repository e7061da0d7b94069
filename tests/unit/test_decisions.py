"""When something is due, and what waits to be sent: pure decisions."""

from __future__ import annotations

import pytest

from taskora_celery.reporter.decisions import LINGER, YOUNG, LeaseTurn, Outage, Throttle, lease_interval, linger
from taskora_celery.reporter.outbox import Outbox
from taskora_celery.store.protocol import Batch, Ended


@pytest.mark.parametrize(
    ("configured", "timeout", "expected"),
    [(None, 30.0, 10.0), (None, 3600.0, 60.0), (None, None, 60.0), (5.0, 30.0, 5.0), (90.0, None, 90.0)],
)
def test_a_lease_is_renewed_thrice_per_timeout(configured: float | None, timeout: float | None, expected: float) -> None:
    """D1: so that two renewals may fail; at least once a minute, and as configured where it is."""
    assert lease_interval(configured, timeout) == expected


@pytest.mark.parametrize(
    ("configured", "visibility", "heartbeat", "expected"),
    [
        (None, 30.0, 8.0, 2.0),
        (None, 3600.0, 10_000.0, 60.0),
        (None, None, 4.0, 1.0),
        (5.0, 30.0, 8.0, 2.0),
        (1.0, 30.0, 8.0, 1.0),
    ],
)
def test_where_life_must_be_shown_it_is_looked_for_four_times_as_often(
    configured: float | None, visibility: float | None, heartbeat: float, expected: float
) -> None:
    """D4, D5: a silence is seen a quarter late at most, whatever else is configured; nothing is looked at less often for it."""
    assert lease_interval(configured, visibility, heartbeat) == expected


def test_the_first_beat_is_answered_at_once() -> None:
    """D1: the message may have waited long for its handler."""
    assert LeaseTurn(10.0, None, started=100.0).due_at(beating=True) == 100.0


def test_a_job_that_says_nothing_is_renewed_after_one_interval() -> None:
    """D3: its worker has renewed the message until it began."""
    assert LeaseTurn(10.0, None, started=100.0).due_at(beating=False) == 110.0


@pytest.mark.parametrize("beating", [False, True])
def test_after_the_first_there_is_one_renewal_in_each_interval(beating: bool) -> None:
    """D1, D3: beats in a tight loop are free, and silence is no reason not to renew."""
    turn = LeaseTurn(10.0, None, started=100.0, renewed=103.0)
    assert turn.due_at(beating=beating) == 113.0


def test_a_lease_that_could_not_be_renewed_is_due_when_the_broker_is_asked_again() -> None:
    """D1: an outage's pauses grow, and the interval does not come on top of them."""
    turn = LeaseTurn(10.0, None, started=100.0, renewed=103.0)
    turn.postpone(117.5)
    assert (turn.due_at(beating=False), turn.due_at(beating=True)) == (117.5, 117.5)


def test_a_silence_longer_than_the_timeout_is_a_stall_and_told_once() -> None:
    """D4: counted from the last sign of life; what is over is not told again."""
    turn = LeaseTurn(2.5, 10.0, started=100.0)
    assert [turn.sees_stall(now) for now in (100.0, 109.9, 110.0, 110.1, 200.0)] == [False, False, False, True, False]
    assert turn.stalled


def test_a_sign_of_life_begins_the_silence_anew() -> None:
    """D4: the start of the job is the first of them."""
    turn = LeaseTurn(2.5, 10.0, started=100.0)
    turn.life_at = 109.0
    assert [turn.sees_stall(now) for now in (111.0, 119.0, 119.1)] == [False, False, True]


def test_a_stall_is_not_undone_by_a_late_sign_of_life() -> None:
    """D4, D7: its message is on its way to another worker by then."""
    turn = LeaseTurn(2.5, 10.0, started=100.0)
    assert turn.sees_stall(111.0)
    turn.life_at = 112.0
    assert not turn.sees_stall(113.0)
    assert turn.stalled


def test_without_a_timeout_no_silence_is_a_stall() -> None:
    """D3: the job may say nothing for a week."""
    assert not LeaseTurn(10.0, None, started=0.0).sees_stall(604_800.0)


def test_a_throttle_is_due_at_once_and_then_after_its_interval() -> None:
    """E5: the first is not held back."""
    throttle = Throttle(10.0)
    assert throttle.due_at(100.0) == 100.0
    throttle.done(101.0)
    assert throttle.due_at(105.0) == 111.0


def test_a_throttle_with_a_lead_waits_before_the_first() -> None:
    """E5: counted from the first time that it is wanted."""
    throttle = Throttle(10.0, lead=0.1)
    assert throttle.due_at(100.0) == pytest.approx(100.1)
    assert throttle.due_at(105.0) == pytest.approx(100.1)


def test_an_outage_is_told_once_a_minute() -> None:
    """L1: news once, and a reminder for a long one."""
    outage = Outage()
    told = [now for now in range(0, 130, 10) if outage.failed(float(now))]
    assert told == [0, 60, 120]


def test_during_an_outage_the_store_is_left_alone_ever_longer() -> None:
    """L1: with a ceiling."""
    outage = Outage()
    pauses = []
    for _ in range(10):
        outage.failed(100.0)
        pauses.append(outage.ask_at - 100.0)
    assert 0.1 < pauses[0] <= 0.25
    assert 7.0 < pauses[-1] <= 15.0
    assert outage.closed_at(100.05)
    assert not outage.closed_at(116.0)


def test_an_outage_ends_with_the_first_answer() -> None:
    """L1: and its end is told, once."""
    outage = Outage()
    assert outage.succeeded() is False
    outage.failed(1.0)
    assert (outage.succeeded(), outage.succeeded(), outage.closed_at(1.0)) == (True, False, False)


def batch(entries: int) -> Batch:
    return Batch(entries, entries, b"x")


def test_an_outbox_without_anything_is_empty() -> None:
    """P11: nothing to say, nothing to send."""
    assert not Outbox()


@pytest.mark.parametrize("field", ["alive", "progress", "checkpoint", "ended"])
def test_an_outbox_with_anything_is_not(field: str) -> None:
    """E3: each of these is a reason to talk to the store."""
    outbox = Outbox()
    setattr(outbox, field, {"alive": True, "ended": Ended("SUCCESS", 1)}.get(field, b"x"))
    assert outbox


def test_an_outbox_drops_its_oldest_batches_and_says_how_many_entries() -> None:
    """L1: memory is bounded; the newest batch always stays."""
    outbox = Outbox()
    assert [outbox.add(first, batch(4), 10) for first in (0, 4, 8)] == [0, 0, 4]
    assert (outbox.entries, [first for first, _ in outbox.batches]) == (8, [4, 8])
    assert outbox.add(12, batch(50), 10) == 8
    assert [first for first, _ in outbox.batches] == [12]


@pytest.mark.parametrize(
    ("since_begin", "urgent", "expected"),
    [(0.0, True, LINGER), (YOUNG, True, 0.0), (60.0, True, 0.0), (0.0, False, 0.1), (60.0, False, 0.1)],
)
def test_a_first_report_waits_only_for_a_job_that_may_end_at_once(since_begin: float, urgent: bool, expected: float) -> None:
    """E1: what a job says that has run for a while goes out at once; what is only begun and ended is gathered."""
    assert linger(since_begin, 0.1, urgent=urgent) == expected
