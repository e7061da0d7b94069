"""What a renewal on SQS asks for: pure decisions on seconds, on the limit of 12 hours, and on who goes into one request."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from taskora_celery.lease.protocol import Hold

__all__ = ["BATCH", "LIMIT", "MARGIN", "batches", "handle_is_stale", "queue_is_gone", "renewed_seconds"]

#: Seconds since its reception after which SQS delivers a message again, whatever is asked for; a request beyond is refused.
LIMIT = 43_200
#: Seconds: SQS counts from the moment at which it sent the message, the worker from that at which it looked at it.
MARGIN = 10
#: SQS takes at most so many messages in one request.
BATCH = 10

#: SQS's words for the handle of a message that was deleted, is visible again, or was received once more.
_STALE = frozenset({"InvalidParameterValue", "ReceiptHandleIsInvalid", "MessageNotInflight"})
_NO_QUEUE = frozenset({"NonExistentQueue", "QueueDoesNotExist"})


def renewed_seconds(hold: Hold, visibility_timeout: float, now: float) -> int | None:
    """Say for how many whole seconds, at least 1, a message is to stay invisible from now on; None past SQS's limit.

    `now` is in seconds since the epoch. The reception is `hold.token`; where that is not known it counts as just now, and
    SQS itself refuses what is too much.
    """
    wanted = visibility_timeout if hold.timeout is None else hold.timeout - hold.age
    received = hold.token / 1e6 if hold.token else now
    left = math.floor(received + LIMIT - MARGIN - now)
    return min(max(1, math.ceil(wanted)), left) if left >= 1 else None


def batches(queues: Iterable[str], size: int = BATCH) -> Iterator[tuple[str, Sequence[int]]]:
    """Group messages by the URL of their queue, `size` at most in each: yields the URL and their positions in `queues`."""
    positions: dict[str, list[int]] = {}
    for position, queue in enumerate(queues):
        positions.setdefault(queue, []).append(position)
    for queue, members in positions.items():
        for start in range(0, len(members), size):
            yield queue, members[start : start + size]


def handle_is_stale(code: str) -> bool:
    """Say whether an error code means, of one message, that this delivery is no longer held."""
    return _bare(code) in _STALE


def queue_is_gone(code: str) -> bool:
    """Say whether an error code means that the queue was deleted, and its messages with it."""
    return _bare(code) in _NO_QUEUE


def _bare(code: str) -> str:
    # In the older of SQS's two protocols "AWS.SimpleQueueService." goes before some of them.
    return code.rpartition(".")[2]
