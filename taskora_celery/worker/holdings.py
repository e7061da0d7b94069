"""What a worker answers for at one moment: read from Celery's consumer and requests, by a thread that owns neither."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from celery.worker import state

from taskora_celery.lease.protocol import Hold

if TYPE_CHECKING:
    from taskora_celery.worker.request import JobRequest

__all__ = ["holdings"]


def holdings(consumer: Any, requests: Mapping[str, JobRequest], *, draining: bool) -> list[tuple[Hold, JobRequest | None]]:
    """Return every delivery that the worker is to keep: running, prefetched, waiting for its time, and of a connection before.

    In a warm shutdown (``draining``) only what runs is kept: what has not begun here is better begun elsewhere. A running job
    that must show life is only watched: its own process renews it.
    """
    held: dict[str, tuple[Hold, JobRequest | None]] = {}
    running = {str(request.message.delivery_tag) for request in _copied(state.active_requests) if not request.acknowledged}
    for tag, message in _unacknowledged(consumer):
        if draining and tag not in running:
            continue
        request = requests.get(tag)
        if request is None:
            held[tag] = (Hold(tag, queue=_queue_of(message)), None)
        elif request.fenced is None or not request.fenced.settled:
            held[tag] = (_hold_of(request), request)
    for tag, request in _copied(requests.items()):
        if tag not in held and request.is_running and request.fenced is not None and not request.fenced.settled:
            held[tag] = (_hold_of(request), request)
    return list(held.values())


def _hold_of(request: JobRequest) -> Hold:
    watched = request.hold.timeout is not None and request.is_running and not request.regained
    return msgspec.structs.replace(request.hold, watched=watched, queue=_queue_of(request.message))


def _queue_of(message: Any) -> str | None:
    return (message.delivery_info or {}).get("sqs_queue")


def _unacknowledged(consumer: Any) -> list[tuple[str, Any]]:
    """Return tags and messages that the consumer's channel counts as delivered, also those with an ETA."""
    channel = getattr(getattr(consumer, "task_consumer", None), "channel", None)
    if channel is None:  # not connected yet, or just now not
        return []
    qos = channel.qos
    dirty = set(_copied(qos._dirty))  # noqa: SLF001 - kombu has no other name for what was acknowledged
    return [(str(tag), message) for tag, message in _copied(qos._delivered.items()) if tag not in dirty]  # noqa: SLF001


def _copied(values: Any) -> list[Any]:
    """Return a copy of what the main thread may be changing."""
    for _ in range(10):
        try:
            return list(values)
        except RuntimeError:  # it changed its size meanwhile
            time.sleep(0.001)
    return []
