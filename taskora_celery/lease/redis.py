"""The lease on kombu's Redis transport.

kombu keeps a copy of each message that is being worked on in a hash, and its delivery time as the score of its tag in the
sorted set ``unacked_index``; a sweep in every worker puts back what is older than the visibility timeout. Nothing in kombu
renews the score (celery#5935), so a long job is run again while it runs. Renewing is one ``ZADD XX CH``: ``XX``, since a score
that is created after the acknowledgement would be an orphan; ``CH``, since its answer tells whether the lease was still there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import redis
from redis.exceptions import RedisError

__all__ = ["RedisLease", "holds"]


def holds(channel: Any) -> bool:
    """Say whether a kombu channel keeps its unacknowledged messages the way this adapter renews them."""
    return hasattr(channel, "unacked_index_key") and hasattr(channel, "visibility_timeout") and hasattr(channel, "pool")


class RedisLease:
    """Renews messages of one kombu Redis channel.

    The names, the prefix, the database, TLS and Sentinel are those of the live ``channel``. Only its connection pool is used,
    never its client, whose key prefixing covers some commands and not others. ``connection`` is kept open for the pool's sake.
    """

    def __init__(self, connection: Any, channel: Any) -> None:
        self._connection = connection
        self._client = redis.Redis(connection_pool=channel.pool)
        self._index = f"{getattr(channel, 'global_keyprefix', '') or ''}{channel.unacked_index_key}"
        self.visibility_timeout: float | None = float(channel.visibility_timeout)

    def renew(self, tags: Sequence[str]) -> list[bool]:
        """Renew the messages with these delivery tags, in one command where all are still held.

        :raises ConnectionError: the broker did not answer.
        """
        now = time.time()
        try:
            changed = self._client.zadd(self._index, dict.fromkeys(tags, now), xx=True, ch=True)
            if changed == len(tags):
                return [True] * len(tags)
            # Somebody's lease is gone (or the clock stood still between two renewals): ask which.
            return [self._client.zscore(self._index, tag) is not None for tag in tags]
        except (RedisError, OSError) as exc:
            raise ConnectionError(str(exc) or type(exc).__name__) from exc

    def close(self) -> None:
        """Give up the connection."""
        self._connection.close()
