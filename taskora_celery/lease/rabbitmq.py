"""What can be said, and not done, about a lease on RabbitMQ."""

from __future__ import annotations

from typing import Any

__all__ = ["unrenewable_warning"]

_WARNING = (
    "RabbitMQ closes the channel of a worker that has not acknowledged a message within consumer_timeout (30 minutes by default) "
    "and delivers the message again; no heartbeat can extend that time. If jobs with acks_late, prefetched messages or messages "
    "with an ETA or countdown may take longer, raise it above the longest of them: consumer_timeout = <milliseconds> in "
    "rabbitmq.conf, or from RabbitMQ 3.12 on for some queues only, by a policy with consumer-timeout"
)


def unrenewable_warning(connection: Any) -> str | None:
    """Return what a worker must be told about its broker's time limit, where that is RabbitMQ; None for all other brokers.

    `connection` is a kombu connection; it need not be open, and is not opened.
    """
    return _WARNING if connection.transport.driver_type == "amqp" else None
