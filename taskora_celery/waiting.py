"""``JobHandle.get``: Celery's wait for a result, which finds one also where nobody heard that it is there.

Celery reads a result once, and then waits for its announcement, which is lost where the connection is replaced in that moment.
So, while Celery waits, the result is read anew every ``LOOK_EVERY`` seconds (and up to one more, since Celery interrupts its wait
once a second), through a connection whose waits are bounded: a Redis that hangs delays no timeout for long. Other backends than
Redis are polled by Celery, or keep what they sent.
"""

# ruff: noqa: SLF001 - `_cache` and its two methods are Celery's way into a result, and have no public names

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from celery import states
from celery.result import AsyncResult, assert_will_not_block
from vine import promise

from taskora_celery.errors import TaskoraError
from taskora_celery.reading import LOOK_EVERY
from taskora_celery.runtime import Runtime, is_redis_backend, result_endpoint

__all__ = ["OnMessage", "for_announcement", "get"]

OnMessage = Callable[[dict[str, Any]], Any] | None


def for_announcement(handle: AsyncResult) -> bool:
    """Say whether ``get`` has to wait for what is only announced; no I/O."""
    return handle._cache is None and not handle.ignored and is_redis_backend(handle.backend)


def get(
    handle: AsyncResult,
    timeout: float | None = None,
    propagate: bool = True,
    interval: float = 0.5,
    no_ack: bool = True,
    follow_parents: bool = True,
    callback: Callable[[str, Any], Any] | None = None,
    on_message: OnMessage = None,
    on_interval: Callable[..., Any] | None = None,
    disable_sync_subtasks: bool = True,
    EXCEPTION_STATES: frozenset[str] = states.EXCEPTION_STATES,  # noqa: ARG001, N803 - Celery takes both, and uses neither
    PROPAGATE_STATES: frozenset[str] = states.PROPAGATE_STATES,  # noqa: ARG001, N803
) -> Any:
    """Return a job's result, or raise, as ``AsyncResult.get`` does with the same arguments; it is not there yet."""
    if disable_sync_subtasks:
        assert_will_not_block()
    # Celery's own promise: it looks at the parents at each interval, and calls `on_interval` as Celery does.
    celerys = promise()
    if follow_parents and propagate and handle.parent:
        celerys = promise(handle._maybe_reraise_parent_error)
        handle._maybe_reraise_parent_error()
    if on_interval:
        celerys.then(on_interval)
    looks = _Looks(handle, on_message)

    def at_interval() -> None:
        celerys()
        looks.look_if_due()

    handle.backend.add_pending_result(handle)
    return handle.backend.wait_for_pending(
        handle, timeout=timeout, interval=interval, on_interval=at_interval, no_ack=no_ack, propagate=propagate,
        callback=callback, on_message=on_message,
    )  # fmt: skip


class _Looks:
    """The looks of one wait at a result backend on Redis; one thread's."""

    def __init__(self, handle: AsyncResult, on_message: OnMessage) -> None:
        self._handle = handle
        self._on_message = on_message
        self._due = time.monotonic() + LOOK_EVERY

    def look_if_due(self) -> None:
        """Put a result that is there into the handle's cache, which ends its wait. One round trip, bounded, now and then."""
        if self._handle._cache is None and time.monotonic() >= self._due:
            meta = self._meta()
            if meta is not None and meta["status"] in states.READY_STATES:
                if self._on_message is not None:
                    self._on_message(meta)
                self._handle._maybe_set_cache(meta)
            self._due = time.monotonic() + LOOK_EVERY

    def _meta(self) -> dict[str, Any] | None:
        backend = self._handle.backend
        endpoint = result_endpoint(self._handle.app, backend)
        if endpoint is None:
            return None
        try:
            data = Runtime.of(self._handle.app).values(endpoint).get(backend.get_key_for_task(str(self._handle.id)))
        except TaskoraError:  # Redis is away: Celery's wait goes on as it would
            return None
        meta: dict[str, Any] | None = backend.decode_result(data) if data else None
        return meta
