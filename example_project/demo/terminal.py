"""A terminal with a panel that is drawn anew at the bottom, and lines that pass above it. Plain ANSI."""

from __future__ import annotations

import os
import shutil
import time
import unicodedata
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["OutputGoneError", "Screen", "clean", "fit", "pad", "width"]

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
#: Seconds between two lines about the panel where it cannot be drawn in place.
BRIEF_EVERY = 1.0


class OutputGoneError(Exception):
    """Whoever read the output has gone: a pipe's reader, or the terminal."""


class Screen:
    """Writes to ``stream``; one thread only. Every method that writes may raise :class:`OutputGoneError`.

    On a terminal the panel stays below the lines. Elsewhere (a pipe, a file) the panel is left out, and at most once a
    second a line says how things are.
    """

    def __init__(self, stream: TextIO) -> None:
        dumb = os.environ.get("TERM", "dumb") == "dumb"
        self.live = stream.isatty() and not dumb
        self.unicode = (stream.encoding or "").lower().replace("-", "").startswith("utf")
        self._color = self.live and not os.environ.get("NO_COLOR")
        self._stream = stream
        self._drawn: list[str] = []
        self._brief = ""
        self._brief_at = 0.0

    @property
    def columns(self) -> int:
        """The terminal's width, as it is now."""
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            columns = 0
        return columns or shutil.get_terminal_size().columns

    def style(self, text: str, *names: str) -> str:
        """Return ``text`` in a style: ``bold``, ``dim``, ``red``, ``green``, ``yellow``, ``cyan``."""
        if not self._color or not names:
            return text
        return f"\x1b[{';'.join(_STYLES[name] for name in names)}m{text}\x1b[0m"

    def print(self, *lines: str) -> None:
        """Write lines above the panel."""
        self._write(lines, self._drawn)

    def update(self, lines: Sequence[str], panel: Sequence[str], brief: str) -> None:
        """Write lines, and show a panel of lines that fit the width; ``brief`` is what a pipe gets in its place."""
        if self.live:
            if lines or list(panel) != self._drawn:
                self._write(lines, panel)
            return
        now = time.monotonic()
        if brief != self._brief and now - self._brief_at >= BRIEF_EVERY:
            self._brief, self._brief_at = brief, now
            lines = [*lines, brief]
        self._write(lines, ())

    def close(self) -> None:
        """Leave the panel as it stands, and go on below it."""
        if self._drawn:
            self._drawn = []
            self._send(_SHOW_CURSOR)

    def _write(self, lines: Sequence[str], panel: Sequence[str]) -> None:
        if not lines and not panel and not self._drawn:
            return
        up = f"\x1b[{len(self._drawn)}A\r" if self._drawn else ""
        clear = "\x1b[J" if self._drawn else ""
        hide = _HIDE_CURSOR if panel and not self._drawn else ""
        # In one write: a terminal that draws between two of them flickers.
        self._send(hide + up + clear + "".join(f"{line}\n" for line in (*lines, *panel)))
        self._drawn = list(panel)

    def _send(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError as exc:
            raise OutputGoneError(str(exc)) from exc


def clean(text: object) -> str:
    """Return text in one line and without control characters: what a file's name holds must not steer the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(text))


def width(text: str) -> int:
    """Return the columns that unstyled text takes."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(bool(unicodedata.combining(char)) for char in text)


def fit(text: str, columns: int, *, keep_end: bool = False) -> str:
    """Return unstyled text, cut where it is wider; ``keep_end`` is for paths, whose end says more."""
    if width(text) <= columns:
        return text
    while text and width(text) > columns - 3:
        text = text[1:] if keep_end else text[:-1]
    return ("..." + text if keep_end else text + "...")[: max(columns, 0)]


def pad(text: str, columns: int) -> str:
    """Return unstyled text, filled with spaces."""
    return text + " " * (columns - width(text))
