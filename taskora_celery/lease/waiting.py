"""What waits in a broker's queues. Looking takes no message and makes no queue."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import msgspec
from kombu.transport import virtual

__all__ = ["NOT_KNOWN", "Waiting", "waiting_in"]


class Waiting(msgspec.Struct, frozen=True):
    """What a broker knows of one queue; None where it does not say."""

    #: Messages that wait. Those that a worker has fetched already are not among them.
    depth: int | None = None
    #: When the job whose message is taken next was created, by its publisher's stamp, in milliseconds since the epoch.
    oldest_ms: int | None = None
    #: Those who have the queue's messages delivered to them.
    consumers: int | None = None


NOT_KNOWN = Waiting()
#: AMQP's code for a queue that does not exist.
_NOT_FOUND = 404


def waiting_in(connection: Any, queues: Sequence[str]) -> dict[str, Waiting]:
    """Return what waits in each of these queues; one that does not exist yet is empty.

    ``connection`` is an open kombu connection, which belongs to the caller's thread. On Redis it is one round trip; on other
    brokers one for each queue.

    :raises Exception: whatever the transport raises when the broker does not answer.
    """
    channel = connection.default_channel
    if hasattr(channel, "priority_steps") and hasattr(channel, "pool"):
        return _in_redis(channel, queues)
    if connection.transport.driver_type == "sqs":
        return _in_sqs(channel, queues)
    if isinstance(channel, virtual.Channel):
        # Most of these transports would make a queue that they are asked for; those that can say whether one is there do not.
        asks = type(channel)._has_queue is not virtual.Channel._has_queue  # noqa: SLF001 - kombu's hook for its transports
        return {queue: _in_virtual(connection, queue) if asks else NOT_KNOWN for queue in queues}
    return {queue: _in_amqp(connection, queue) for queue in queues}


def _in_redis(channel: Any, queues: Sequence[str]) -> dict[str, Waiting]:
    if not queues:
        return {}
    import redis

    client = redis.Redis(connection_pool=channel.pool)
    script = client.register_script(files("taskora_celery.lease").joinpath("lua").joinpath("waiting.lua").read_bytes())
    prefix = getattr(channel, "global_keyprefix", "") or ""
    # A queue has a list for each step of priority; that of the first step has the queue's own name.
    steps = [f"{channel.sep}{step}" if step else "" for step in channel.priority_steps]
    found = script(keys=[f"{prefix}{queue}{step}" for queue in queues for step in steps])
    per_queue = 2 * len(steps)
    return {queue: _summed(found[at * per_queue : (at + 1) * per_queue]) for at, queue in enumerate(queues)}


def _summed(found: Sequence[Any]) -> Waiting:
    """Return what the lists of one queue come to: of each its length, and the stamp of its next message."""
    lengths, stamps = [int(length) for length in found[::2]], [int(stamp) for stamp in found[1::2] if stamp]
    if all(length < 0 for length in lengths):  # the name of the queue is that of something else
        return NOT_KNOWN
    return Waiting(sum(max(length, 0) for length in lengths), min(stamps, default=None))


def _in_sqs(channel: Any, queues: Sequence[str]) -> dict[str, Waiting]:
    from taskora_celery.lease.sqs_queues import SqsQueues  # it needs botocore

    asked = SqsQueues(channel)
    urls = {queue: asked.url(queue) for queue in queues}
    return {queue: NOT_KNOWN if url is None else Waiting(asked.depth(url)) for queue, url in urls.items()}


def _in_virtual(connection: Any, queue: str) -> Waiting:
    try:
        declared = connection.default_channel.queue_declare(queue=queue, passive=True)
    except connection.channel_errors:
        return Waiting(0)
    return Waiting(int(declared.message_count))  # it counts no consumers: its answer for them is always 0


def _in_amqp(connection: Any, queue: str) -> Waiting:
    channel = connection.channel()  # one of its own: the broker closes it where there is no such queue
    try:
        declared = channel.queue_declare(queue=queue, passive=True)
        return Waiting(int(declared.message_count), None, int(declared.consumer_count))
    except connection.channel_errors as exc:
        # Else it is not permitted, or another connection's alone.
        return Waiting(0, None, 0) if getattr(exc, "reply_code", None) == _NOT_FOUND else NOT_KNOWN
    finally:
        channel.close()
