"""Text in columns: how wide it is, how it is cut, and what of it must not reach a terminal as it is."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["fit", "one_line", "pad", "rows_of", "visible", "width"]

#: What steers a terminal or changes the order of what is read: C0, DEL, C1, marks and overrides of direction, other separators of
#: lines, annotations, tags that nobody sees, and halves of surrogate pairs.
_STEERING = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_SPACES = re.compile(r"[ \t\r\n\f\v]+")
_STYLES = re.compile("\x1b\\[[0-9;]*m")
_CUT = "…"
#: Vowels and finals of Hangul, which are drawn into the syllable before them.
_JAMO = range(0x1160, 0x1200)


def visible(text: str) -> str:
    r"""Return text whose control characters are written out (``\x1b``, ``\u202e``): shown, not obeyed."""
    return _STEERING.sub(lambda found: _escaped(found[0]), text)


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"  # noqa: PLR2004


def one_line(text: object) -> str:
    """Return text in one line, with its control characters written out."""
    return visible(_SPACES.sub(" ", str(text)).strip())


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
