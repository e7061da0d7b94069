"""Rule L3: every key that the package writes has a TTL."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import redis

MARKER = "taskora:"  # every configured prefix ends in it or goes before it
GRACE = 1.0  # seconds: another process may just be between a write and its EXPIRE
_IMMORTAL = -1  # PTTL's answer for a key without one; -2 is a key that is gone


def keys_without_ttl(client: redis.Redis, marker: str = MARKER) -> list[str]:
    """The keys that hold the marker and would stay for ever. It SCANs the whole database: this is a test."""
    keys = list(client.scan_iter(match=f"*{marker}*", count=1000))
    with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.pttl(key)
        ttls = pipeline.execute()
    return sorted(_text(key) for key, ttl in zip(keys, ttls, strict=True) if ttl == _IMMORTAL)


def assert_keys_expire(client: redis.Redis, marker: str = MARKER, grace: float = GRACE) -> None:
    """Fail with the list of keys that have no TTL, `grace` seconds after they were first seen."""
    deadline = time.monotonic() + grace
    while leaked := keys_without_ttl(client, marker):
        if time.monotonic() >= deadline:
            raise AssertionError("keys without a TTL: " + ", ".join(leaked))
        time.sleep(0.02)


def _text(key: bytes | str) -> str:
    return key.decode(errors="backslashreplace") if isinstance(key, bytes) else key
