"""Fixtures for the tests that need a Redis and no worker."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _keys_expire(keys_expire: None) -> None:
    """L3: no test of this tier may leave a key without a TTL."""
