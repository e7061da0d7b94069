"""Text that others will read: on one line, of bounded length, without characters that a terminal or a page would obey."""

from __future__ import annotations

import re

__all__ = ["cut_line", "duration_text", "missing_extra", "one_line", "visible"]

#: What steers a terminal or changes the order of what is read: C0, DEL, C1, marks and overrides of direction, other separators of
#: lines, annotations, tags that nobody sees, and halves of surrogate pairs.
_STEERING = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_SPACES = re.compile(r"[ \t\r\n\f\v]+")
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


def visible(text: str) -> str:
    r"""Return text whose control characters are written out (``\x1b``, ``\u202e``): shown, not obeyed."""
    return _STEERING.sub(lambda found: _escaped(found[0]), text)


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"  # noqa: PLR2004


def one_line(text: object) -> str:
    """Return text in one line, with its control characters written out."""
    return visible(_SPACES.sub(" ", str(text)).strip())


def cut_line(text: str, limit: int) -> str:
    """Return text in one line of at most ``limit`` characters; a cut shows as ``…``."""
    # Cut first: a text may be a megabyte, and most of it will not be seen.
    line = one_line(text[: 4 * limit])
    return line if len(line) <= limit else line[: limit - 1] + "…"


def missing_extra(what: str, extra: str, missing: str) -> str:
    """Return what to say where a package of an extra is not installed; ``what`` needs it, ``missing`` is its name."""
    return f'{what} needs packages of its own: pip install "taskora-celery[{extra}]" ({missing} is not installed)'


def duration_text(seconds: float) -> str:
    """Return a duration as people say it, in one unit or two: ``0.3 s``, ``12 s``, ``3 min``, ``2 h 5 min``, ``4 d 2 h``."""
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
