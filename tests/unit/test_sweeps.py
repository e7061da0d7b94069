"""Whose sweep is waited for, and since when it is at work."""

from __future__ import annotations

import pytest

from taskora_celery.lease.redis import Sweep, sweep_of

NOW = 1_000.0
HOLDER = b"another"


@pytest.mark.parametrize(
    ("left", "lasts", "age"),
    [
        pytest.param(300.0, 300.0, 0.1, id="kombu's, just now: what was seen"),
        pytest.param(298.0, 300.0, 2.0, id="kombu's"),
        pytest.param(5.0, 300.0, 0.1, id="ours, just now"),
        pytest.param(3.0, 300.0, 2.0, id="ours, or kombu's that is nearly over: less than its age"),
        pytest.param(600.0, 300.0, 0.1, id="more than kombu's here: another setting"),
        pytest.param(2.9, 3.0, 0.1, id="kombu's, which lasts for less than ours"),
        pytest.param(4.0, 3.0, 0.1, id="ours, where kombu's lasts for less"),
        pytest.param(0.0, 0.0, 0.1, id="kombu's, which lasts for ever"),
        pytest.param(4.0, 0.0, 0.1, id="ours, where kombu's lasts for ever"),
    ],
)
def test_the_age_is_what_is_gone_of_its_time_or_what_was_seen(left: float, lasts: float, age: float) -> None:
    """D5: the greater of both, and never more than it can be."""
    found = sweep_of(HOLDER, left, lasts, NOW, Sweep(HOLDER, NOW - 0.1))
    assert found.holder == HOLDER
    assert NOW - found.since == pytest.approx(age)


@pytest.mark.parametrize(
    ("holder", "before"),
    [
        (HOLDER, None),
        (HOLDER, Sweep(b"one before", 1.0)),
        (HOLDER, Sweep(None, 1.0)),
        (None, Sweep(None, 1.0)),
        (None, Sweep(HOLDER, 1.0)),
    ],
)
def test_who_is_seen_for_the_first_time_has_just_begun(holder: bytes | None, before: Sweep | None) -> None:
    """D5: other workers may give their mutex less time; and one that was free when it was looked at is nobody's."""
    assert sweep_of(holder, 60.0, 300.0, NOW, before) == Sweep(holder, NOW)
