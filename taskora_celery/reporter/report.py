"""What one job has said and the store does not know yet: plain memory, written by the handler, read by the reporter."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from taskora_celery.lease.protocol import Hold

__all__ = ["UNSET", "JobReport", "LogTuple", "ProgressSink"]


class _Unset:
    """The type of :data:`UNSET`."""

    def __repr__(self) -> str:
        return "UNSET"


#: Nothing was reported.
UNSET: Final = _Unset()

#: ``(level code, seconds since the epoch, message, meta, logger name)``.
LogTuple = tuple[int, float, Any, Any, str | None]


class ProgressSink(Protocol):
    """Another place that shows progress: the result backend, events."""

    def write(self, value: Any) -> None:
        """Show a progress value (plain data); may block on I/O, never raises, does nothing once closed."""

    def close(self) -> None:
        """Return when no write is under way that could replace an outcome; none comes after this."""


class JobReport:
    """The slots that a running job writes and its reporter reads; no lock on the way in.

    The handler stores a value, then looks whether ``dirty`` is set, and calls :meth:`touch` if it is not. The reporter clears
    ``dirty``, then takes the values. Whatever is stored before the reporter looks is taken; whatever comes later finds the
    flag cleared and wakes the reporter again. So the handler pays for one wake-up per flush, and no report is lost.
    Any thread of the handler may write. Only the holder of the reporter's lock takes.

    It is the base of the handler's context, not a part of it: one attribute less on the way is a quarter of the cost of a call.
    """

    __slots__ = (
        "attempt", "beating", "buffer_limit", "dirty", "dropped", "early", "echo", "events", "fence", "hold", "id", "logs",
        "name", "on_touch", "open_sinks", "overflow_lock", "said", "said_checkpoint", "said_message", "said_total", "sink",
        "taken", "time", "visibility",
    )  # fmt: skip

    def __init__(
        self,
        job_id: str,
        name: str,
        attempt: int,
        *,
        time: Callable[[], float],
        buffer_limit: int = 10_000,
        hold: Hold | None = None,
        early: bool = False,
        visibility: float | None = None,
    ) -> None:
        """``hold`` is the delivery where its lease can be renewed; ``early`` says that it is acknowledged before the job ends.

        ``visibility`` is how long the message stays invisible without renewal, in seconds, where that is known; ``buffer_limit``
        counts log entries.
        """
        self.id = job_id
        self.name = name
        self.attempt = attempt
        self.hold = hold
        self.early = early
        self.visibility = visibility
        self.time = time
        self.buffer_limit = buffer_limit
        #: 0 until the store has counted this delivery.
        self.fence = 0
        #: The latest progress, and what it is of; :data:`UNSET` until there is one.
        self.said: Any = UNSET
        self.said_total: Any = None
        self.said_message: Any = None
        #: The latest checkpoint, packed.
        self.said_checkpoint: bytes | None = None
        self.logs: deque[LogTuple] = deque()
        #: Entries taken out of ``logs``, and entries dropped because nobody took them in time.
        self.taken = 0
        self.dropped = 0
        self.dirty = False
        self.beating = False
        self.on_touch: Callable[[], None] | None = None
        #: Where entries are repeated to Python logging, None for nowhere.
        self.echo: logging.Logger | None = None
        #: Where progress goes besides the store, and where monitors see it; both may be None, and are until there is progress.
        self.sink: ProgressSink | None = None
        self.events: ProgressSink | None = None
        #: Sets the two above. Most jobs have no progress, and are spared 6 us for sinks that nobody writes to.
        self.open_sinks: Callable[[JobReport], None] | None = None
        self.overflow_lock = threading.Lock()

    def touch(self) -> None:
        """Say that there is something to report; wakes the reporter."""
        self.dirty = True
        if self.on_touch is not None:
            self.on_touch()

    def pulse(self) -> None:
        """Say that the handler is alive and wants its lease renewed; wakes the reporter."""
        self.beating = True
        if self.on_touch is not None:
            self.on_touch()

    def supersede(self, message: str) -> None:
        """Note that this execution no longer counts: another delivery has the job, or it is given up."""

    def overflow(self) -> None:
        """Drop the oldest log entries until there is room for one more; each is counted."""
        with self.overflow_lock:
            while len(self.logs) >= self.buffer_limit:
                try:
                    self.logs.popleft()
                except IndexError:  # the reporter took them meanwhile
                    return
                self.dropped += 1

    def take_logs(self) -> tuple[int, list[LogTuple]]:
        """Return the number of the first entry that is taken (the dropped ones have numbers, too), and the entries."""
        with self.overflow_lock:
            first = self.taken + self.dropped
            entries = [self.logs.popleft() for _ in range(len(self.logs))]
            self.taken += len(entries)
        return first, entries

    def sinks(self) -> tuple[ProgressSink | None, ProgressSink | None]:
        """Return where progress goes besides the store, and where monitors see it, now that there is progress."""
        with self.overflow_lock:
            if self.open_sinks is not None:
                self.open_sinks(self)
                self.open_sinks = None
        return self.sink, self.events

    def last_sinks(self) -> tuple[ProgressSink | None, ProgressSink | None]:
        """Return those that there are, to be closed; none is made any more."""
        with self.overflow_lock:
            self.open_sinks = None
        return self.sink, self.events

    def latest(self) -> tuple[Any, Any, Any]:
        """Return the latest progress with its total and message.

        They are three slots, and a handler may be writing them just now: what reads the same twice belongs together.
        """
        seen = (self.said, self.said_total, self.said_message)
        for _ in range(10):
            again = (self.said, self.said_total, self.said_message)
            if again[0] is seen[0] and again[1] is seen[1] and again[2] is seen[2]:
                break
            seen = again
        return seen
