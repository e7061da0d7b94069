"""The small functions that the commands draw with."""

from __future__ import annotations

import io
from typing import Any

import pytest

from taskora_celery.cli.drawing import bar, short_ids
from taskora_celery.cli.table import Cell, Column, fitted, joined, table
from taskora_celery.cli.terminal import Output, wants_color
from taskora_celery.cli.text import fit, one_line, pad, rows_of, visible, width
from taskora_celery.times import age, clock, moment, parse_duration
from tests.support.executions import NOW_MS
from tests.support.screen import Screen


def plain(text: str, *_: str) -> str:
    return text


def styled(text: str, *names: str) -> str:
    return f"\x1b[1m{text}\x1b[0m" if names and text else text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("2h", 7200), ("1d", 86_400), ("1h30m", 5400), ("1.5s", 1.5), ("7", 7), ("0", 0)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    """K3: ``90s 10m 2h 1d``, parts of them in a row, and a number of seconds."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1x", "1h 2m", "1h30", "10 m", "1e3", "nan", "\u0661s", "1.s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """K3: with the forms that are understood."""
    with pytest.raises(ValueError, match="write 90s, 10m, 2h or 1d"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["36501d", "9" * 400 + "s", "9" * 400 + "d"])
def test_a_duration_that_no_clock_can_add_is_refused(text: str) -> None:
    """K3: a slip of the finger is wrong usage, not a traceback."""
    assert parse_duration("36500d") == 36_500 * 86_400
    with pytest.raises(ValueError, match="more than a hundred years: write 90s") as refused:
        parse_duration(text)
    assert len(str(refused.value)) < 100


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0s"), (0.9, "0s"), (72, "72s"), (119.9, "119s"), (120, "2m"), (7_199, "119m"), (7_200, "2h"), (172_800, "2d")],
)
def test_a_duration_is_shown_in_one_word(seconds: float, text: str) -> None:
    """K3: the smaller unit up to twice the larger; clocks that differ make no negative age."""
    assert age(seconds) == text


def test_instants_are_shown_in_utc() -> None:
    """K3: RFC 3339 for programs, to the second for people."""
    assert moment(NOW_MS + 7) == "2026-09-21T14:13:20.007Z"
    assert clock(NOW_MS + 7) == "2026-09-21 14:13:20Z"


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("abc", 3),
        ("日本", 4),
        ("e\u0301", 1),
        ("ﾊﾟ", 2),
        ("한", 2),
        ("\u1112\u1161\u11ab", 2),
        ("🎉", 2),
        ("a\u200db", 2),
        ("\x1b[1;31mred\x1b[0m", 3),
    ],
)
def test_width_is_that_of_the_terminal(text: str, columns: int) -> None:
    """K3: wide characters take two columns, marks and styles none."""
    assert width(text) == columns


@pytest.mark.parametrize(
    ("columns", "begin", "end"),
    [(6, "日本語", "日本語"), (5, "日本…", "…本語"), (4, "日…", "…語"), (1, "…", "…"), (0, "", "")],
)
def test_text_is_cut_to_its_room(columns: int, begin: str, end: str) -> None:
    """K3: never wider than that, whatever its characters take, and it shows that it was cut."""
    assert fit("日本語", columns) == begin
    assert fit("日本語", columns, keep_end=True) == end
    assert width(fit("日本語", columns)) <= columns


def test_a_mark_that_does_not_fit_is_cut_itself() -> None:
    """K3: in a terminal without Unicode."""
    assert [fit("abcdef", columns, mark="...") for columns in (6, 5, 3, 2)] == ["abcdef", "ab...", "...", ".."]
    assert pad("日本", 5) == "日本 "


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0), 0x200B, 0x202E, 0x2066, 0x2028, 0xFEFF, 0xD800, 0xE0041])
def test_no_control_character_is_left(code: int) -> None:
    """K3: a terminal obeys C0, C1 and ESC; a reader is deceived by what turns the text around or hides in it."""
    shown = visible(f"a{chr(code)}b")
    assert shown.isprintable()
    assert shown.startswith("a\\")
    assert shown.endswith("b")


def test_text_of_all_languages_stays() -> None:
    """K3: only what steers is written out."""
    assert visible("Grüße, 日本, שלום, 👩‍🔧") == "Grüße, 日本, שלום, 👩‍🔧"
    assert one_line(" a\r\n\t b\x00 ") == r"a b\x00"


COLUMNS = (Column("ID"), Column("TASK", least=6, keep_end=True), Column("AGE", spare=2), Column("REASON", least=4, spare=1))
ROWS = [
    [Cell("1"), Cell("shop.orders.render"), Cell("2m"), Cell("refused by the host")],
    [Cell("22"), Cell("mail"), Cell("1s"), Cell("")],
]


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (
            50,
            [
                "ID  TASK                AGE  REASON",
                "1   shop.orders.render  2m   refused by the host",
                "22  mail                1s",
            ],
        ),
        (40, ["ID  TASK                AGE  REASON", "1   shop.orders.render  2m   refused by…", "22  mail                1s"]),
        (24, ["ID  TASK       AGE  REA…", "1   …s.render  2m   ref…", "22  mail       1s"]),
        (19, ["ID  TASK       REA…", "1   …s.render  ref…", "22  mail"]),
        (10, ["ID  TASK", "1   …ender", "22  mail"]),
    ],
)
def test_a_table_fits_its_room(room: int, expected: list[str]) -> None:
    """K3: the last column is cut first, then those before it, then columns are left out."""
    lines = table(COLUMNS, ROWS, room, plain)
    assert max(map(width, lines)) <= room
    assert lines == expected


def test_a_table_is_aligned_whatever_its_styles() -> None:
    """K3: styles take no room."""
    rows = [[Cell("1", ("bold",)), Cell("日本", ("bold",)), Cell("2m"), Cell("x", ("bold",))]]
    screen = Screen(80)
    screen.write("\r\n".join(table(COLUMNS, rows, 80, styled)))
    assert screen.text == "\n".join(table(COLUMNS, rows, 80, plain))


def test_columns_that_cannot_be_left_out_stay() -> None:
    """K3: a table that no terminal holds is still one."""
    assert fitted([Column("A"), Column("B")], [5, 5], 3) == [5, 5]


def test_parts_of_a_line_are_cut_at_its_end() -> None:
    """K3: what is drawn in place must not wrap."""
    parts = [Cell("one", ("bold",)), Cell(""), Cell("two"), Cell("three")]
    assert joined(parts, 80, plain) == "one  two  three"
    assert joined(parts, 11, plain) == "one  two  …"
    assert joined(parts, 10, plain) == "one  two"
    assert joined(parts, 7, plain) == "one  t…"


@pytest.mark.parametrize(("percent", "expected"), [(0, "░░░░░░░░"), (48, "████░░░░"), (100, "████████")])
def test_a_bar_is_as_full_as_it_says(percent: float, expected: str) -> None:
    """K3: in as many columns as there are."""
    assert bar(percent, 8, unicode=True) == expected
    assert len(bar(percent, 8, unicode=False)) == 8
    assert bar(100, 8, unicode=False) == "[######]"


def test_ids_are_cut_to_what_tells_them_apart() -> None:
    """K3: names that users give begin alike."""
    ids = ["import-orders-1", "import-orders-12", "7ee1047d-1111", "x"]
    assert short_ids(ids) == {
        "import-orders-1": "import-orders-1", "import-orders-12": "import-orders-12", "7ee1047d-1111": "7ee1047d", "x": "x",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("env", "terminal", "refused", "expected"),
    [
        ({}, True, False, True),
        ({}, False, False, False),
        ({}, True, True, False),
        ({"NO_COLOR": "1"}, True, False, False),
        ({"NO_COLOR": ""}, True, False, True),
        ({"CLICOLOR_FORCE": "1"}, False, False, True),
        ({"CLICOLOR_FORCE": "0"}, False, False, False),
        ({"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, True, False, False),
        ({"CLICOLOR_FORCE": "1"}, True, True, False),
        ({"CLICOLOR": "0"}, True, False, False),
    ],
)
def test_colours_are_used_where_they_are_wanted(env: dict[str, str], terminal: bool, refused: bool, expected: bool) -> None:
    """K3: a terminal has them; who forbids them is heard first."""
    assert wants_color(terminal=terminal, refused=refused, env=env) is expected


class Tty(io.StringIO):
    """A stream that passes for a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def output(stream: io.StringIO, **env: str) -> Output:
    return Output(stream, io.StringIO(), {"TERM": "xterm", "COLUMNS": "20", **env})


def test_a_picture_is_redrawn_in_its_place() -> None:
    """K3: also where a line of it has wrapped, since the terminal became narrower; what is written meanwhile is above it."""
    stream, screen = Tty(), Screen(20)
    out = output(stream)
    out.draw(["one", "x" * 20, "two"])
    out.draw(["three"])
    out.write("above")
    out.draw(["four", "five"])
    out.settle()
    out.draw(["six"])
    screen.write(stream.getvalue().replace("\n", "\r\n"))
    assert screen.text == "above\nfour\nfive\nsix"
    assert rows_of("x" * 41, 20) == 3


def test_the_same_picture_is_not_drawn_again() -> None:
    """K3: a terminal that is not written to does not flicker."""
    stream = Tty()
    out = output(stream)
    out.draw(["one"])
    written = stream.getvalue()
    out.draw(["one"])
    assert stream.getvalue() == written


@pytest.mark.parametrize(("env", "live"), [({}, True), ({"TERM": "dumb"}, False), ({"TERM": ""}, False)])
def test_a_dumb_terminal_gets_lines(env: dict[str, str], live: bool) -> None:
    """K3: it cannot move its cursor."""
    out = output(Tty(), **env)
    assert (out.terminal, out.live, out.color) == (True, live, live)
    assert out.columns == 20


def test_a_terminal_without_unicode_gets_ascii() -> None:
    """K3: and what is not in its encoding is written out, not an error."""
    raw = io.BytesIO()
    stream: Any = io.TextIOWrapper(raw, encoding="ascii")
    out = Output(stream, io.StringIO(), {})
    out.write("日本 \udcff")
    assert raw.getvalue() == b"\\u65e5\\u672c \\udcff\n"
    assert (out.unicode, out.mark) == (False, "...")
