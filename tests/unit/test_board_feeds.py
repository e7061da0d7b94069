"""How often feeds look: a decision about two numbers."""

from __future__ import annotations

import pytest

from taskora_celery.board.feeds import _pause


@pytest.mark.parametrize(("took", "pause"), [(0.0, 1.0), (0.1, 0.9), (0.25, 0.75), (0.5, 1.5), (4.0, 12.0)])
def test_a_look_that_takes_long_is_not_taken_often(took: float, pause: float) -> None:
    """K4: a search that reads all records takes a quarter of one processor at most."""
    assert _pause(took, 1.0) == pytest.approx(pause)
