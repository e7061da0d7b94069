"""docs/command-line.md: every command on the page, with the output that it makes."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from tests.support.pages import DOCS

if TYPE_CHECKING:
    from tests.support.scripted_jobs import Shell

PAGE = DOCS / "command-line.md"
_BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
WRITE = "TASKORA_TEST_WRITE_PAGES"


def _ran(shell: Shell, block: str) -> str:
    """A block as it should be: each command, and what it prints."""
    made, code = "", 0
    for line in block.splitlines():
        if line == "$ echo $?":
            made += f"{line}\n{code}\n"
        elif line.startswith("$ "):
            # Nothing happens to the scripted job: whoever watches it stops some time.
            endless = " watch 7ee1047d" in line
            data, notes, code = shell.line(line[2:] + (" --timeout 0.1s" if endless else ""))
            made += f"{line}\n{data}" + ("" if endless else notes)
    return made


def test_the_page_shows_what_the_commands_print(shop: Shell) -> None:
    """K3: run with ``TASKORA_TEST_WRITE_PAGES=1`` to write it anew."""
    text = PAGE.read_text("utf-8")
    made = _BLOCK.sub(lambda block: f"```console\n{_ran(shop, block[1])}```", text)
    if os.environ.get(WRITE):
        PAGE.write_text(made, "utf-8")
    assert made == text
