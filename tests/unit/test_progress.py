"""The shapes of progress."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from taskora_celery.progress import backend_meta, percent, progress_value


@pytest.mark.parametrize("value", [33, 0.5, "half", None, {"a": 1}, [1], True, (1, 2)])
def test_a_reader_gets_the_value_as_it_was_reported(value: Any) -> None:
    """E6: number or object."""
    assert progress_value(value) is value


def test_steps_come_with_their_percentage() -> None:
    """E1: `ctx.progress(current, total=…, message=…)`."""
    assert progress_value(5, 20, "rows") == {"current": 5, "total": 20, "percent": 25.0, "message": "rows"}
    assert progress_value(5, 20) == {"current": 5, "total": 20, "percent": 25.0}
    assert progress_value("x", None, "rows") == {"current": "x", "total": None, "percent": None, "message": "rows"}


@pytest.mark.parametrize(
    ("current", "total", "expected"),
    [
        (1, 3, 33.33), (0, 5, 0.0), (5, 5, 100.0), (150, 100, 150.0), (-5, 100, -5.0), (1, 0, None), (1, None, None),
        ("a", 2, None),
        (math.nan, 2, None), (1, math.inf, 0.0), (math.inf, 2, None), (10**400, 3, None), (3, 10**400, None), ([1], 2, None),
        (1j, 2, None),
    ],
    ids=[f"case{n}" for n in range(15)],
)  # fmt: skip
def test_a_percentage_is_a_number_or_nothing(current: Any, total: Any, expected: float | None) -> None:
    """E1: a float is not clamped, and nonsense is no error."""
    assert percent(current, total) == expected


@pytest.mark.parametrize("value", [33, 33.3, 0, -1.5, 250])
def test_a_number_has_the_keys_that_progress_bars_read(value: float) -> None:
    """E4: celery-progress and its kin."""
    assert backend_meta(value) == {"progress": value, "current": value, "total": 100, "percent": float(value)}


def test_the_percentage_of_a_number_is_a_float() -> None:
    """E4: exactly `{"progress": 33, "current": 33, "total": 100, "percent": 33.0}`."""
    assert json.dumps(backend_meta(33)) == '{"progress": 33, "current": 33, "total": 100, "percent": 33.0}'


@pytest.mark.parametrize("value", [{"rows": 3}, [1, 2], "half", None, True, False])
def test_all_else_appears_as_itself(value: Any) -> None:
    """E4: True is no number here."""
    assert backend_meta(value) == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, {"a": [math.nan, {"b": math.inf}]}])
def test_what_json_lacks_is_text(value: Any) -> None:
    """E2: a strict parser in a browser must be able to read it."""
    json.dumps(backend_meta(value), allow_nan=False)


def test_a_whole_number_that_no_float_holds_does_not_fail() -> None:
    """E2: the encoder has made text of it before; this function is told whatever comes."""
    assert backend_meta(2**64 - 1)["current"] == 2**64 - 1
