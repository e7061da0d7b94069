"""The shapes of progress."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from taskora_celery.progress import LINE_CHARS, Pace, backend_meta, numbers, percent, progress_line, progress_value


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


# --- as a line -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (48, "48%"), (0.5, "0.5%"), (33.333, "33.3%"), (99.99, "99.9%"), (True, "True"), (None, ""), ("half", "half"),
        (math.nan, "nan"), (math.inf, "inf"), ([1, 2], "[1, 2]"), ({"rows": 40, "file": "a.csv"}, "rows=40 file=a.csv"),
        (progress_value(12, 25, "rendering"), "48% 12/25 rendering"), (progress_value(7, None, "rows"), "7 rows"),
        (progress_value(1, 2) | {"file": "a"}, "50% 1/2 file=a"), ({"current": 1, "total": 2}, "50% 1/2"),
        ({"current": [1], "total": "x", "percent": True, "message": 0}, ""),
    ],
)  # fmt: skip
def test_progress_is_a_line_for_people(value: Any, expected: str) -> None:
    """K1: what was said, and no percentage that was not reached."""
    assert progress_line(value) == expected


def test_a_line_of_progress_keeps_its_endings() -> None:
    """K1: 200 characters, the last of which say how long and which attempt."""
    line = progress_line(progress_value(12, 25, "x" * 1_000), "12 s left", "", "attempt 2/4")
    assert len(line) == LINE_CHARS
    assert line.startswith("48% 12/25 xxx")
    assert line.endswith("x… · 12 s left · attempt 2/4")
    assert progress_line(None, "attempt 2") == "attempt 2"


def test_numbers_are_numbers_and_a_message_or_nothing() -> None:
    """K1: who reads an event can calculate with it."""
    assert numbers(48) == {"current": 48, "total": 100, "percent": 48.0}
    assert numbers(progress_value(12, 25, "rendering")) == {"current": 12, "total": 25, "percent": 48.0, "message": "rendering"}
    assert numbers({"current": 1, "total": 4}) == {"current": 1, "total": 4, "percent": 25.0}
    assert numbers({"current": "a", "percent": math.nan, "total": 2**200}) == {}
    assert numbers("half") == numbers(None) == numbers([1]) == numbers(True) == {}


def test_the_time_left_goes_by_the_pace_since_the_first_report() -> None:
    """K1: a job that goes on from a checkpoint at 40% has not done those 40 in its first second."""
    pace = Pace()
    assert pace.left(40.0, 100.0) is None
    assert pace.left(41.0, 100.5) is None, "too soon to say"
    assert pace.left(46.0, 102.0) == pytest.approx(18.0)
    assert pace.text(46.0, 102.0) == "18 s left"
    assert pace.left(46.0, 104.0) == pytest.approx(36.0), "no progress since"
    assert pace.left(None, 105.0) is None
    assert pace.left(100.0, 106.0) is None
    assert pace.text(100.0, 106.0) == ""


def test_a_percentage_that_falls_begins_a_new_round() -> None:
    """K1: a job of several phases, each from 0 to 100."""
    pace = Pace()
    pace.left(10.0, 0.0)
    pace.left(90.0, 8.0)
    assert pace.left(0.0, 10.0) is None
    assert pace.left(20.0, 12.0) == pytest.approx(8.0)
