"""Which delivery of a message this is: what the worker's parent stamped on the request, and what follows from it."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from taskora_celery.lease.protocol import Hold
from taskora_celery.reporter.report import JobReport
from taskora_celery.store.protocol import Begin

__all__ = ["CREATED_HEADER", "STAMP", "Delivery", "attempt_of", "stamp_of"]

#: Where the worker's request carries the stamp to the process that runs the job; not a message header: it ends with the delivery.
STAMP = "taskora_delivery"

#: The publisher's stamp: when the job was created, in milliseconds since the epoch.
CREATED_HEADER = "taskora_created"
#: Instants beyond the year 2200 are no creation times; ``datetime`` has an end, too.
_LAST_MS = 7_258_118_400_000
#: A job that is tried so often was not: Redis counts no further.
_MOST_RETRIES = 2**53


class Delivery(msgspec.Struct, frozen=True):
    """One delivery, as the process that runs it knows it."""

    #: None where the message came from no broker.
    hold: Hold | None = None
    #: The worker's parent process, which received the message; 0 where it did not say.
    parent: int = 0
    #: Seconds for which the message stays invisible without renewal; None where it cannot become visible again by itself.
    visibility: float | None = None
    #: It is acknowledged before the job ends.
    early: bool = False
    #: The number that the parent gave the delivery, by which both know it, whatever the broker is; 0 where it gave none.
    token: int = 0

    @classmethod
    def of(cls, task: Any, request: Any) -> Delivery:
        """Return the delivery that a request belongs to."""
        properties = request.properties or {}
        tag = properties.get("delivery_tag")
        token, parent, visibility = vars(request).get(STAMP) or (0, 0, None)
        if request.headers:
            # Celery takes what it does not know for a header of the message, and sends it on with a retry.
            request.headers.pop(STAMP, None)
        early = not task.acks_late
        if not isinstance(tag, str):
            # Not from a transport of kombu's own (RabbitMQ): nothing to renew, but silence is seen there, too.
            silent = None if task.heartbeat_timeout is None else Hold("", 0, task.heartbeat_timeout)
            return cls(silent, parent, None, early=early, token=token)
        queue = (properties.get("delivery_info") or {}).get("sqs_queue")
        # An early acknowledgement waits, in a solo worker, until the job has ended: there is a lease to renew there, too.
        hold = Hold(tag, token, task.heartbeat_timeout, queue=queue)
        return cls(hold, parent, visibility, early=early, token=token)

    def begin(
        self, report: JobReport, request: Any, worker: str, started: float, trace: str = "", *, again: bool
    ) -> Begin:  # fmt: skip
        """Return what the store is told of its beginning, at ``started`` (seconds); ``again``: its body has run once already."""
        info = request.delivery_info or {}
        tag = self.hold.tag if self.hold else ""
        return Begin(
            report.id, report.name, report.attempt, worker, stamp_of(getattr(request, CREATED_HEADER, None)), int(started * 1000),
            redelivered=bool(info.get("redelivered")) or again, tag=tag, token=self.token, anyway=again,
            # What waited for its time did not wait for a worker.
            queue=None if request.eta else info.get("routing_key") or None, trace=trace,
        )  # fmt: skip

    @staticmethod
    def stamp(token: int, parent: int, visibility: float | None) -> tuple[int, int, float | None]:
        """Return what the worker's parent puts on the request."""
        return token, parent, visibility

    def is_doubtful(self, now: float | None = None) -> bool:
        """Say whether the message may be another delivery's by now: it was received long enough ago to have been put back.

        Until half of its time is over nobody has to ask, whatever has become of those who should have renewed it.
        """
        if self.hold is None or not self.hold.token or self.visibility is None:
            return False
        lease = self.visibility if self.hold.timeout is None else min(self.visibility, self.hold.timeout)
        return (time.time() if now is None else now) - self.hold.token / 1_000_000 > lease / 2


def attempt_of(retries: Any) -> int:
    """Return the number of the attempt with so many retries before it; a publisher may have written anything there."""
    return retries + 1 if type(retries) is int and 0 <= retries < _MOST_RETRIES else 1


def stamp_of(created: Any) -> int:
    """Return the publisher's stamp, 0 where there is none that makes sense."""
    return created if type(created) is int and 0 < created < _LAST_MS else 0
