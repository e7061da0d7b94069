"""Reading job records from an event loop: the same script and the same answers as the synchronous store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.exceptions import RedisClusterException, RedisError, ResponseError

from taskora_celery.errors import StoreUnavailableError
from taskora_celery.store.connect import Endpoint, async_client
from taskora_celery.store.keys import JobKeys
from taskora_celery.store.protocol import Snapshot
from taskora_celery.store.redis import READ
from taskora_celery.store.snapshots import read_arguments, read_snapshot

__all__ = ["AsyncRedisReader", "AsyncWatch"]


class AsyncRedisReader:
    """Reads from one event loop; its connections belong to that loop."""

    def __init__(self, endpoint: Endpoint, keys: JobKeys, timeout: float = 5.0) -> None:
        """``timeout`` bounds each wait for Redis, in seconds."""
        self._endpoint = endpoint
        self._keys = keys
        self._timeout = timeout
        self._client = async_client(endpoint, timeout)

    async def read(self, job_id: str, skip: int | None = None, *, attempts: bool = False) -> Snapshot | None:
        """Return what :meth:`taskora_celery.store.protocol.JobStore.read` returns."""
        arguments = read_arguments(self._keys, job_id, skip, attempts)
        try:
            try:
                answer = await self._client.evalsha(READ.digest.decode(), READ.keys, *arguments)
            except ResponseError as exc:
                if type(exc).__name__ != "NoScriptError":
                    raise
                answer = await self._client.eval(READ.source, READ.keys, *arguments)
        except (RedisError, RedisClusterException, OSError) as exc:
            raise StoreUnavailableError(f"{self._endpoint.shown()}: {exc}") from exc
        return read_snapshot(answer)

    @asynccontextmanager
    async def watch(self, job_id: str) -> AsyncIterator[AsyncWatch]:
        """Watch a job for changes, from the moment that the context is entered."""
        try:
            pubsub = self._client.pubsub()
            await pubsub.subscribe(self._keys.channel(job_id))
            await pubsub.get_message(timeout=self._timeout)  # the confirmation: from here on nothing is missed
        except (RedisError, RedisClusterException, OSError) as exc:
            raise StoreUnavailableError(f"{self._endpoint.shown()}: {exc}") from exc
        try:
            yield AsyncWatch(pubsub)
        finally:
            await _close(pubsub)

    async def close(self) -> None:
        """Give up all connections."""
        await _close(self._client)


async def _close(resource: Any) -> None:
    # redis-py 4 has only close(), and redis-py 5 warns of it.
    await (resource.aclose() if hasattr(resource, "aclose") else resource.close())


class AsyncWatch:
    """Messages of one job's channel."""

    def __init__(self, pubsub: Any) -> None:
        self._pubsub = pubsub

    async def wait(self, timeout: float) -> bool:
        """Wait until the job changed, or for ``timeout`` seconds; say which."""
        try:
            message = await self._pubsub.get_message(timeout=timeout)
            changed = message is not None
            while message is not None:
                message = await self._pubsub.get_message(timeout=0)
        except (RedisError, RedisClusterException, OSError) as exc:
            raise StoreUnavailableError(str(exc)) from exc
        return changed
