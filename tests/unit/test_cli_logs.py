"""Log entries in lines, and what lies between them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from taskora_celery.cli.loglines import LogStyle, entry_lines, marker, meta_text
from taskora_celery.cli.logs import LogFilter, newest, together
from taskora_celery.cli.watch import Turns
from taskora_celery.records import Event, LogEntry
from tests.support.executions import NOW_MS


def entry(message: str = "page 7", level: str = "info", **fields: Any) -> LogEntry:
    return LogEntry(level, message, **{"timestamp": NOW_MS, "attempt": 1, "seq": 0, **fields})


def event(message: str = "page 7", at: int = 0, **fields: Any) -> Event:
    return Event("log", fields.get("seq", 0), NOW_MS + at, entry(message, timestamp=NOW_MS + at, **fields))


def state(name: str, **data: Any) -> Event:
    return Event("state", 0, NOW_MS, {"state": name, "attempt": 1, "delivery": 1, "worker": "w1@host", **data})


@pytest.mark.parametrize(
    ("logged", "style", "lines"),
    [
        (entry(), LogStyle(), ["INFO  page 7"]),
        (entry(level="warn", meta={"row": 1, "why": "no room"}), LogStyle(), ['WARN  page 7  row=1 why="no room"']),
        (entry(), LogStyle(times=True), ["2026-09-21T14:13:20.000Z INFO  page 7"]),
        (entry("a\r\nb\n"), LogStyle(), ["INFO  a", "        b", "        "]),
        (entry("a\tb\x1b[2J"), LogStyle(), [r"INFO  a    b\x1b[2J"]),
        (entry("a\tb\x1b[2J"), LogStyle(escaped=False), ["INFO  a\tb\x1b[2J"]),
        (
            entry(level="error", meta={"traceback": "Traceback:\n  KeyError\n", "n": 1}),
            LogStyle(),
            ["ERROR page 7  n=1", "        Traceback:", "          KeyError"],
        ),
        (entry(meta={"traceback": ["no", "text"]}), LogStyle(), ['INFO  page 7  traceback=["no","text"]']),
    ],
)
def test_an_entry_is_a_line_and_what_goes_on_is_indented(logged: LogEntry, style: LogStyle, lines: list[str]) -> None:
    """K3: no text of a job passes for another entry, and on a terminal none steers."""
    assert entry_lines(logged, style) == lines


def test_lines_begin_with_their_prefix() -> None:
    """K3: also those that go on."""
    assert entry_lines(entry("a\nb"), LogStyle(), "7ee1047d | ") == ["7ee1047d | INFO  a", "7ee1047d |         b"]


@pytest.mark.parametrize(
    ("meta", "text"),
    [
        ({"a": "word", "b": "two words", "c": ""}, 'a=word b="two words" c=""'),
        ({"a": {"b": [1, 2.5, None]}, "c": True}, 'a={"b":[1,2.5,null]} c=true'),
        ({"a": 'x="y"', "b": "a=b"}, r'a="x=\"y\"" b="a=b"'),
        ({"n": float("nan")}, "n=null"),
    ],
)
def test_meta_is_shown_as_pairs(meta: dict[str, Any], text: str) -> None:
    """K3: unambiguous, whatever the values are."""
    assert meta_text(meta) == text


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (state("RETRY", reason="refused", error="OSError", delay=8.0), "attempt 1 is retried: OSError: refused; attempt 2 in 8s"),
        (state("RETRY"), "attempt 1 is retried"),
        (state("LOST", reason="killed\x1b"), r"attempt 1 was lost: killed\x1b"),
        (state("STARTED"), None),
        (state("STARTED", attempt=2), "attempt 2 on w1@host"),
        (state("STARTED", delivery=2), "attempt 1 (delivery 2) on w1@host"),
        (state("SUCCESS"), None),
        (Event("cancel", 0, 0, {"phase": "requested", "reason": "wrong file"}), "cancel requested: wrong file"),
        (Event("cancel", 0, 0, {"phase": "delivered"}), "cancel delivered"),
        (Event("gap", 0, 0, {"count": 7}), "7 entries are not kept any more"),
        (Event("progress", 0, 0, 48), None),
    ],
)
def test_what_is_no_entry_is_marked(found: Event, text: str | None) -> None:
    """K3: where attempts meet, what is missing, and a cancel."""
    assert marker(found, LogStyle(), "x | ") == (None if text is None else f"x | ── {text} ──")
    assert marker(found, LogStyle(unicode=False)) == (None if text is None else f"-- {text} --")


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        (LogFilter(), True), (LogFilter("warn"), False), (LogFilter("info"), True), (LogFilter(attempt=1), True),
        (LogFilter(attempt=2), False), (LogFilter(since_ms=NOW_MS), True), (LogFilter(since_ms=NOW_MS + 1), False),
        (LogFilter(pattern=re.compile("^page")), True), (LogFilter(pattern=re.compile("row=1")), True),
        (LogFilter(pattern=re.compile("PAGE")), False),
    ],
)  # fmt: skip
def test_entries_are_filtered(wanted: LogFilter, taken: bool) -> None:
    """K3: by level, attempt, time, and by what is found in message and meta."""
    assert wanted.takes(entry(meta={"row": 1})) is taken


def messages(events: list[Event]) -> list[str]:
    return [found.data.message if found.kind == "log" else found.data["state"] for found in events]


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (None, ["a", "RETRY", "b", "c"]),
        (0, []),
        (1, ["c"]),
        (2, ["b", "c"]),
        (3, ["a", "RETRY", "b", "c"]),
        (9, ["a", "RETRY", "b", "c"]),
    ],
)
def test_the_newest_entries_are_kept(tail: int | None, expected: list[str]) -> None:
    """K3: ``-n`` counts entries, and what lies before them is gone."""
    events = [event("a"), state("RETRY"), event("b"), event("c"), event("debug", level="debug")]
    assert messages(newest(events, LogFilter("info"), tail)) == expected


def test_several_jobs_are_put_together_by_time() -> None:
    """K3: those of one job stay in their own order, though a clock may have gone back."""
    events = {"x": [event("1", 10), event("2", 5), event("3", 30)], "y": [event("4", 7), event("5", 20)], "z": []}
    assert [(job, found.data.message) for job, found in together(events)] == [
        ("y", "4"), ("x", "1"), ("x", "2"), ("y", "5"), ("x", "3"),
    ]  # fmt: skip


def test_a_change_is_one_line_and_at_most_one_a_second() -> None:
    """K3: the last is not held back, and what is the same is not said again."""
    turns = Turns(1.0)
    said = [turns.takes("a", what, now, last=last) for what, now, last in (
        (1, 0.0, False), (1, 5.0, False), (2, 5.5, False), (3, 6.0, False), (4, 6.5, False), (5, 6.6, True), (5, 6.7, True),
    )]  # fmt: skip
    assert said == [True, False, True, False, True, True, False]
    assert turns.takes("b", 1, 6.7, last=False), "each job has its own turn"
