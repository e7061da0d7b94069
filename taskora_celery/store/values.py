"""Single values of a Redis, for who reads no record of this library: results are Celery's."""

from __future__ import annotations

import threading
from typing import Any

from redis.exceptions import RedisClusterException, RedisError

from taskora_celery.errors import StoreUnavailableError
from taskora_celery.store.connect import Endpoint, client

__all__ = ["RedisValues"]


class RedisValues:
    """Reads values, through one connection, which several threads of one process use in turn; not over a fork."""

    def __init__(self, endpoint: Endpoint, timeout: float = 1.0) -> None:
        """``timeout`` bounds each wait for Redis, and the wait for other threads, in seconds. Nothing is connected yet."""
        self.endpoint = endpoint
        self._timeout = timeout
        self._lock = threading.Lock()
        self._client: Any = None

    def get(self, key: str | bytes) -> bytes | None:
        """Return a key's value, None where there is none.

        :raises StoreUnavailableError: Redis does not answer, or not soon enough for all who ask, or refuses.
        """
        if not self._lock.acquire(timeout=self._timeout):
            raise StoreUnavailableError(f"{self.endpoint.shown()}: other threads wait for it")
        try:
            if self._client is None:
                self._client = client(self.endpoint, self._timeout)
            value: bytes | None = self._client.get(key)
        except (RedisError, RedisClusterException, OSError, ValueError, TypeError) as exc:
            raise StoreUnavailableError(f"{self.endpoint.shown()}: {exc}") from exc
        finally:
            self._lock.release()
        return value

    def close(self) -> None:
        """Give up the connection; the next use makes a new one."""
        made, self._client = self._client, None
        if made is not None:
            made.close()
