"""Messages that are given back while the worker shuts down: what still comes, and what its jobs give back.

The worker's event loop does so before its end, or after the last job, which may take hours: it no longer runs in between.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskora_celery.lease.protocol import Lease
    from taskora_celery.worker.request import JobRequest

__all__ = ["BRPOP_TIMEOUT", "Leftovers"]

#: So many seconds waits kombu's BRPOP for a message where nothing is set, its last one after the consumer's end, too.
BRPOP_TIMEOUT = 1.0
#: And so many more are left to it.
MARGIN = 0.5


class Leftovers:
    """Keeps what is to go back. Filled by any thread of the worker's parent, emptied by the keeper's."""

    def __init__(self, wake: Callable[[], Any], last_read: float = BRPOP_TIMEOUT) -> None:
        """``wake`` asks for a turn; ``last_read`` is the time, in seconds, for which a consumer's last read may go on."""
        self._wake = wake
        self._last_read = last_read
        self._requests: deque[JobRequest] = deque()
        self._from: float | None = None

    def add(self, request: JobRequest) -> None:
        """Take in a message that is to go back."""
        self._requests.append(request)
        if self._from is not None:
            self._wake()

    def consumer_stopped(self) -> None:
        """Note that nothing is consumed any more: what is given back a moment later goes to another worker."""
        self._from = time.monotonic() + self._last_read + MARGIN

    def turn(self, lease: Lease, now: float) -> float | None:
        """Give back what there is, once that is time; return the seconds until then, None where nothing is known to come.

        :raises ConnectionError: the broker did not answer.
        """
        if self._from is None:
            return None
        if now < self._from:
            return self._from - now
        while self._requests:
            # From the front: meanwhile others are added at the end. It stays until it is dealt with, whatever the broker does.
            request = self._requests[0]
            fenced = request.fenced
            if fenced is not None and not fenced.settled:
                # Not where another delivery has it: what was given up and has begun elsewhere.
                lease.put_back(request.hold.tag, token=request.hold.token)
                fenced.give_up()
            self._requests.popleft()
        return None
