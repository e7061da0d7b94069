"""What docs/reliability.md and SECURITY.md promise names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"docs/reliability.md": ROOT / "docs", "SECURITY.md": ROOT}
_LINK = re.compile(r"\[(test_\w+)\]\(([^)]+)\)")
_ROW = re.compile(r"^\| (\d+) \|(.*)\|$", re.MULTILINE)
FAULTS = range(1, 24)


@pytest.mark.parametrize("page", PAGES)
def test_each_test_that_is_named_exists(page: str) -> None:
    """Docs are code: who renames a test renames it there."""
    links = _LINK.findall((ROOT / page).read_text("utf-8"))
    assert links
    for name, target in links:
        path = (PAGES[page] / target).resolve()
        assert path.is_relative_to(ROOT / "tests"), target
        assert re.search(rf"^def {name}\(", path.read_text("utf-8"), re.MULTILINE), f"{page} names {name} in {target}"


def test_each_fault_has_its_row_and_its_test() -> None:
    """All faults, in their order, each with a test that speaks of it."""
    rows = _ROW.findall((ROOT / "docs/reliability.md").read_text("utf-8"))
    assert [int(number) for number, _ in rows] == list(FAULTS)
    for number, row in rows:
        links = _LINK.findall(row)
        assert links, number
        for name, target in links:
            source = (ROOT / "docs" / target).resolve().read_text("utf-8")
            docstring = source[source.index(f"def {name}(") :].partition('"""')[2].partition('"""')[0]
            assert re.search(rf"[Ff]aults? (\d+(, | and ))*{number}\b", docstring), f"{name} does not speak of fault {number}"


@pytest.mark.parametrize("page", PAGES)
def test_links_to_pages_lead_somewhere(page: str) -> None:
    """No link of these pages is dead."""
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text("utf-8")):
        assert target.startswith("https://") or (PAGES[page] / target).exists(), target
