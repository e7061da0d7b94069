"""The queues of one kombu SQS channel: the client that reaches each, and for how long each hides a message."""

from __future__ import annotations

import logging
import threading
from typing import Any

from botocore.exceptions import ClientError

__all__ = ["SqsQueues", "error_code"]

logger = logging.getLogger("taskora_celery.lease")

#: Seconds: SQS's default for a queue.
_UNKNOWN = 30.0


def error_code(exc: ClientError) -> str:
    """Return the code of an answer that is an error."""
    return str(exc.response.get("Error", {}).get("Code", ""))


class SqsQueues:
    """Asks the live `channel`, which nobody else may use meanwhile. Safe to use from several threads.

    Every method may block for as long as SQS takes to answer, and raises botocore's errors.
    """

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._lock = threading.Lock()  # the channel makes its clients without one; a client itself needs none
        self._predefined: dict[str, str] = {queue["url"]: name for name, queue in channel.predefined_queues.items()}
        if isinstance(getattr(type(channel), "_predefined_queue_clients", None), dict):
            # kombu before 5.7 shares these between all channels: the consumer's long polls must not get the lease's timeouts.
            channel._predefined_queue_clients = {}  # noqa: SLF001
        option = channel.transport_options.get("visibility_timeout")
        self._option = None if option in (None, "") else float(option)
        self._own_timeouts: dict[str, float] = {}
        created = channel.transport_options.get("sqs-creation-attributes") or {}
        #: Seconds within which a message must be renewed, on any queue that was asked for; before, on those that kombu creates.
        self.shortest_timeout = max(1.0, float(created.get("VisibilityTimeout", channel.visibility_timeout)))

    @property
    def apart(self) -> bool:
        """Whether the queues may have endpoints and credentials of their own."""
        return bool(self._predefined)

    def client(self, url: str | None) -> Any:
        """Return the client for a queue; with None the one that serves all queues that are not predefined."""
        with self._lock:
            # Asked each time: where a role is assumed, the channel renews its credentials.
            return self._channel.sqs(queue=None if url is None else self._predefined.get(url))

    def url(self, name: str) -> str | None:
        """Return the URL of the queue that Celery knows by this name; None for one that does not exist yet."""
        queue = self._channel.canonical_queue_name(name)
        if self._predefined:
            return next((url for url, predefined in self._predefined.items() if predefined == queue), None)
        try:
            return str(self.client(None).get_queue_url(QueueName=queue)["QueueUrl"])
        except ClientError as exc:
            logger.debug("the URL of the SQS queue %s is not known: %s", queue, error_code(exc))
            return None

    def depth(self, url: str) -> int | None:
        """Return about how many messages wait, as SQS has counted them; None where it may not be asked."""
        try:
            answer = self.client(url).get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
            return int(answer["Attributes"]["ApproximateNumberOfMessages"])
        except (ClientError, KeyError) as exc:
            logger.debug("how much waits in %s cannot be read: %s", url, exc)
            return None

    def timeout(self, url: str) -> float:
        """Return for how many seconds a renewal hides a message of this queue: the transport's option, else the queue's own.

        The queue's own is read once. It counts until the first renewal, whatever the option says.
        """
        own = self._own_timeouts.get(url)
        if own is None:
            own = self._read_timeout(url)
            with self._lock:
                self._own_timeouts[url] = own
                known = [*self._own_timeouts.values(), own if self._option is None else self._option]
                self.shortest_timeout = max(1.0, min(known))
        return own if self._option is None else self._option

    def _read_timeout(self, url: str) -> float:
        try:
            answer = self.client(url).get_queue_attributes(QueueUrl=url, AttributeNames=["VisibilityTimeout"])
            return float(answer["Attributes"]["VisibilityTimeout"])
        except (ClientError, KeyError) as exc:
            # Renewing too often is safe, and renewing too late is not.
            logger.info("the visibility timeout of %s cannot be read, and is taken to be %g s: %s", url, _UNKNOWN, exc)
            return _UNKNOWN
