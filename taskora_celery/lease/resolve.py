"""Which lease belongs to an app's broker: asked of the live channel, never guessed from a URL."""

from __future__ import annotations

import logging
from typing import Any

from taskora_celery.lease.protocol import Lease, NoLease

__all__ = ["lease_for"]

logger = logging.getLogger("taskora_celery.lease")


def lease_for(app: Any) -> Lease:
    """Open the broker connection that messages are read from, and return its lease.

    :raises Exception: whatever the transport raises when the broker cannot be reached.
    """
    connection = app.connection_for_read()
    try:
        connection.connect()  # once: asking for the channel would try again for as long as the broker is away
        channel = connection.default_channel
        from taskora_celery.lease.redis import RedisLease, holds

        if holds(channel):
            return RedisLease(connection, channel)
    except BaseException:
        connection.close()
        raise
    connection.close()
    logger.debug("the broker's transport %r has no visibility timeout to renew", connection.transport_cls)
    return NoLease()
