"""What a terminal shows of what was written to it: the little of ECMA-48 that the commands use, and an error for the rest."""

from __future__ import annotations

import re

from taskora_celery.cli.text import width

_PIECES = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)|(.)", re.DOTALL)
#: The cursor is hidden, and shown again.
_CURSOR = {("?25", "l"), ("?25", "h")}


class Screen:
    """Lines of text, and a cursor that moves among them. Styles are dropped, long lines wrap, nothing scrolls away."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.lines = [""]
        self._row = 0
        self._column = 0

    def write(self, text: str) -> None:
        """Take in what is written."""
        for number, letter, newline, plain, other in _PIECES.findall(text):
            if letter:
                self._control(number, letter)
            elif newline:
                self._newline(newline)
            elif plain:
                self._put(plain)
            else:
                raise AssertionError(f"the terminal was sent {other!r}")

    def _control(self, number: str, letter: str) -> None:
        if letter == "A":
            self._row = max(self._row - int(number or 1), 0)
        elif letter in "JK" and number in {"", "0"}:
            if letter == "J":
                assert (self._row, self._column) != (0, 0), "tmux keeps what is erased from its corner on in its history"
                self.lines = self.lines[: self._row + 1]
            self.lines[self._row] = self.lines[self._row][: self._column]
        elif letter != "m" and (number, letter) not in _CURSOR:
            raise AssertionError(f"the terminal was sent the sequence CSI {number}{letter}")

    def _newline(self, char: str) -> None:
        if char == "\r":
            self._column = 0
        else:
            self._row += 1
            while len(self.lines) <= self._row:
                self.lines.append("")

    def _put(self, text: str) -> None:
        for char in text:
            if width(self.lines[self._row][: self._column] + char) > self.columns:
                self._newline("\n")
                self._column = 0
            line = self.lines[self._row].ljust(self._column)
            self.lines[self._row] = line[: self._column] + char + line[self._column + 1 :]
            self._column += 1

    @property
    def text(self) -> str:
        """What is to be seen, without spaces at the ends of lines."""
        return "\n".join(line.rstrip() for line in self.lines).rstrip("\n")
