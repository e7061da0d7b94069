"""Single values of a Redis, for who reads no record of this library: results are Celery's."""

from __future__ import annotations

import threading
from typing import Any

from redis.exceptions import RedisClusterException, RedisError

from taskora_celery.errors import StoreUnavailableError
from taskora_celery.store.connect import Endpoint, client

__all__ = ["RedisValues"]


class RedisValues:
    """Reads values. Safe to use from several threads of one process, which borrow from one pool; not over a fork."""

    def __init__(self, endpoint: Endpoint, timeout: float = 1.0) -> None:
        """``timeout`` bounds each wait for Redis, in seconds. Nothing is connected yet."""
        self.endpoint = endpoint
        self._timeout = timeout
        self._lock = threading.Lock()
        self._client: Any = None

    def get(self, key: str | bytes) -> bytes | None:
        """Return a key's value, None where there is none.

        :raises StoreUnavailableError: Redis does not answer, or refuses, or cannot be reached with such a URL.
        """
        try:
            value: bytes | None = self._made().get(key)
        except (RedisError, RedisClusterException, OSError, ValueError, TypeError) as exc:
            raise StoreUnavailableError(f"{self.endpoint.shown()}: {exc}") from exc
        return value

    def close(self) -> None:
        """Give up all connections; the next use makes new ones."""
        with self._lock:
            made, self._client = self._client, None
        if made is not None:
            made.close()

    def _made(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = client(self.endpoint, self._timeout)
            return self._client
