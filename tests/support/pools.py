"""Which pools a test runs in."""

from __future__ import annotations

import pytest

from tests.support.worker import ALL_POOLS


def pools(*default: str) -> pytest.MarkDecorator:
    """Run a test that takes ``pool`` in these pools by default, and in the others where ``repeated_pool`` is wanted."""
    return pytest.mark.parametrize(
        "pool", [pytest.param(pool, marks=() if pool in default else pytest.mark.repeated_pool) for pool in ALL_POOLS]
    )
