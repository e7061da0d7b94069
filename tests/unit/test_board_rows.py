"""What the pages show of jobs, attempts and logs: pure functions, templates, and the colours of both themes."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from taskora_celery.board import app as board
from taskora_celery.board.logfilter import LogFilter
from taskora_celery.board.pages import TABLE, pages
from taskora_celery.board.rendering import Renderer, address, shown_lines
from taskora_celery.board.rows import attempt_row, entry_line, job_row, line_of, short_id
from taskora_celery.records import AttemptRecord, Event, JobStatus, LogEntry, Outcome
from taskora_celery.views import STATES, JobView

HERE = Path(board.__file__).parent
NOW_MS = 1_790_000_000_000


def view(state: str = "running", progress: Any = None, **fields: Any) -> JobView:
    status = JobStatus("7ee1047d-41c2-4a3e-9d2f-0c8b5f6f2d11", "t", "STARTED", 1, 1, "w1", 1, 2, NOW_MS - 500, progress=progress)
    return JobView(status, state, **fields)


def entry(message: str, level: str = "info", attempt: int = 1, **meta: Any) -> Event:
    return Event("log", 7, NOW_MS, LogEntry(level, message, NOW_MS, attempt, 7, meta or None))


def line(*args: Any, **meta: Any) -> Any:
    found = line_of(entry(*args, **meta))
    assert found is not None
    return found


# --- rows ----------------------------------------------------------------------------------------------------------------


def test_an_id_is_short_where_it_is_random_and_cut_where_it_is_long() -> None:
    """K4: the beginnings of ids that somebody made up are often alike."""
    assert short_id("7ee1047d-41c2-4a3e-9d2f-0c8b5f6f2d11") == "7ee1047d"
    assert short_id("import-7") == "import-7"
    assert short_id("import-2026-11-25-orders") == "import-2026-11-25-o…"
    assert short_id("") == "(empty)"


@pytest.mark.parametrize(
    ("progress", "percent", "message", "share"),
    [
        (None, None, "", ""),
        ({"percent": 48.9, "current": 12, "total": 25, "message": "on"}, 48.9, "12/25 on", "48%"),
        (99.96, 99.96, "", "99%"),
        (1_234_567, None, "1234567", ""),
        ("words", None, "words", ""),
        ({"files": 3, "percent": 5}, 5.0, "files=3", "5%"),
    ],
)
def test_progress_is_a_share_and_words(progress: Any, percent: float | None, message: str, share: str) -> None:
    """K4: what is not done is never shown as 100 %, and a value of the user's own shape is shown, too."""
    row = job_row(view(progress=progress, percent=percent), NOW_MS)
    assert (row.message, row.share) == (message, share)


def test_a_row_says_when_it_will_be_done_and_when_it_was_alive() -> None:
    """K4: as instants, so that the page counts by itself."""
    row = job_row(view(left=12.2), NOW_MS)
    assert (row.done_ms, row.alive_ms, row.going) == (NOW_MS + 12_200, NOW_MS - 500, True)
    over = job_row(view("done"), NOW_MS)
    assert (over.done_ms, over.alive_ms, over.going) == (None, None, False)


def test_attempts_have_an_outcome_in_words() -> None:
    """K4: one row each; the last one says when the next begins."""
    retried = AttemptRecord(1, 2, "w1", NOW_MS, Outcome.RETRY, 2.0, "refused", "OSError", 5.0, NOW_MS + 7_000)
    row = attempt_row(retried, last=True, view=view("retrying", next_ms=NOW_MS + 7_000))
    assert (row.number, row.outcome, row.reason, row.delay, row.next_ms) == (
        "1.2",
        "retry",
        "OSError: refused",
        5.0,
        NOW_MS + 7_000,
    )
    assert attempt_row(retried, last=False, view=view()).next_ms is None
    runs = attempt_row(AttemptRecord(2, 1, "w1", NOW_MS), last=True, view=view("stalled"))
    assert (runs.outcome, runs.running) == ("stalled", True)
    assert attempt_row(AttemptRecord(1, 1, "w", 0, Outcome.LOST), last=False, view=view()).outcome == "lost"


# --- lines ---------------------------------------------------------------------------------------------------------------


def test_what_happened_stands_among_the_lines() -> None:
    """K4: retries, losses, steps of a cancel with who and why, and gaps."""
    retry = line_of(Event("state", 3, NOW_MS, {"state": "RETRY", "attempt": 1, "reason": "no", "error": "OSError", "delay": 2.5}))
    cancel = line_of(Event("cancel", 4, NOW_MS, {"phase": "requested", "by": "alice", "reason": "wrong", "attempt": 0}))
    gap = line_of(Event("gap", 5, NOW_MS, {"count": 3}))
    assert [found.text for found in (retry, cancel, gap) if found] == [
        "will be tried again in 2.5 s: OSError: no", "cancel requested by alice: wrong", "3 entries are not kept"
    ]  # fmt: skip
    assert line_of(Event("progress", 5, NOW_MS, 1)) is None
    assert line_of(Event("state", 5, NOW_MS, {"state": "STARTED", "attempt": 1})) is None, "the attempts say so"


def test_the_meta_of_an_entry_is_shown_as_it_was_given() -> None:
    """K4: texts as they are, all else as JSON; what has no JSON as text."""
    assert line("m", a="x y", b={"c": [1]}, d=1 << 70).meta == (("a", "x y"), ("b", '{"c":[1]}'), ("d", str(1 << 70)))


def test_lines_pass_by_level_attempt_and_text() -> None:
    """K4: what happened passes each level, and a cancel, which has no attempt, each attempt."""
    assert LogFilter("warn", 1).takes(line("m", "warn"))
    assert not LogFilter("warn").takes(line("m", "info"))
    assert not LogFilter(attempt=2).takes(line("m"))
    assert LogFilter(text="value").takes(line("Some text", k="VALUE"))
    assert not LogFilter(text="other").takes(line("Some text"))
    assert LogFilter(text="shop.tax").takes(entry_line(LogEntry("info", "Some text", NOW_MS, 1, 7, None, "shop.tax")))
    cancel = line_of(Event("cancel", 4, NOW_MS, {"phase": "killed", "attempt": 0}))
    assert cancel is not None
    assert LogFilter("error", 2).takes(cancel)


# --- templates -----------------------------------------------------------------------------------------------------------


def test_a_template_shows_control_characters_and_escapes_markup() -> None:
    """K4: in every place, without a filter that somebody could forget."""
    renderer = Renderer("shop", {}, read_only=True)
    html = renderer.render("error.html", "", status=404, title="<b>\x1b\u202e", text="x" * 3_000)
    assert "<title>&lt;b&gt;\\x1b\\u202e</title>" in html
    assert "x" * 1_001 not in html
    text = renderer.render("line.html", "", line=line("a\nb\tc\r\n\x00<i>\u2066", k="<\x1b>"))
    assert "a\nb\tc\n\\x00&lt;i&gt;\\u2066" in text
    assert "<i>k</i>=&lt;\\x1b&gt;" in text
    assert shown_lines("a\r\nb\rc") == "a\nb\\x0dc"


def test_addresses_hold_any_id() -> None:
    """K4: and lead under the mount."""
    assert address("/jobs", "job", id="a/b&c=\u202e\x00 ü", x=None, y="") == "/jobs/job?id=a%2Fb%26c%3D%E2%80%AE%00%20%C3%BC"
    assert address("", "") == "/"
    assert address("", "job", id="\ud800") == "/job?id=%3F"


def test_each_state_has_a_shape_and_no_template_runs_a_script_of_its_own() -> None:
    """K4: a state is a word and a shape; scripts and styles are files, which is all that the policy lets run."""
    shapes = (HERE / "templates" / "shapes.html").read_text("utf-8")
    assert {word for word in STATES.values() if f'id="shape-{word}"' not in shapes} == set()
    for template in (HERE / "templates").glob("*.html"):
        text = template.read_text("utf-8")
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?! defer src=)|\|\s*safe|javascript:", text), template.name
    script = (HERE / "static" / "board.js").read_text("utf-8")
    assert not re.search(r"eval\(|new Function|document\.write|insertAdjacentHTML", script)
    assert script.count("innerHTML") == 1, "what the server has escaped, in one place"
    assert len(script) < 12_500


def test_the_pages_of_the_table_are_found_by_name() -> None:
    """K4: each is a file of its own."""
    found = pages()
    assert list(found) == [name for name in TABLE if name in found]
    assert all(page.name == name for name, page in found.items())


# --- colours -------------------------------------------------------------------------------------------------------------


def _luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(digit * 2 for digit in digits) if len(digits) == 3 else digits
    channels = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _theme(dark: bool) -> dict[str, str]:
    css = (HERE / "static" / "board.css").read_text("utf-8")
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+)", css.split(":root {")[2 if dark else 1].split("}")[0]))


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_is_legible_in_both_themes(dark: bool) -> None:
    """K4: AA, 4.5:1 for text on every ground on which it stands, 3:1 for edges and bars."""
    theme = _theme(dark)
    states = ("running", "retrying", "stalled", "failed", "cancelled", "done")
    for text, ground in product(("ink", "muted", "accent", *states), ("bg", "panel", "hover", "field", "soft")):
        assert _contrast(theme[text], theme[ground]) >= 4.5, f"{text} on {ground}"
    assert _contrast(theme["on-accent"], theme["accent"]) >= 4.5
    assert _contrast(theme["ink"], theme["bad-soft"]) >= 4.5
    for drawn, ground in product(("edge", "running"), ("bg", "panel", "track")):
        assert _contrast(theme[drawn], theme[ground]) >= (3 if (drawn, ground) != ("edge", "track") else 1), (
            f"{drawn} on {ground}"
        )
