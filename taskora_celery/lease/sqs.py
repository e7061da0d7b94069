"""The lease on kombu's SQS transport.

SQS hides a message from other consumers from the moment it is received, for the queue's visibility timeout. kombu never extends
that, so a longer job is delivered again while it runs. Renewing is ``ChangeMessageVisibility`` with the receipt handle, which is
kombu's delivery tag and is new with each delivery. What becomes of the handle of an earlier delivery SQS leaves open: where it
refuses one, the message is gone for its holder; but only the fence in the store keeps a stale execution from acting.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from taskora_celery.lease.protocol import Held, Hold, Renewal
from taskora_celery.lease.sqs_queues import SqsQueues, error_code
from taskora_celery.lease.visibility import LIMIT, batches, handle_is_stale, queue_is_gone, renewed_seconds

__all__ = ["SqsLease", "bound_timeouts", "holds"]

logger = logging.getLogger("taskora_celery.lease")

#: For botocore, in seconds; by its own values (60 s, five attempts) an outage would hold a renewal up for minutes.
_BOUNDS = {"connect_timeout": 5, "read_timeout": 5, "retries": {"mode": "standard", "total_max_attempts": 2}}
#: Receipt handles that are remembered so as not to log them twice.
_REMEMBERED = 1000
_FAILURES = (BotoCoreError, ClientError, ResponseParserError, OSError)


def holds(channel: Any) -> bool:
    """Say whether a kombu channel is one whose messages this adapter renews."""
    return all(hasattr(channel, name) for name in ("sqs", "predefined_queues", "canonical_queue_name", "visibility_timeout"))


def bound_timeouts(connection: Any) -> None:
    """Let a connection that is not open yet wait for SQS for seconds, not for minutes.

    It can no longer consume: a long poll takes longer than that.
    """
    options = connection.transport_options or {}
    config = {**(options.get("client-config") or {}), **_BOUNDS}
    connection.transport_options = {**options, "client-config": config}


class _EntryError(ConnectionError):
    """SQS failed for some messages of a request, and not for the others."""


class SqsLease:
    """Renews messages of one kombu SQS channel, ten to a request.

    Endpoint, regions, credentials and roles are those of the live `channel`, which belongs to this lease alone; `connection`
    is closed with it. `consumed` are the names of the queues that messages will come from, so that their visibility timeouts
    are known before the first renewal.

    :raises ConnectionError: SQS did not answer.
    """

    shows_due = False

    def __init__(self, connection: Any, channel: Any, consumed: Sequence[str] = ()) -> None:
        self._connection = connection
        self._queues = SqsQueues(channel)
        self._told: deque[str] = deque(maxlen=_REMEMBERED)
        with _connection_errors():
            for name in consumed:
                if url := self._queues.url(name):
                    self._queues.timeout(url)
        #: The shortest of the queues seen so far.
        self.visibility_timeout: float | None = self._queues.shortest_timeout

    def renew(self, holds: Sequence[Hold], *, look: bool = False) -> Renewal:  # noqa: ARG002 - nobody sees others' messages
        """Renew these deliveries. A watched one counts as held: SQS does not say how a message stands.

        Blocks for about 20 s at most where SQS does not answer; for each queue, where they are predefined.

        :raises ConnectionError: some could not be renewed; those that the failure does not concern were.
        """
        # A message without a URL is of a queue from which kombu deletes what it receives: there is nothing to renew.
        renewed = [number for number, hold in enumerate(holds) if hold.queue and not hold.watched]
        held = [Held.HELD] * len(holds)
        errors: list[Exception] = []
        down: set[str] = set()
        for url, positions in batches([str(holds[number].queue) for number in renewed]):
            if url in down:
                continue
            try:
                for number in self._renew_batch(url, {renewed[at]: holds[renewed[at]] for at in positions}):
                    held[number] = Held.GONE
            except _EntryError as exc:
                errors.append(exc)
            except _FAILURES as exc:
                errors.append(exc)
                if not (self._queues.apart or isinstance(exc, ClientError)):
                    break  # no other queue would do better
                down.add(url)
        if errors:
            raise ConnectionError(_text(errors[0])) from errors[0]
        return Renewal(tuple(held))

    def claim(self, hold: Hold) -> None:
        """Do nothing: each delivery has a receipt handle of its own."""

    def alone(self) -> AbstractContextManager[bool]:
        """Say yes: a receipt handle is of one delivery alone."""
        return nullcontext(True)

    def take(self, tag: str) -> bool:  # noqa: ARG002 - the protocol's
        """Say yes: nobody sees others' messages."""
        return True

    def put_back(self, tag: str, queue: str | None = None, *, token: int | None = None) -> None:  # noqa: ARG002 - the protocol's
        """Make the message visible at once. Without the URL of its queue nothing is done, and it comes back in its time.

        :raises ConnectionError: SQS did not answer, or forbade it.
        """
        if queue is None:
            logger.warning("a message cannot be put back without the URL of its SQS queue")
            return
        with _connection_errors():
            try:
                self._queues.client(queue).change_message_visibility(QueueUrl=queue, ReceiptHandle=tag, VisibilityTimeout=0)
            except ClientError as exc:
                if not (handle_is_stale(error_code(exc)) or queue_is_gone(error_code(exc))):
                    raise

    def close(self) -> None:
        """Give up the connection."""
        self._connection.close()

    def _renew_batch(self, url: str, batch: Mapping[int, Hold]) -> Iterator[int]:
        """Renew ten messages of one queue at most; yields the numbers of those that are no longer held.

        :raises _EntryError: SQS failed for some of them.
        """
        timeout = self._queues.timeout(url)
        self.visibility_timeout = self._queues.shortest_timeout
        now = time.time()
        entries = []
        for number, hold in batch.items():
            seconds = renewed_seconds(hold, timeout, now)
            if seconds is None:
                self._tell_limit(hold)
                yield number
            else:
                entries.append({"Id": str(number), "ReceiptHandle": hold.tag, "VisibilityTimeout": seconds})
        failed: list[Mapping[str, Any]] = []
        for entry in self._refused(url, entries) if entries else ():
            if handle_is_stale(entry["Code"]):
                logger.debug("a message on %s is no longer held: %s %s", url, entry["Code"], entry.get("Message", ""))
                yield int(entry["Id"])
            else:
                failed.append(entry)
        if failed:
            raise _EntryError(f"{failed[0]['Code']} {failed[0].get('Message', '')}")

    def _refused(self, url: str, entries: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Send one request; return the entries that SQS refused."""
        try:
            answer = self._queues.client(url).change_message_visibility_batch(QueueUrl=url, Entries=entries)
        except ClientError as exc:
            if queue_is_gone(error_code(exc)):
                return [{"Id": entry["Id"], "Code": "ReceiptHandleIsInvalid", "Message": str(exc)} for entry in entries]
            raise
        return list(answer.get("Failed", ()))

    def _tell_limit(self, hold: Hold) -> None:
        if hold.tag not in self._told:
            self._told.append(hold.tag)
            hours = LIMIT // 3600
            logger.warning("a message on %s is delivered again: SQS hides none for longer than %d hours", hold.queue, hours)


@contextmanager
def _connection_errors() -> Iterator[None]:
    try:
        yield
    except _FAILURES as exc:
        raise ConnectionError(_text(exc)) from exc


def _text(exc: Exception) -> str:
    return str(exc) or type(exc).__name__
