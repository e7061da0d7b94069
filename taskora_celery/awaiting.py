"""Waiting for results from an event loop: what ``AsyncResult.get`` does, without a thread per wait.

Celery's backend on Redis announces each result on a channel that is called like its key. An event loop hears it on the one
connection that all its waits share, reads the key, and lets the backend decode it. The handle's own cache is Celery's: once it
holds the result, the rest of ``get`` needs no I/O.
"""
# ruff: noqa: SLF001 - `_cache` and its two methods are Celery's way into a result, and have no public names

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from datetime import timedelta
from typing import Any, Protocol

from celery import states
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import AsyncResult, assert_will_not_block

from taskora_celery.aio import AsyncJobReader
from taskora_celery.backoff import outage_pause
from taskora_celery.clock import in_seconds
from taskora_celery.errors import StoreNotConfiguredError, StoreUnavailableError
from taskora_celery.reading import LOOK_EVERY, checked_timeout
from taskora_celery.runtime import Runtime, result_endpoint
from taskora_celery.store.asyncredis import AsyncRedis
from taskora_celery.waiting import OnMessage

__all__ = ["has_ended", "is_over", "result_of", "state_of"]

#: So many seconds are always taken to find a result that is there.
SHORTEST = 0.05
#: About a millisecond's work; more bytes are not decoded on the loop.
DECODED_ON_LOOP = 200_000


async def result_of(
    handle: AsyncResult,
    timeout: float | timedelta | None,
    *,
    propagate: bool = True,
    interval: float = 0.5,
    no_ack: bool = True,  # noqa: ARG001 - get() takes it, for backends that are message queues
    follow_parents: bool = True,
    callback: Callable[[str, Any], Any] | None = None,
    on_message: OnMessage = None,
    on_interval: Callable[[], Any] | None = None,
    disable_sync_subtasks: bool = True,
) -> Any:
    """Return a job's result, or raise; see :meth:`taskora_celery.JobHandle.aget`."""
    if handle.ignored:
        return None
    if disable_sync_subtasks:
        assert_will_not_block()
    limit = _limit(timeout)
    parents = list(_above(handle)) if follow_parents and propagate else []
    if handle._cache is None:
        waiting = _until_known(handle, parents, interval, on_message, on_interval)
        try:
            await asyncio.wait_for(waiting, limit)
        except asyncio.TimeoutError:  # before Python 3.11 it is not the built-in one
            raise CeleryTimeoutError("The operation timed out.") from None
    for node in parents:
        if node._cache is not None:
            node.maybe_throw()
    return handle.maybe_throw(callback=callback, propagate=propagate)


def _limit(timeout: float | timedelta | None) -> float | None:
    """Return the seconds to wait, None for ever; a time that is over already is the shortest, and no error."""
    limit = None if timeout is None else in_seconds(timeout)
    return SHORTEST if isinstance(limit, float | int) and limit < SHORTEST else checked_timeout(limit)


async def state_of(handle: AsyncResult) -> str:
    """Return a job's state as the result backend has it; ``"PENDING"`` where it cannot be asked. Never raises."""
    try:
        return await _results_of(handle).state(handle)
    except Exception:  # noqa: BLE001 - no backend, one that cannot be asked (rpc), or one that is away: the record decides
        return str(states.PENDING)


async def is_over(handle: AsyncResult) -> bool:
    """Ask the result backend whether a job has ended: some ends (a killed process) are known only there. Never raises."""
    return await state_of(handle) in states.READY_STATES


def has_ended(owner: Any, job_id: str, *, unknown: bool = False) -> bool:
    """Ask the result backend of an app or a handle as :func:`is_over` does, blocking; ``unknown`` where it cannot be asked."""
    try:
        return bool(owner.backend.get_state(job_id) in states.READY_STATES)
    except Exception:  # noqa: BLE001 - as above
        return unknown


async def _until_known(
    handle: AsyncResult,
    parents: list[AsyncResult],
    interval: float,
    on_message: OnMessage,
    on_interval: Callable[[], Any] | None,
) -> None:
    """Return when the handle holds its result, or a parent an error."""
    results, failures = _results_of(handle), 0
    every = interval if parents or on_interval is not None else LOOK_EVERY
    while True:
        try:
            async with aclosing(results.looks(handle, every)) as looks:
                async for _ in looks:
                    await asyncio.gather(*(_results_of(node).load(node) for node in parents if node._cache is None))
                    if any(_has_failed(node) for node in parents) or await results.load(handle, on_message):
                        return
                    failures = 0
                    if on_interval is not None:
                        on_interval()
        except StoreUnavailableError:
            failures += 1
            await asyncio.sleep(outage_pause(failures))


def _above(result: Any) -> Iterator[AsyncResult]:
    """Yield the results that come before in a chain, the first one first; the members of a group for the group."""
    if result.parent is not None:
        yield from _above(result.parent)
        yield from _members(result.parent)


def _members(result: Any) -> Iterator[AsyncResult]:
    if not hasattr(result, "results"):
        yield result
        return
    for member in result.results:
        yield from _members(member)


def _has_failed(node: AsyncResult) -> bool:
    return node._cache is not None and node._cache["status"] in states.PROPAGATE_STATES


def _results_of(handle: AsyncResult) -> _Results:
    endpoint = result_endpoint(handle.app, handle.backend)
    return _OtherResults() if endpoint is None else _RedisResults(Runtime.of(handle.app).loops.redis(endpoint))


class _Results(Protocol):
    """A result backend, as an event loop sees it."""

    def looks(self, handle: AsyncResult, every: float) -> AsyncGenerator[None, None]:
        """Yield whenever it is time to look, at the latest after ``every`` seconds."""

    async def load(self, handle: AsyncResult, on_message: OnMessage = None) -> bool:
        """Put a result that is there into the handle's cache; say whether it is."""

    async def state(self, handle: AsyncResult) -> str:
        """Return the job's state."""


class _RedisResults:
    """Celery's backend on Redis: no thread."""

    def __init__(self, redis: AsyncRedis) -> None:
        self._redis = redis

    async def looks(self, handle: AsyncResult, every: float) -> AsyncGenerator[None, None]:
        yield
        async with self._redis.watch(handle.backend.get_key_for_task(str(handle.id))) as watch:
            while True:
                yield
                await watch.wait(every)

    async def load(self, handle: AsyncResult, on_message: OnMessage = None) -> bool:
        meta = await self._meta(handle)
        if meta is not None:
            if on_message is not None:
                on_message(meta)
            handle._maybe_set_cache(meta)
        return handle._cache is not None

    async def state(self, handle: AsyncResult) -> str:
        meta = await self._meta(handle)
        return states.PENDING if meta is None else str(meta["status"])

    async def _meta(self, handle: AsyncResult) -> dict[str, Any] | None:
        data = await self._redis.get(handle.backend.get_key_for_task(str(handle.id)))
        if not data:
            return None
        decode: Callable[[bytes], dict[str, Any]] = handle.backend.decode_result
        return decode(data) if len(data) <= DECODED_ON_LOOP else await asyncio.to_thread(decode, data)


class _OtherResults:
    """Any other backend: it is asked by short calls in the loop's executor, after the end of the job's record."""

    async def looks(self, handle: AsyncResult, every: float) -> AsyncGenerator[None, None]:
        try:
            reader = AsyncJobReader.of(handle.app, str(handle.id))
        except StoreNotConfiguredError:
            every = min(every, LOOK_EVERY / 4)
        else:
            async for _ in reader.follow(after=None, timeout=None, ready=lambda: is_over(handle)):
                pass
            every = SHORTEST
        while True:
            yield
            await asyncio.sleep(every)

    async def load(self, handle: AsyncResult, on_message: OnMessage = None) -> bool:
        return handle._cache is not None or await asyncio.to_thread(self._load, handle, on_message)

    async def state(self, handle: AsyncResult) -> str:
        state: str = await asyncio.to_thread(handle.backend.get_state, handle.id)
        return state

    @staticmethod
    def _load(handle: AsyncResult, on_message: OnMessage) -> bool:
        try:
            AsyncResult.get(
                handle, timeout=0.01, interval=0.01, propagate=False, follow_parents=False, on_message=on_message,
                disable_sync_subtasks=False,
            )  # fmt: skip
        except CeleryTimeoutError:
            return False
        return handle._cache is not None
