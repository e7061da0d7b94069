"""Which lease belongs to an app's broker: asked of the live channel, never guessed from a URL."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from taskora_celery.lease.protocol import NO_LEASE, Lease

__all__ = ["connected", "lease_for"]

logger = logging.getLogger("taskora_celery.lease")

#: Seconds that a renewal waits for a broker that does not answer. kombu's own default is for ever.
TIMEOUT = 5.0


def lease_for(app: Any) -> Lease:
    """Open a broker connection of its own, as messages are read with, and return its lease; blocks for ``TIMEOUT`` at most.

    Where the app names several brokers to fail over between, for each of them.

    :raises Exception: whatever the transport raises when the broker cannot be reached.
    """
    connection = app.connection_for_read()
    driver = connection.transport.driver_type
    if driver == "amqp":
        return NO_LEASE  # there is nothing to ask, and a connection of each process would cost the broker something
    try:
        _connect(connection)
        lease = _lease_on(connection, connection.default_channel, driver, app)
    except BaseException:
        connection.close()
        raise
    if lease is None:
        connection.close()
        logger.debug("the broker's transport %r has no visibility timeout to renew", connection.transport_cls)
        return NO_LEASE
    return lease


@contextmanager
def connected(app: Any) -> Iterator[Any]:
    """Open a broker connection of its own, as messages are read with; blocks for ``TIMEOUT`` at most, and so does each command.

    Where the app names several brokers to fail over between, for each of them.

    :raises Exception: whatever the transport raises when the broker cannot be reached.
    """
    with app.connection_for_read() as connection:
        _connect(connection)
        yield connection


def _connect(connection: Any) -> None:
    driver = connection.transport.driver_type
    if driver == "redis":
        connection.transport_options.setdefault("socket_timeout", TIMEOUT)
        connection.transport_options.setdefault("socket_connect_timeout", TIMEOUT)
    if driver == "sqs":
        from taskora_celery.lease.sqs import bound_timeouts

        bound_timeouts(connection)
    # Each of its URLs once, without a pause: asking for the channel would try again for as long as the broker is away.
    connection.ensure_connection(max_retries=max(len(connection.alt), 1) - 1, reraise_as_library_errors=False)


def _lease_on(connection: Any, channel: Any, driver: str, app: Any) -> Lease | None:
    from taskora_celery.lease import redis

    if redis.holds(channel):
        return redis.RedisLease(connection, channel, lambda: exchanges_of(app))
    if driver == "sqs":  # asked first, since the adapter needs botocore
        from taskora_celery.lease import sqs

        if sqs.holds(channel):
            return sqs.SqsLease(connection, channel, tuple(app.amqp.queues.consume_from))
    return None


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
