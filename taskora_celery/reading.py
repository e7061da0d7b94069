"""The one reader of job records: the handle, and every face, see a job through it.

What a snapshot means is decided by pure functions and one small state machine; the synchronous and the asynchronous readers
only fetch and wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec

from taskora_celery.backoff import outage_pause
from taskora_celery.clock import seconds
from taskora_celery.encoding import unpack
from taskora_celery.errors import JobNotFoundError, StoreUnavailableError
from taskora_celery.records import AttemptRecord, Event, JobStatus, LogEntry, Outcome, level_code
from taskora_celery.store.journal import decode, decode_logs
from taskora_celery.store.protocol import JobStore, Snapshot

__all__ = [
    "Follower",
    "JobBrief",
    "JobReader",
    "brief_of",
    "check_filters",
    "check_whole",
    "checked_id",
    "checked_timeout",
    "history_of",
    "logs_of",
    "progress_of",
    "status_of",
]

#: A follower looks again after so many seconds even if nothing was announced: an announcement can be lost.
LOOK_EVERY = 2.0
#: After the result backend says that a job is over, its record has so many seconds to say so, too.
END_GRACE = 0.5


#: The mark of a progress that cannot be read.
UNREADABLE = "unreadable"


def progress_of(snapshot: Snapshot | None) -> tuple[Any, int | None, str | None]:
    """Return a job's progress: the value, its instant, its mark; ``(None, None, None)`` where there is none."""
    packed = None if snapshot is None else snapshot.fields.get("p")
    if packed is None:
        return None, None, None
    try:
        value, at_ms, mark = unpack(packed)
    except (ValueError, TypeError):
        at_ms = mark = UNREADABLE
    if type(at_ms) is not int or not (mark is None or type(mark) is str):
        return None, None, UNREADABLE  # another version's, or damaged: not to be shown as something it is not
    return value, at_ms, mark


def logs_of(
    snapshot: Snapshot | None,
    keep: int,
    *,
    level: str | None,
    attempt: int | None,
    after: int | None,
    limit: int | None,
) -> list[LogEntry]:
    """Return the newest ``keep`` log entries of a journal that pass the filters, the newest ``limit`` of those."""
    entries = [] if snapshot is None else decode_logs(snapshot.journal)[-keep:]
    return chosen(entries, level=level, attempt=attempt, after=after, limit=limit)


def chosen(
    entries: list[LogEntry], *, level: str | None, attempt: int | None, after: int | None, limit: int | None
) -> list[LogEntry]:
    """Return the entries that pass the filters, the newest ``limit`` of those; errors are those of :func:`check_filters`."""
    check_filters(level=level, attempt=attempt, after=after, limit=limit)
    if level is not None:
        floor = level_code(level)
        entries = [entry for entry in entries if level_code(entry.level) >= floor]
    if attempt is not None:
        entries = [entry for entry in entries if entry.attempt == attempt]
    if after is not None:
        entries = [entry for entry in entries if entry.seq > after]
    return entries if limit is None else entries[len(entries) - limit :] if limit < len(entries) else entries


def check_filters(*, level: str | None, attempt: int | None, after: int | None, limit: int | None) -> None:
    """Refuse what cannot be a filter, before anything is read.

    :raises TypeError: ``attempt``, ``after`` or ``limit`` is no whole number.
    :raises ValueError: ``level`` is no level, or ``limit`` is negative.
    """
    if level is not None:
        level_code(level)
    check_whole(attempt=attempt, after=after, limit=limit)
    if limit is not None and limit < 0:
        raise ValueError(f"limit={limit!r} is negative: give 0 or more entries")


def check_whole(**numbers: int | None) -> None:
    """Refuse texts, say, where a number or None is expected: a query string holds nothing else.

    :raises TypeError: one of them is no whole number.
    """
    for name, value in numbers.items():
        if value is not None and not hasattr(value, "__index__"):
            raise TypeError(f"{name}={value!r} is not a whole number")


def status_of(job_id: str, snapshot: Snapshot | None, keep: int) -> JobStatus:
    """Return a job's record.

    :raises JobNotFoundError: there is none.
    """
    if snapshot is None:
        raise JobNotFoundError(job_id)
    fields = snapshot.fields
    value, at_ms, mark = progress_of(snapshot)
    written = fields.get("t", 0)
    return JobStatus(
        job_id, fields.get("n", ""), fields.get("s", "PENDING"), fields.get("a", 1), fields.get("d", 1), fields.get("w", ""),
        fields.get("c", 0), fields.get("b", 0), fields.get("h", 0), fields.get("e"), value, at_ms, mark,
        fields.get("r"), fields.get("z"), written, max(written - min(fields.get("m", 0), keep), 0),
        fields.get("x", 0), fields.get("y", 0), fields.get("T"),
    )  # fmt: skip


class JobBrief(msgspec.Struct, frozen=True):
    """How a job stands, whatever it has to say. Instants are in milliseconds since the epoch."""

    id: str
    name: str
    #: A Celery state, or ``LOST``, as in :class:`~taskora_celery.records.JobStatus`.
    state: str
    worker: str
    #: The last sign of life.
    alive_ms: int
    #: When its last attempt ended; None where none has.
    ended_ms: int | None = None
    #: Why its last attempt ended as it did, and the class of the exception.
    reason: str | None = None
    error: str | None = None


def brief_of(job_id: str, snapshot: Snapshot) -> JobBrief:
    """Return how a job stands; the snapshot may be one that was read ``brief``."""
    fields = snapshot.fields
    return JobBrief(
        job_id, fields.get("n", ""), fields.get("s", "PENDING"), fields.get("w", ""), fields.get("h", 0), fields.get("e"),
        fields.get("r"), fields.get("z"),
    )  # fmt: skip


def last_words(snapshot: Snapshot | None, entries: int = 5) -> tuple[Any, tuple[str, ...]]:
    """Return a job's last progress, and the texts of its last log entries, oldest first."""
    if snapshot is None:
        return None, ()
    logs = decode_logs(snapshot.journal)[-entries:]
    return progress_of(snapshot)[0], tuple(f"{entry.level}: {entry.message}" for entry in logs)


def history_of(snapshot: Snapshot | None) -> list[AttemptRecord]:
    """Return the earlier attempts and lost deliveries, and the one of now where it is not among them."""
    if snapshot is None:
        return []
    fields, records = snapshot.fields, list(snapshot.attempts)
    number, delivery = fields.get("a", 1), fields.get("d", 1)
    if any(record.number == number and record.delivery == delivery for record in records):
        return records
    started, ended = fields.get("b", 0), fields.get("e")
    duration = None if ended is None or not started else round((ended - started) / 1000, 3)
    outcome = None if ended is None else fields.get("s")
    records.append(
        AttemptRecord(number, delivery, fields.get("w", ""), started, outcome, duration, fields.get("r"), fields.get("z"))
    )  # fmt: skip
    return records


def checked_id(job_id: object) -> str:
    """Return a job's id as the text that it is; a ``UUID`` is accepted, as Celery accepts it where it sends a task.

    :raises TypeError: it is something else.
    """
    if isinstance(job_id, str | UUID):
        return str(job_id)
    way = "id.decode()" if isinstance(job_id, bytes) else "str(id)"
    raise TypeError(f"{job_id!r} is not a job's id, which is a text: pass {way}")


def checked_timeout(timeout: float | timedelta | None) -> float | None:
    """Return the seconds for which a follower waits without a word of its job, None for ever.

    :raises TypeError: ``timeout`` is no duration.
    :raises ValueError: it is negative or not finite.
    """
    return None if timeout is None else seconds(timeout, "timeout")


class Follower:
    """Turns one snapshot after another into the events that are new. Not shared between threads."""

    def __init__(self, after: int | None = None) -> None:
        #: The number of batches to skip in the next read.
        self.skip = 0
        self.over = False
        self._last = -1 if after is None else after
        self._progress: bytes | None = None
        self._run: tuple[int, int] | None = None

    def feed(self, snapshot: Snapshot | None) -> list[Event]:
        """Return what is new in a snapshot that was read with :attr:`skip`."""
        if snapshot is None:
            return []
        fields, events = snapshot.fields, []
        if fields.get("q", 0) <= self._last and self.skip > snapshot.removed:
            self._last, self.skip = -1, 0  # the same id was sent anew: its journal begins again
            return []
        journal = decode(snapshot.journal, self._last)
        run, started = (fields.get("a", 1), fields.get("d", 1)), fields.get("b", 0)
        if run != self._run and started:
            # What was written before this delivery began comes first: how the one before ended. The first of all events says
            # where the job is, whatever came before.
            before = 0 if self._run is None else sum(1 for event in journal if event.timestamp < started)
            events += journal[:before]
            self._last = journal[before - 1].seq if before else self._last
            events.append(self._state(fields, "STARTED", started))
            self._run, journal = run, journal[before:]
        events += journal
        if journal:
            self._last = journal[-1].seq
        # What was read begins after what was skipped, or where the journal does by now.
        self.skip = max(self.skip, snapshot.removed) + len(snapshot.journal)
        packed = fields.get("p")
        if packed != self._progress:
            self._progress = packed
            value, at_ms, _ = progress_of(snapshot)
            events.append(Event("progress", self._last, at_ms or 0, value))
        if fields.get("s") in Outcome.FINAL:
            self.over = True
            events.append(self._state(fields, fields["s"], fields.get("e", 0)))
        return events

    def _state(self, fields: dict[str, Any], state: str, at_ms: int) -> Event:
        data = {
            "state": state,
            "attempt": fields.get("a", 1),
            "delivery": fields.get("d", 1),
            "worker": fields.get("w", ""),
        }
        if state in Outcome.FINAL:
            data.update({name: fields[key] for name, key in (("reason", "r"), ("error", "z")) if key in fields})
        return Event("state", self._last, at_ms, data)


class JobReader:
    """Reads one job from a store."""

    __slots__ = ("_id", "_keep", "_store")

    def __init__(self, store: JobStore, job_id: str, keep: int) -> None:
        """``keep`` is the number of newest log entries that count as kept."""
        self._store = store
        self._id = job_id
        self._keep = keep

    def progress(self) -> Any:
        """Return the last progress value, or None."""
        return progress_of(self._store.read(self._id))[0]

    def logs(self, **filters: Any) -> list[LogEntry]:
        """Return log entries; the filters are those of :func:`logs_of`."""
        check_filters(**filters)
        return logs_of(self._store.read(self._id, 0), self._keep, **filters)

    def status(self) -> JobStatus:
        """Return the record, or raise ``JobNotFoundError``."""
        return status_of(self._id, self._store.read(self._id), self._keep)

    def history(self) -> list[AttemptRecord]:
        """Return the attempts."""
        return history_of(self._store.read(self._id, attempts=True))

    def follow(
        self, *, after: int | None, timeout: float | None, ready: Callable[[], bool], expected: bool = True
    ) -> Iterator[Event]:
        """Yield events until the job ends; ``expected`` says that a job without a record will start.

        :raises JobNotFoundError: there is no record, and none is expected.
        :raises TimeoutError: nothing came for ``timeout`` seconds.
        """
        follower, patience, failures = Follower(after), Patience(timeout), 0
        while not follower.over:
            try:
                for events in self._watched(follower, patience, ready, expected):
                    failures = 0
                    yield from events
            except StoreUnavailableError:
                failures += 1
                patience.check(self._id)
                if patience.gave_up(ready):
                    return
                time.sleep(outage_pause(failures))
            else:
                return

    def _watched(
        self, follower: Follower, patience: Patience, ready: Callable[[], bool], expected: bool
    ) -> Iterator[list[Event]]:
        with self._store.watch([self._id]) as watch:
            while True:
                snapshot = self._store.read(self._id, follower.skip)
                if snapshot is None and not expected:
                    raise JobNotFoundError(self._id)
                events = follower.feed(snapshot)
                if events:
                    patience.renew()
                    yield events
                if follower.over or patience.gave_up(ready):
                    return
                if not watch.wait(patience.wait()):
                    patience.check(self._id)


class Patience:
    """How long a follower waits: for the next event, and for the record of a job that the backend says is over."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._since = self._looked = time.monotonic()
        self._over_at: float | None = None

    def renew(self) -> None:
        """Note that something came."""
        self._since = time.monotonic()

    def wait(self) -> float:
        """Return the seconds to wait for an announcement."""
        left = LOOK_EVERY if self._over_at is None else END_GRACE / 5
        return left if self._timeout is None else max(min(left, self._since + self._timeout - time.monotonic()), 0.01)

    def check(self, job_id: str) -> None:
        """Raise ``TimeoutError`` when nothing came for too long."""
        if self._timeout is not None and time.monotonic() - self._since >= self._timeout:
            raise TimeoutError(f"nothing was heard of job {job_id} for {self._timeout:g} s; it is not stopped by this")

    def asks(self) -> bool:
        """Say whether to ask the result backend whether the job is over: at most every ``LOOK_EVERY`` seconds."""
        now = time.monotonic()
        if self._over_at is None and now - self._looked >= LOOK_EVERY:
            self._looked = now
            return True
        return False

    def is_over(self) -> None:
        """Note that the result backend says that the job is over."""
        self._over_at = time.monotonic()

    def gave_up(self, ready: Callable[[], bool]) -> bool:
        """Say whether a job that is over will have nothing more to read."""
        if self.asks() and ready():
            self.is_over()
        return self.is_past_grace()

    def is_past_grace(self) -> bool:
        """Say whether the record had its time to show the end that the backend shows."""
        return self._over_at is not None and time.monotonic() - self._over_at > END_GRACE
