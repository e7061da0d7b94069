"""One app's connections from event loops: each loop has its own, and they end with it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator

from taskora_celery.store.asyncredis import AsyncRedis
from taskora_celery.store.connect import Endpoint

__all__ = ["LoopConnections"]


class LoopConnections:
    """The :class:`AsyncRedis` of each running event loop and endpoint. May be asked from several threads, each with its loop.

    Connections are closed when their loop shuts down its asynchronous generators, which ``asyncio.run`` does, and whatever else
    ends a loop in good order (servers, pytest plugins). What is left of a loop that was closed without is forgotten at the next
    call: a closed loop can close nothing.
    """

    def __init__(self) -> None:
        self._by_loop: dict[asyncio.AbstractEventLoop, list[AsyncRedis]] = {}
        self._keepers: dict[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of loops that have connections."""
        return len(self._by_loop)

    def redis(self, endpoint: Endpoint) -> AsyncRedis:
        """Return the running loop's connections to a Redis; nothing is connected yet.

        :raises RuntimeError: no event loop runs in this thread.
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            for gone in [known for known in self._by_loop if known.is_closed()]:
                self._forget(gone)
            known = self._by_loop.setdefault(loop, [])
            found = next((redis for redis in known if redis.endpoint == endpoint), None)
            if found is None:
                found = AsyncRedis(endpoint)
                known.append(found)
            if loop not in self._keepers:
                self._keepers[loop] = self._started(self._keep(loop))
        return found

    @staticmethod
    def _started(keeper: AsyncGenerator[None, None]) -> AsyncGenerator[None, None]:
        # The loop gets to know a generator when it runs for the first time. Up to its yield this one waits for nothing.
        with contextlib.suppress(StopIteration):
            keeper.__anext__().__await__().__next__()
        return keeper

    async def _keep(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[None, None]:
        """Close the loop's connections when the loop closes this generator."""
        try:
            yield
        finally:
            with self._lock:
                connections = self._forget(loop)
            for redis in connections:
                await redis.close()

    def _forget(self, loop: asyncio.AbstractEventLoop) -> list[AsyncRedis]:
        self._keepers.pop(loop, None)
        return self._by_loop.pop(loop, [])
