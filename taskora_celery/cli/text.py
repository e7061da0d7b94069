"""Text in columns: how wide it is, how it is cut, and what of it must not reach a terminal as it is."""

from __future__ import annotations

import re
import unicodedata

from taskora_celery.texts import one_line, visible

__all__ = ["fit", "one_line", "pad", "rows_of", "visible", "width"]

_STYLES = re.compile("\x1b\\[[0-9;]*m")
_CUT = "…"
#: Vowels and finals of Hangul, which are drawn into the syllable before them.
_JAMO = range(0x1160, 0x1200)


def width(text: str) -> int:
    """Return the columns that text takes on a terminal; styles take none."""
    text = _STYLES.sub("", text)
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(char: str) -> int:
    if ord(char) in _JAMO or unicodedata.category(char) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def fit(text: str, columns: int, *, keep_end: bool = False, mark: str = _CUT) -> str:
    """Return text without styles, cut with a mark where it is wider; ``keep_end`` cuts its beginning."""
    if width(text) <= columns:
        return text
    room = columns - width(mark)
    if room < 0:
        return mark[: max(columns, 0)]
    kept, used = list[str](), 0
    for char in reversed(text) if keep_end else text:
        used += _columns(char)
        if used > room:
            break
        kept.append(char)
    return mark + "".join(reversed(kept)) if keep_end else "".join(kept) + mark


def pad(text: str, columns: int) -> str:
    """Return text filled with spaces to so many columns."""
    return text + " " * (columns - width(text))


def rows_of(line: str, columns: int) -> int:
    """Return how many rows of a terminal a line takes."""
    return max(-(-width(line) // max(columns, 1)), 1)
