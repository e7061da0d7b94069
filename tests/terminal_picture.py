"""A picture of the demo in a terminal, in the middle of its work, for README.md: ``python -m tests.terminal_picture``.

The demo runs in a terminal of its own; what that shows is drawn as text in an SVG (``tox run -e screenshots`` makes it anew).
"""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from html import escape
from itertools import groupby
from pathlib import Path

from tests.support.screen import Screen

_ROOT = Path(__file__).resolve().parents[1]
TARGET = _ROOT / "docs" / "images" / "terminal.svg"
COLUMNS, ROWS = 112, 40
#: So many of the first and of the last lines above the panel are in the picture.
FIRST, LAST = 8, 4
#: What is to be seen: a short job has ended, others wait to be tried again or are at work, the long one is in the middle of it.
_READY = re.compile(r"word_count +ok.*\n.*fetch_page +(ok|attempt).*\n.*fetch_pages +█.*\n.*index_sources +█+\S* +[4-9]\d\.\d %")
#: Pixels of a character, and of a line.
WIDE, HIGH = 8.4, 19
MARGIN = 16
_COLOURS = {"31": "#f47067", "32": "#6bc46d", "33": "#daaa3f", "36": "#39c5cf"}
_FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
_TOLD = "The demo in a terminal: log entries of four jobs, and a panel with their progress"
_GROUND, _INK, _DIM = "#1c2128", "#d1d7e0", "#8b949e"


class ColouredScreen(Screen):
    """A screen that knows in which style each character was written."""

    def __init__(self, columns: int) -> None:
        super().__init__(columns)
        self._style: tuple[str, ...] = ()
        self._styles: dict[tuple[int, int], tuple[str, ...]] = {}

    def _control(self, number: str, letter: str) -> None:
        if letter == "m":
            self._style = tuple(filter(None, number.split(";"))) if number not in {"", "0"} else ()
        else:
            super()._control(number, letter)

    def _put(self, text: str) -> None:
        for char in text:
            super()._put(char)
            self._styles[self._row, self._column - 1] = self._style

    def runs(self, row: int) -> list[tuple[int, str, tuple[str, ...]]]:
        """Return a line in pieces of one style each: where it begins, its text, its style."""
        line = self.lines[row].rstrip()
        pieces = groupby(range(len(line)), key=lambda column: self._styles.get((row, column), ()))
        columns = [(list(group), style) for style, group in pieces]
        return [(group[0], line[group[0] : group[-1] + 1], style) for group, style in columns]


def watch_demo() -> ColouredScreen:
    """Run the demo in a terminal, and return what that shows when there is what the picture should show."""
    screen, decoder = ColouredScreen(COLUMNS), codecs.getincrementaldecoder("utf-8")()
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    root = max(Path("/usr/lib").glob("python3.*"))  # Debian's, whose path says nothing of who made the picture
    command = [sys.executable, "-m", "example_project.demo", f"--root={root}"]
    env = {**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(command, cwd=_ROOT, env=env, stdin=its, stdout=its, stderr=its, start_new_session=True) as demo:
        os.close(its)
        try:
            while not _READY.search(screen.text):
                screen.write(decoder.decode(os.read(ours, 65536)).replace("\r\n", "\n\r"))
        finally:
            demo.send_signal(signal.SIGINT)
            _read_to_the_end(ours)
    return screen


def _read_to_the_end(terminal: int) -> None:
    # Else the demo waits for room to say that it ends.
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:  # Linux's end of a terminal that nobody holds any more
        os.close(terminal)


def rows_of(screen: ColouredScreen) -> list[int | None]:
    """Return the lines that are in the picture: what the demo says first, the log's first and last, the panel; None is a gap."""
    panel = next(row for row, line in enumerate(screen.lines) if line.startswith("  word_count"))
    log = screen.lines.index("") + 1
    return [*range(log + FIRST), None, *range(panel - 1 - LAST, panel + 4)]


def drawn(screen: ColouredScreen) -> str:
    """Return the picture."""
    rows = rows_of(screen)
    width, height = COLUMNS * WIDE + 2 * MARGIN, len(rows) * HIGH + 2 * MARGIN
    size = f'width="{width:g}" height="{height}" viewBox="0 0 {width:g} {height}"'
    text = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{_TOLD}">',
        f'<rect width="100%" height="100%" rx="8" fill="{_GROUND}"/>',
        f'<g font-family="{_FONTS}" font-size="14" fill="{_INK}">',
    ]
    for number, row in enumerate(rows):
        y = MARGIN + (number + 0.75) * HIGH
        pieces = [(0, "…", ("2",))] if row is None else screen.runs(row)
        text += [_piece(column, y, piece, style) for column, piece, style in pieces if piece.strip()]
    return "\n".join([*text, "</g>", "</svg>"]) + "\n"


def _piece(column: int, y: float, text: str, style: tuple[str, ...]) -> str:
    column, text = column + len(text) - len(text.lstrip()), text.strip().replace(" ", "\N{NO-BREAK SPACE}")
    # The length is given, so that the columns stand below one another in each font.
    room = f'textLength="{len(text) * WIDE:.1f}" lengthAdjust="spacingAndGlyphs"'
    colour = next((_COLOURS[name] for name in style if name in _COLOURS), _DIM if "2" in style else None)
    look = (f' fill="{colour}"' if colour else "") + (' font-weight="bold"' if "1" in style else "")
    return f'<text x="{MARGIN + column * WIDE:.1f}" y="{y:g}" {room}{look}>{escape(text)}</text>'


def main() -> None:
    """Write the picture."""
    TARGET.write_text(drawn(watch_demo()), "utf-8")


if __name__ == "__main__":
    main()
