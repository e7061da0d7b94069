"""Durations and instants."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from taskora_celery.clock import SYSTEM_CLOCK, instant, seconds


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 0.0), (3, 3.0), (0.5, 0.5), (timedelta(minutes=2), 120.0), (timedelta(microseconds=1), 1e-06)]
)
def test_a_duration_is_a_number_of_seconds_or_a_timedelta(value: Any, expected: float) -> None:
    """I1: wherever a duration is taken."""
    result = seconds(value, "delay")
    assert (result, type(result)) == (expected, float)


@pytest.mark.parametrize("value", [-1, -0.001, math.nan, math.inf, -math.inf, timedelta(seconds=-1), 10**400, -(10**400)])
def test_a_duration_that_is_none_is_a_value_error_that_names_the_argument(value: Any) -> None:
    """I2: at the call, not when it is too late."""
    with pytest.raises(ValueError, match=r"delay=.* is not a duration"):
        seconds(value, "delay")


@pytest.mark.parametrize("value", ["3", None, True, [1], b"1", 1j])
def test_what_is_no_number_is_a_type_error(value: Any) -> None:
    """I1: `"30"` from a header must not become 30 by luck."""
    with pytest.raises(TypeError, match=r"delay=.* is not a duration"):
        seconds(value, "delay")


def test_an_instant_is_an_aware_datetime_in_utc() -> None:
    """B4: `created_at` compares with any aware datetime."""
    assert instant(1_790_000_000_123) == datetime(2026, 9, 21, 14, 13, 20, 123_000, timezone.utc)


def test_the_system_clock_tells_both_times() -> None:
    """One source that tests can replace."""
    assert SYSTEM_CLOCK.monotonic() <= SYSTEM_CLOCK.monotonic()
    assert SYSTEM_CLOCK.time() > 1_700_000_000
