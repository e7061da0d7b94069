"""docs/tutorial.md, as somebody reads it who types all of it: a real worker, real terminals, Python's prompt."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from tests.support.page_session import PageSession

if TYPE_CHECKING:
    from pathlib import Path


def test_each_step_of_the_tutorial_shows_what_the_page_says(redis_url: str, tmp_path: Path) -> None:
    """A1, E1, F1, I1, I3, G1, K3: progress, logs, a retry, a restart of the worker in the middle, a cancel, and the commands."""
    session = PageSession("tutorial.md", redis_url, tmp_path)
    session.play()


def test_the_test_of_the_tutorial_passes(tmp_path: Path) -> None:
    """O1: it needs no worker."""
    session = PageSession("tutorial.md", "redis://127.0.0.1:1/0", tmp_path)
    with session.files():
        spec = importlib.util.spec_from_file_location("test_shop", tmp_path / "test_shop.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.test_a_shutdown_costs_no_document()
