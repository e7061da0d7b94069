"""Which lease belongs to an app's broker: asked of the live channel, never guessed from a URL."""

from __future__ import annotations

import logging
from typing import Any

from taskora_celery.lease.protocol import NO_LEASE, Lease

__all__ = ["lease_for"]

logger = logging.getLogger("taskora_celery.lease")

#: Seconds that a renewal waits for a broker that does not answer. kombu's own default is for ever.
TIMEOUT = 5.0


def lease_for(app: Any) -> Lease:
    """Open a broker connection of its own, as messages are read with, and return its lease; blocks for ``TIMEOUT`` at most.

    Where the app names several brokers to fail over between, for each of them.

    :raises Exception: whatever the transport raises when the broker cannot be reached.
    """
    connection = app.connection_for_read()
    try:
        if connection.transport_cls is not None and hasattr(connection.transport.Channel, "socket_timeout"):
            connection.transport_options.setdefault("socket_timeout", TIMEOUT)
            connection.transport_options.setdefault("socket_connect_timeout", TIMEOUT)
        # Each of its URLs once, without a pause: asking for the channel would try again for as long as the broker is away.
        connection.ensure_connection(max_retries=max(len(connection.alt), 1) - 1, reraise_as_library_errors=False)
        channel = connection.default_channel
        from taskora_celery.lease.redis import RedisLease, holds

        if holds(channel):
            return RedisLease(connection, channel, lambda: exchanges_of(app))
    except BaseException:
        connection.close()
        raise
    connection.close()
    logger.debug("the broker's transport %r has no visibility timeout to renew", connection.transport_cls)
    return NO_LEASE


def exchanges_of(app: Any) -> dict[str, Any]:
    """Return the exchanges of the app's queues as kombu's broker state has them, by name."""
    exchanges = {queue.exchange.name: queue.exchange for queue in app.amqp.queues.values() if queue.exchange}
    return {
        name: {
            "type": exchange.type,
            "durable": exchange.durable,
            "auto_delete": exchange.auto_delete,
            "arguments": exchange.arguments or {},
            "table": [],
        }
        for name, exchange in exchanges.items()
    }
