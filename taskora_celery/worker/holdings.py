"""What a worker answers for at one moment: read from Celery's consumer and requests, by a thread that owns neither."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec
from celery.worker import state

from taskora_celery.lease.fence import FencedChannel
from taskora_celery.lease.protocol import Hold

if TYPE_CHECKING:
    from taskora_celery.worker.request import JobRequest

__all__ = ["Kept", "copied", "holdings", "unacknowledged"]

T = TypeVar("T")


class Kept(NamedTuple):
    """One delivery of a message that the worker answers for."""

    hold: Hold
    #: None where Celery has none any more (it drops what had not begun when a shutdown begins), or the task is not tracked.
    request: JobRequest | None
    #: None where the transport has no lease to guard, or the task is not tracked.
    fenced: FencedChannel | None


def holdings(consumer: Any, requests: Mapping[str, JobRequest], *, draining: bool) -> list[Kept]:
    """Return every delivery that the worker is to keep: running, prefetched, waiting for its time, and of a connection before.

    In a warm shutdown (``draining``) only what runs is kept: what has not begun here is better begun elsewhere, and is only
    watched, so that kombu does not put back at the end what somebody else has by then. A running job that must show life is only
    watched, too: its own process renews it.
    """
    held: dict[str, Kept] = {}
    running = {str(request.message.delivery_tag) for request in copied(lambda: state.active_requests) if not request.acknowledged}
    for tag, message in unacknowledged(consumer):
        request = requests.get(tag)
        fenced = message.channel if isinstance(message.channel, FencedChannel) else None
        if fenced is None or not fenced.settled:
            hold = (fenced.hold if fenced else Hold(tag)) if request is None else request.hold
            held[tag] = Kept(_as_it_stands(hold, message, request, draining and tag not in running), request, fenced)
    for tag, request in copied(requests.items):
        if tag not in held and request.is_running and request.fenced is not None and not request.fenced.settled:
            held[tag] = Kept(_as_it_stands(request.hold, request.message, request), request, request.fenced)
    return list(held.values())


def _as_it_stands(hold: Hold, message: Any, request: JobRequest | None, handed_over: bool = False) -> Hold:
    shows_life = request is not None and hold.timeout is not None and request.is_running and not request.regained
    return msgspec.structs.replace(hold, watched=handed_over or shows_life, queue=_queue_of(message))


def _queue_of(message: Any) -> str | None:
    return (message.delivery_info or {}).get("sqs_queue")


def unacknowledged(consumer: Any) -> list[tuple[str, Any]]:
    """Return tags and messages that the consumer's channel counts as delivered, also those with an ETA."""
    channel = getattr(getattr(consumer, "task_consumer", None), "channel", None)
    if channel is None:  # not connected yet, or just now not
        return []
    qos = channel.qos
    dirty = set(copied(lambda: qos._dirty))  # noqa: SLF001 - kombu has no other name for what was acknowledged
    return [(str(tag), message) for tag, message in copied(qos._delivered.items) if tag not in dirty]  # noqa: SLF001


def copied(values: Callable[[], Iterable[T]]) -> list[T]:
    """Return a copy of what the main thread may be changing; ``values`` is called anew where it has changed meanwhile."""
    for _ in range(10):
        try:
            return list(values())
        except RuntimeError:  # it changed its size
            time.sleep(0.001)
    return []
