"""Job records as an event loop reads them: the same scripts and the same answers as the synchronous store."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, suppress

from taskora_celery.errors import StoreUnavailableError
from taskora_celery.store.asyncredis import AsyncRedis
from taskora_celery.store.channels import AsyncWatch
from taskora_celery.store.protocol import CancelOutcome, CancelRequest, Snapshot
from taskora_celery.store.redis import READ, RedisStore
from taskora_celery.store.snapshots import read_arguments, read_snapshot

__all__ = ["AsyncRedisReader"]


class AsyncRedisReader:
    """Reads the records of a store from one event loop, and cancels jobs. Nothing here blocks the loop, or starts a thread."""

    def __init__(self, redis: AsyncRedis, store: RedisStore) -> None:
        """``redis`` is the store's, and belongs to the loop."""
        self._redis = redis
        self._store = store

    async def read(self, job_id: str, skip: int | None = None, *, attempts: bool = False) -> Snapshot | None:
        """Return what :meth:`taskora_celery.store.protocol.JobStore.read` returns."""
        return read_snapshot(await self._redis.run(READ, read_arguments(self._store.keys, job_id, skip, attempts)))

    def watch(self, job_id: str) -> AbstractAsyncContextManager[AsyncWatch]:
        """Watch a job for changes, from the moment that the context is entered."""
        return self._redis.watch(self._store.keys.channel(job_id))

    async def cancel(self, request: CancelRequest, *, queued: bool = False) -> CancelOutcome:
        """Decide what a request to cancel comes to, as :meth:`taskora_celery.store.protocol.JobStore.cancel` does.

        One round trip. Where the caller is cancelled meanwhile, the request may or may not have been stored.
        """
        decided, _ = await self._redis.run(*self._store.cancel_call(request, queued=queued))
        outcome = CancelOutcome(int(decided))
        if outcome is CancelOutcome.CANCELLED:
            with suppress(StoreUnavailableError):  # it is decided; that a list does not show it yet is no failure
                for call in self._store.index.note([], [request.id], request.now_ms):
                    await self._redis.run(*call)
        return outcome
