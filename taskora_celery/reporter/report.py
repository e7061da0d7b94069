"""What one job has said and the store does not know yet: plain memory, written by the handler, read by the reporter."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol

from taskora_celery.lease.protocol import Hold

__all__ = ["LOG_SLOTS", "UNSET", "JobReport", "LogTuple", "ProgressSink", "entries_in"]


class _Unset:
    """The type of :data:`UNSET`."""

    def __repr__(self) -> str:
        return "UNSET"


#: Nothing was reported.
UNSET: Final = _Unset()

#: ``(level code, seconds since the epoch, message, meta, logger name)``.
LogTuple = tuple[int, float, Any, Any, str | None]

#: So many places in :attr:`JobReport.logs` are one log entry: the fields of a :data:`LogTuple`, in its order.
LOG_SLOTS = 5
#: The buffer of log entries may be over its limit by one part in so many before the oldest are dropped: a list moves all that is
#: after what is taken off its head, 20 us in a full buffer of ten thousand.
_SLACK = 16


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
        "attempt", "beating", "buffer_limit", "dirty", "dropped", "early", "echo", "events", "fence", "hold", "id", "log_room",
        "logs", "name", "on_touch", "open_sinks", "overflow_lock", "said", "said_checkpoint", "said_message", "said_total",
        "sink", "taken", "time", "visibility",
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
        #: The entries that wait, one after the other, each in ``LOG_SLOTS`` places. A tuple for each would be an object that the
        #: garbage collector looks at: 1.3 to 1.9 us per entry in a process that logs much, half of all that an entry costs.
        self.logs: list[Any] = []
        #: What ``logs`` may grow to before :meth:`crowded` is to be called: 0 since the reporter looked.
        self.log_room = 0
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
        self._wake()

    def pulse(self) -> None:
        """Say that the handler is alive and wants its lease renewed; wakes the reporter."""
        self.beating = True
        self._wake()

    def _wake(self) -> None:
        wake = self.on_touch
        if wake is None:
            return
        try:
            wake()
        except BaseException:
            # An interruption landed in it. The flags say that the reporter has been told: nobody else will do so.
            wake()
            raise

    def supersede(self, message: str) -> None:
        """Note that this execution no longer counts: another delivery has the job, or it is given up."""

    def crowded(self) -> None:
        """Say that there are log entries, as :meth:`touch` does, and make room where they are too many."""
        limit = self.buffer_limit
        # First this, then the wake-up: the reporter that wakes takes it back. The last line is for an interruption in between.
        self.log_room = (limit + limit // _SLACK) * LOG_SLOTS
        try:
            if len(self.logs) > self.log_room:
                with self.overflow_lock:
                    self._drop_excess()
        finally:
            self.touch()

    def _drop_excess(self) -> None:
        """Drop the oldest log entries beyond the limit; each is counted."""
        excess = len(self.logs) // LOG_SLOTS - self.buffer_limit
        if excess > 0:
            del self.logs[: excess * LOG_SLOTS]
            self.dropped += excess

    def take_logs(self) -> tuple[int, list[Any]]:
        """Return the number of the first entry that is taken (the dropped ones have numbers, too), and the entries' fields.

        They are as in ``logs``; at most the newest ``buffer_limit`` entries.
        """
        self.log_room = 0
        with self.overflow_lock:
            self._drop_excess()
            first = self.taken + self.dropped
            taken = self.logs[:]
            del self.logs[: len(taken)]  # whatever the handler has added meanwhile is after them
            self.taken += len(taken) // LOG_SLOTS
        return first, taken

    def entries(self) -> list[LogTuple]:
        """Return the log entries that wait, oldest first."""
        return entries_in(self.logs[:])

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


def entries_in(fields: list[Any]) -> list[LogTuple]:
    """Return the entries whose fields stand one after the other."""
    places = iter(fields)
    return list(zip(*[places] * LOG_SLOTS, strict=True))
