"""When something is due, and what waits to be sent: pure decisions."""

from __future__ import annotations

import pytest

from taskora_celery.reporter.decisions import Outage, Throttle, lease_interval
from taskora_celery.reporter.outbox import Outbox
from taskora_celery.store.protocol import Batch, Ended


@pytest.mark.parametrize(
    ("configured", "timeout", "expected"),
    [(None, 30.0, 10.0), (None, 3600.0, 60.0), (None, None, 60.0), (5.0, 30.0, 5.0), (90.0, None, 90.0)],
)
def test_a_lease_is_renewed_thrice_per_timeout(configured: float | None, timeout: float | None, expected: float) -> None:
    """D1: so that two renewals may fail; at least once a minute, and as configured where it is."""
    assert lease_interval(configured, timeout) == expected


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
    assert outbox.add(0, (batch(4), batch(4)), 10) == 0
    assert outbox.add(8, (batch(4),), 10) == 4
    assert (outbox.entries, [first for first, _ in outbox.batches]) == (8, [4, 8])
    assert outbox.add(12, (batch(50),), 10) == 8
    assert [first for first, _ in outbox.batches] == [12]
