"""The code on the pages of the documentation, as the tests run it."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks_of(page: str) -> list[str]:
    """The Python blocks of a page, each by itself."""
    return [block[1] for block in _BLOCK.finditer((DOCS / page).read_text("utf-8"))]


def code_of(page: str) -> str:
    """The Python blocks of a page one after the other, each at its line: a traceback points at the page."""
    text, lines = (DOCS / page).read_text("utf-8"), list[str]()
    for block in _BLOCK.finditer(text):
        before = text.count("\n", 0, block.start(1))
        lines += [""] * (before - len(lines))
        lines += block[1].splitlines()
    return "\n".join(lines) + "\n"
