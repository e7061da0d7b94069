"""One running job as its reporter sees it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from taskora_celery.clock import Clock
from taskora_celery.redaction import Redactor
from taskora_celery.reporter.batches import batches
from taskora_celery.reporter.changes import log_counts
from taskora_celery.reporter.decisions import LeaseTurn, lease_interval
from taskora_celery.reporter.outbox import Outbox
from taskora_celery.reporter.outlet import Outlet
from taskora_celery.reporter.report import LOG_SLOTS, UNSET, JobReport
from taskora_celery.reporter.showing import Showing
from taskora_celery.reporter.taking import PlainEntry, emit, plain_progress
from taskora_celery.settings import Settings
from taskora_celery.store.journal import STATE
from taskora_celery.store.protocol import Begin, Ended
from taskora_celery.tally import Count

__all__ = ["LiveJob"]

logger = logging.getLogger("taskora_celery.reporter")

#: A job's progress becomes an event at most so often, in seconds.
EVENT_INTERVAL = 1.0
#: A value of one of these types that was sent cannot have changed since.
_UNCHANGING = frozenset({int, float, str, bool, type(None)})


class LiveJob:
    """A job's report, with what was taken from it, what was sent, and when what is due. Held under the reporter's lock."""

    __slots__ = (
        "_numbered", "_redactor", "_sent_checkpoint", "_sent_progress", "_sent_value", "_settings", "_told_no_lease", "_warned",
        "asks_for_fence", "begin", "cancelled", "end", "fenced", "lease", "outbox", "outlets", "report", "stands", "stopping",
        "superseded",
        "taking", "told", "told_stopping",
    )  # fmt: skip

    def __init__(self, report: JobReport, begin: Begin, settings: Settings, redactor: Redactor, now: float) -> None:
        self.report = report
        self.outbox = Outbox()
        #: How the attempt ended, until it is taken.
        self.end: Ended | None = None
        #: Why this execution counts no more, None while it does; and whether its signal was fired for it.
        self.superseded: str | None = None
        self.told = False
        #: The store has said so, and refuses and counts what is sent.
        self.fenced = False
        #: Somebody wants the job to stop: the store has said so, and the job has been told.
        self.stopping = False
        self.told_stopping = False
        #: Its end was not written, since it is to end as cancelled.
        self.cancelled = False
        #: Its handler was told that its end counts, before the store could be asked.
        self.stands = False
        self.asks_for_fence = False
        #: Somebody is just moving what was reported into the outbox.
        self.taking = False
        timeout = None if report.hold is None else report.hold.timeout
        self.lease = LeaseTurn(lease_interval(settings.lease_interval, report.visibility, timeout), timeout, now)
        #: Where progress is shown besides the store; made when there is progress.
        self.outlets: Sequence[Outlet] = ()
        #: What the delivery is registered with, later or anew where the store was away.
        self.begin = begin
        self._settings = settings
        self._redactor = redactor
        self._sent_progress: tuple[Any, Any, Any] = (UNSET, None, None)
        self._sent_value: Any = UNSET
        self._sent_checkpoint: bytes | None = None
        #: The number of the next log entry, as far as they were taken.
        self._numbered = 0
        self._warned = False
        self._told_no_lease = False

    def has_news(self) -> bool:
        """Say whether there is something to take."""
        report = self.report
        return report.dirty or bool(report.logs) or self.end is not None

    def take(self, clock: Clock) -> list[tuple[Count, int]]:
        """Move what the handler reported into the outbox: plain, redacted, bounded, packed; return what is counted of it."""
        report = self.report
        self.taking = self.outbox.alive = True
        self.lease.life_at = clock.monotonic()
        # First the flag, then the values: what is stored meanwhile sets the flag again.
        report.dirty = False
        first, taken = report.take_logs()
        counts: list[tuple[Count, int]] = []
        if taken:
            dropped = first - self._numbered  # nobody took them in time
            self._numbered = first + len(taken) // LOG_SLOTS
            dropped += self._take_logs(first, taken)
            counts = log_counts(report.name, taken[::LOG_SLOTS], dropped)
        self._take_progress(int(clock.time() * 1000))
        if self.end is not None:
            self.outbox.ended, self.end = self.end, None
        checkpoint = report.said_checkpoint
        if checkpoint is not self._sent_checkpoint:
            self._sent_checkpoint = self.outbox.checkpoint = checkpoint
        self.taking = False
        return counts

    def _take_logs(self, first: int, taken: list[Any]) -> int:
        """Move log entries into the outbox, and repeat them to Python logging; return how many found no room."""
        settings, echo, dropped = self._settings, self.report.echo, 0
        found = batches(self.report.attempt, taken, self._redactor, settings.log_entry_bytes, settings.log_limit)
        for batch, entries in found:
            dropped += self.outbox.add(first, batch, settings.buffer_limit)
            first += batch.entries
            if echo is not None:
                self._emit(echo, entries)
        return dropped

    def is_silent(self) -> bool:
        """Say, without the lock, whether nothing that the handler said is unsent."""
        # In this order: what is no news any more is being taken, or is in the outbox, or is stored.
        return not (self.has_news() or self.taking or self.outbox.speaks)

    def _take_progress(self, now_ms: int) -> None:
        latest = self.report.latest()
        sent = self._sent_progress
        if latest[0] is UNSET:
            return
        if type(latest[0]) in _UNCHANGING and all(a is b for a, b in zip(latest, sent, strict=True)):
            return
        self._sent_progress = latest
        value, mark, packed = plain_progress(latest, self._redactor, self._settings.value_bytes, now_ms)
        if latest[0] is sent[0] and value == self._sent_value:
            return  # the same object as before, and not changed since: only its log has grown
        self._sent_value = value
        self.outbox.progress = packed
        if not self.outlets:
            self.outlets = self._new_outlets()
        for outlet in self.outlets:
            outlet.offer(value)
        if mark is not None:
            self._warn(mark)

    def _new_outlets(self) -> list[Outlet]:
        sink, events = self.report.sinks()
        lead, outlets = self._settings.flush_interval, []
        if sink is not None:
            outlets.append(Outlet(sink, self._settings.backend_interval, lead))
        if events is not None:
            outlets.append(Outlet(events, EVENT_INTERVAL, lead))
        return outlets

    def unregistered(self) -> None:
        """Note that the store has not counted this delivery: the next report begins with it."""
        # Later than the fence of any record that the store may have: this execution is not superseded, only unknown.
        self.report.fence = max(self.report.fence + 1, int(self.report.time() * 1_000_000))
        self.outbox.begin = self.begin

    def registered(self, fence: int) -> None:
        """Note that the store has counted this delivery, with a fence that it chose."""
        self.report.fence = fence
        self.outbox.begin = None
        self.asks_for_fence = False

    def forgotten(self) -> None:
        """Note that the store has no record of this job: it is to be registered anew, and told all that it can still be told."""
        # It came with its beginning, and yet is unknown: the fence cannot be had (a clock that lags behind).
        self.asks_for_fence = self.outbox.begin is not None
        self.unregistered()
        self._sent_progress, self._sent_checkpoint = (UNSET, None, None), None
        self.report.dirty = True

    def supersede(self, why: str) -> None:
        """Note that another delivery has the job, or that it was given up: the store takes nothing of this, and never will."""
        if self.superseded is None:
            self.superseded = why
            logger.warning("job %s (%s): %s; what this execution still reports, and its outcome, are refused", self.report.id,
                           self.report.name, why)  # fmt: skip

    def wants_renewal(self, now: float) -> bool:
        """Say whether its lease is to be renewed, or its silence to be looked at."""
        beating = self.report.beating
        if self.superseded is not None or not (beating or self.report.hold is not None):
            return False
        return now >= self.lease.due_at(beating=beating)

    def beats(self, now: float) -> bool:
        """Say whether the handler has said that it is alive, and the turn of that has come."""
        return self.report.beating and now >= self.lease.due_at(beating=True)

    def no_lease(self) -> None:
        """Note, once, that there is nothing to renew."""
        if not self._told_no_lease:
            self._told_no_lease = True
            logger.debug(
                "job %s: its message was acknowledged early (acks_late is off), was put back, or never came from a broker: "
                "a heartbeat is a sign of life and has no lease to extend", self.report.id,
            )  # fmt: skip

    def show(self, clock: Clock, showing: Showing) -> None:
        """Have progress written to the places besides the store whose turn it is."""
        for outlet in self.outlets:
            if self.superseded is None:
                outlet.show(clock, showing)

    def due_at(self, now: float) -> float | None:
        """Return when something is due by itself, None where nothing is."""
        due = []
        if self.superseded is None and (self.report.beating or self.report.hold is not None):
            due.append(self.lease.due_at(beating=self.report.beating))
        due += [at for outlet in self.outlets if (at := outlet.due_at(now)) is not None]
        return min(due, default=None)

    def _emit(self, target: logging.Logger, entries: Iterable[PlainEntry]) -> None:
        for entry in entries:
            if entry[4] is None and entry[0] < STATE:  # a captured record has been through logging already
                try:
                    emit(target, self.report.id, self.report.name, entry)
                except Exception:
                    logger.debug("a logging handler failed", exc_info=True)

    def _warn(self, mark: str) -> None:
        if not self._warned:
            self._warned = True
            done = "too large and was cut" if mark == "cut" else "not serialisable in a part, which is stored as its repr"
            logger.warning("job %s (%s): a progress value was %s", self.report.id, self.report.name, done)
