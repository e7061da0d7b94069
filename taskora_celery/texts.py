"""Text that others will read: on one line, of bounded length, without characters that a terminal or a page would obey."""

from __future__ import annotations

__all__ = ["CONTROLS", "duration_text", "one_line"]

#: Control characters would move a cursor or forge lines, those of direction would turn text around; tabs and printable text stay.
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) != "\t"}
CONTROLS |= {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


def one_line(text: str, limit: int) -> str:
    """Return a text on one line of at most ``limit`` characters; blanks are one blank each, and a cut shows as ``…``."""
    # Cut first: a text may be a megabyte, and most of it will not be seen.
    text = " ".join(text[: 4 * limit].split()).translate(CONTROLS)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def duration_text(seconds: float) -> str:
    """Return a duration as people say it, in one unit or two: ``12 s``, ``3 min``, ``2 h 5 min``, ``4 d 2 h``."""
    if 0 < seconds < 1:
        return f"{seconds:.1g} s"
    whole = max(round(seconds), 0)
    if whole < 100:  # noqa: PLR2004 - below that, seconds say more than minutes
        return f"{whole} s"
    if whole < _HOUR:
        return f"{round(whole / _MINUTE)} min"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"
