"""Text that others will read."""

from __future__ import annotations

import pytest

from taskora_celery.texts import cut_line, duration_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rendering", "rendering"),
        ("two\nlines\r\n\tand  blanks", "two lines and blanks"),
        ("clear\x1b[2Jscreen\x00", "clear\\x1b[2Jscreen\\x00"),
        ("safe\u202etxt.exe", "safe\\u202etxt.exe"),
        ("x" * 31, "x" * 29 + "…"),
        ("", ""),
    ],
)
def test_a_line_is_one_line_that_nothing_obeys(text: str, expected: str) -> None:
    """K1: a job's text must not move a cursor, forge a line or fill a page."""
    assert cut_line(text, 30) == expected


def test_a_line_of_a_huge_text_is_short() -> None:
    """K1: it is cut before anything else is done with it."""
    assert cut_line("\x1b" * 10_000_000, 200) == ("\\x1b" * 50)[:199] + "…"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"), (0.043, "0.04 s"), (0.96, "1 s"), (12.4, "12 s"), (99, "99 s"), (100, "2 min"), (3_599, "60 min"),
        (7_500, "2 h 5 min"), (90_000, "1 d 1 h"), (-3, "0 s"),
    ],
)  # fmt: skip
def test_a_duration_is_said_in_one_unit_or_two(seconds: float, expected: str) -> None:
    """K1: as people say it."""
    assert duration_text(seconds) == expected
