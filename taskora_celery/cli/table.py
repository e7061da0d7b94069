"""Tables that fit a terminal: columns are cut, then left out, until they do. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from taskora_celery.cli.text import fit, pad, width

__all__ = ["Cell", "Column", "fitted", "joined", "table"]

_GAP = 2


class Column(NamedTuple):
    """A column of a table."""

    title: str
    #: It may be cut to so many columns of the terminal; 0: it is not cut.
    least: int = 0
    #: Left out where there is no room, the highest first; 0: never.
    spare: int = 0
    #: What is cut is its beginning.
    keep_end: bool = False


class Cell(NamedTuple):
    """Text without styles, and the names of the styles that it is painted in."""

    text: str
    styles: tuple[str, ...] = ()


def fitted(columns: Sequence[Column], natural: Sequence[int], room: int) -> list[int]:
    """Return each column's width so that all fit into ``room``; 0 for a column that is left out.

    The last columns are cut first. What still does not fit is left to the terminal.
    """
    widths = list(natural)
    while True:
        shown = [at for at, size in enumerate(widths) if size]
        over = sum(widths) + _GAP * (len(shown) - 1) - room
        for at in reversed(shown):
            if over > 0 and columns[at].least:
                cut = min(over, max(widths[at] - columns[at].least, 0))
                widths[at] -= cut
                over -= cut
        spare = max(shown, key=lambda at: columns[at].spare)
        if over <= 0 or not columns[spare].spare:
            return widths
        widths = [0 if at == spare or not widths[at] else size for at, size in enumerate(natural)]


def joined(parts: Sequence[Cell], room: int, paint: Callable[..., str], *, mark: str = "…") -> str:
    """Return texts in a line with two spaces between them, cut where it is wider than ``room``; empty ones are left out."""
    line, used = list[str](), 0
    for part in parts:
        left = room - used - (_GAP if line else 0)
        if part.text and left > 0:
            text = fit(part.text, left, mark=mark)
            line.append(paint(text, *part.styles))
            used = room - left + width(text)
    return (" " * _GAP).join(line)


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], room: int, paint: Callable[..., str], *, mark: str = "…"
) -> list[str]:  # fmt: skip
    """Return a heading and the rows as lines of at most ``room`` columns; ``paint(text, *styles)`` styles a text."""
    natural = [max([width(column.title), *(width(row[at].text) for row in rows)]) for at, column in enumerate(columns)]
    widths = fitted(columns, natural, room)
    heading = [Cell(column.title, ("bold",)) for column in columns]
    return [_line(columns, row, widths, paint, mark) for row in (heading, *rows)]


def _line(
    columns: Sequence[Column], row: Sequence[Cell], widths: Sequence[int], paint: Callable[..., str], mark: str
) -> str:  # fmt: skip
    shown = [at for at, size in enumerate(widths) if size]
    parts = []
    for at in shown:
        text = fit(row[at].text, widths[at], keep_end=columns[at].keep_end, mark=mark)
        space = "" if at == shown[-1] else pad(text, widths[at])[len(text) :]
        parts.append(paint(text, *row[at].styles) + space)
    return (" " * _GAP).join(parts).rstrip()
