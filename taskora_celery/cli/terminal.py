"""What a command writes to: data, notes, and a picture that is redrawn in place where that can be done."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TextIO

from taskora_celery.cli.text import rows_of

__all__ = ["Output", "wants_color"]

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "magenta": "35", "cyan": "36"}
_LINES_AT_ONCE = 200


def wants_color(*, terminal: bool, refused: bool, env: Mapping[str, str]) -> bool:
    """Say whether to use colours: ``NO_COLOR`` and ``--no-color`` forbid them, ``CLICOLOR_FORCE`` wants them in pipes, too."""
    if refused or env.get("NO_COLOR"):
        return False
    if env.get("CLICOLOR_FORCE", "0") not in {"", "0"}:
        return True
    return terminal and env.get("CLICOLOR", "1") != "0"


class Output:
    """Writes data to one stream, each line flushed, and everything else to another. Used by one thread.

    ``terminal`` says that the data goes to one, and is to be written for eyes; elsewhere it is written for programs. ``live``
    says that the terminal can move its cursor.
    """

    def __init__(self, data: TextIO, notes: TextIO, env: Mapping[str, str], *, no_color: bool = False) -> None:
        self._data = data
        self._notes = notes
        self._env = env
        self.terminal = data.isatty()
        self.live = self.terminal and env.get("TERM") not in {None, "", "dumb"}
        self.color = wants_color(terminal=self.live, refused=no_color, env=env)
        self.unicode = (data.encoding or "").lower().replace("-", "").startswith("utf")
        #: Ends what was cut.
        self.mark = "…" if self.unicode else "..."
        self._drawn: Sequence[str] = ()
        for stream in (data, notes):
            if hasattr(stream, "reconfigure"):  # what the terminal's encoding lacks is no reason to fail
                stream.reconfigure(errors="backslashreplace")

    @property
    def columns(self) -> int:
        """The terminal's width, as it is now; ``COLUMNS`` goes before it."""
        return self._size()[0]

    @property
    def rows(self) -> int:
        """The terminal's height, as it is now; ``LINES`` goes before it."""
        return self._size()[1]

    def _size(self) -> tuple[int, int]:
        try:
            own = os.get_terminal_size(self._data.fileno())
        except (OSError, ValueError):  # no terminal
            own = os.terminal_size((0, 0))
        columns, lines = (
            int(said) if said.isdigit() else 0 for said in (self._env.get("COLUMNS", ""), self._env.get("LINES", ""))
        )
        return columns or own.columns or 80, lines or own.lines or 24

    def paint(self, text: str, *names: str) -> str:
        """Return text in a style: ``bold``, ``dim``, ``red``, ``green``, ``yellow``, ``magenta``, ``cyan``."""
        if not self.color or not names or not text:
            return text
        return f"\x1b[{';'.join(_STYLES[name] for name in names)}m{text}\x1b[0m"

    def write(self, *lines: str) -> None:
        """Write lines of data, and flush them; above the picture where there is one."""
        if self._drawn:
            drawn, self._drawn = self._drawn, ()
            self._send(self._erasing(drawn) + _text((*lines, *drawn)))
            self._drawn = drawn
            return
        # In pieces: of one long write that its reader leaves in the middle, an unbuffered stream (`python -u`) says nothing.
        for at in range(0, len(lines), _LINES_AT_ONCE):
            self._send(_text(lines[at : at + _LINES_AT_ONCE]))

    def note(self, text: str) -> None:
        """Write a line that is no data, on a line of its own below the picture."""
        self.settle()
        self._notes.write(f"{text}\n")
        self._notes.flush()

    def draw(self, lines: Sequence[str]) -> None:
        """Show lines in place of those that were drawn last."""
        if list(lines) != list(self._drawn):
            # In one write: a terminal that draws between two of them flickers.
            self._send(self._erasing(self._drawn) + _text(lines))
            self._drawn = list(lines)

    def settle(self) -> None:
        """Leave the picture as it stands, and go on below it."""
        self._drawn = ()

    def _erasing(self, lines: Sequence[str]) -> str:
        if not lines:
            return ""
        # A terminal that became narrower has wrapped them.
        up = f"\x1b[{sum(rows_of(line, self.columns) for line in lines)}A\r"
        # The first line by itself: tmux takes an erasure from its very corner for `clear`, and keeps in its history what was
        # there, one picture after the other.
        return f"{up}\x1b[K\n\x1b[J\x1b[A"

    def _send(self, text: str) -> None:
        self._data.write(text)
        self._data.flush()


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
