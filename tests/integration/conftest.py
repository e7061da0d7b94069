"""Fixtures for the tests that need a Redis and no worker."""

from __future__ import annotations

import pytest
from kombu.transport.memory import Channel


@pytest.fixture(autouse=True)
def _keys_expire(keys_expire: None) -> None:
    """L3: no test of this tier may leave a key without a TTL."""


@pytest.fixture
def no_memory_queues() -> None:
    """Kombu's transport in memory has one set of queues for the whole process; what other tests left in them is gone."""
    Channel.queues.clear()
