"""The context of a run in the kit: the real one, whose every report is noted, and which sleeps in virtual time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from taskora_celery.clock import seconds
from taskora_celery.context import Context
from taskora_celery.encoding import to_plain, unpack
from taskora_celery.interrupts import Interrupt
from taskora_celery.logs import JobLog, merged
from taskora_celery.progress import progress_value, tracked_total
from taskora_celery.records import LogEntry, level_name
from taskora_celery.redaction import Redactor
from taskora_celery.reporter.taking import plain_entry
from taskora_celery.settings import Settings
from taskora_celery.stopping import JobStop
from taskora_celery.testing.clock import VirtualClock
from taskora_celery.testing.course import Course, Notes
from taskora_celery.testing.signal import VirtualSignal

__all__ = ["InlineInterrupt", "RecordedContext"]

T = TypeVar("T")


class InlineInterrupt(Interrupt):
    """Raises in the handler's thread, out of the call in which the time came: a report, a sleep, ``advance``."""

    can = True

    def __init__(self) -> None:
        super().__init__()
        self._thread = 0

    def open(self) -> None:
        """Begin: the handler is about to be called, in this thread."""
        self._thread = threading.get_ident()
        super().open()

    def is_due(self) -> bool:
        """Say whether something is to be raised in this thread."""
        return self._pending is not None and not self._shields and self._thread == threading.get_ident()

    def arrive(self) -> None:
        """Raise what is due, in the handler's thread."""
        with self._lock:
            pending = self._pending if self._open and self.is_due() else None
            if pending is not None:
                self._pending = None
        if pending is not None:
            raise pending

    def _raise(self, exc: type[BaseException]) -> None:
        self._pending = exc


class RecordedLog(JobLog):
    """A job's log whose entries are reports that are noted."""

    __slots__ = ("_ctx",)

    def __init__(self, ctx: RecordedContext) -> None:
        super().__init__(ctx)
        self._ctx = ctx

    def info(self, message: str, meta: Any = None, **fields: Any) -> None:
        """Write an entry of level ``"info"``."""
        self.write(2, message, merged(meta, fields))

    def write(self, code: int, message: Any, meta: Any, logger: str | None = None, at: float | None = None) -> None:
        """Store an entry, and note it."""
        at = self._ctx.time() if at is None else at
        # Nothing is raised out of Python's logging, where a captured record comes from: it would be swallowed there.
        self._ctx.report(
            partial(super().write, code, message, meta, logger, at),
            lambda notes: self._ctx.note_entry(notes, (code, at, message, meta, logger)), raises=logger is None,
        )  # fmt: skip


class RecordedContext(Context):
    """A running job in the kit. Each report is sent before the call returns, and noted unless it is refused."""

    __slots__ = ("_redactor", "_settings", "course", "refused")

    def __init__(self, course: Course, redactor: Redactor, settings: Settings, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.course = course
        #: This execution counts no more.
        self.refused = False
        self._redactor = redactor
        self._settings = settings
        self.log = RecordedLog(self)
        self.signal = VirtualSignal(self)

    @property
    def runs(self) -> bool:
        """Whether the job has begun and not ended."""
        return self.on_touch is not None

    def supersede(self, message: str) -> None:
        """Fire the signal with ``"superseded"``, and note nothing more."""
        self.refused = True
        super().supersede(message)

    def retire(self) -> None:
        """Let go of the log; the kit looks at what stopped the job after its end."""
        control = self.control
        super().retire()
        self.control = control

    # --- what the handler says -----------------------------------------------------------------------------------------

    def heartbeat(self) -> None:
        """Say "I am alive", and note it."""
        self.report(super().heartbeat, _note_heartbeat)

    def progress(self, value: Any, total: float | None = None, message: str | None = None) -> None:
        """Report how far the job is, and note it as a reader sees it."""
        self.report(
            partial(super().progress, value, total, message),
            lambda notes: notes.progress.append(self._plain(progress_value(value, total, message))),
        )

    def track(
        self, iterable: Iterable[T], total: int | None = None, message: str | None = None, *, initial: int = 0
    ) -> Iterator[T]:
        """Yield the items, and report after each how many are done."""
        total, message = tracked_total(iterable, total, message, initial)
        done = initial
        for done, item in enumerate(iterable, initial + 1):
            yield item
            self.progress(done, total, message)
        if done == initial:
            self.progress(done, total, message)

    def checkpoint(self, value: Any) -> None:
        """Keep ``value`` for the next delivery or attempt, and note it."""
        self.report(
            partial(super().checkpoint, value), lambda notes: notes.checkpoints.append(unpack(self.said_checkpoint or b"\xc0"))
        )  # fmt: skip

    def sleep(self, duration: float | timedelta) -> None:
        """Sleep in virtual time. What is to happen at this report happens as it begins."""
        wanted = seconds(duration, "duration")
        self.report(_nothing, lambda notes: notes.sleeps.append(wanted))
        super().sleep(duration)

    def report(self, send: Callable[[], object], note: Callable[[Notes], object], *, raises: bool = True) -> None:
        """Make a report, note it unless it was refused, and let happen what is to happen at it."""
        if not self.runs:
            send()
            return
        step = self.course.begin_step()
        send()
        if not self.refused:
            note(self.course.notes)
        self.course.end_step(step, self)
        if raises:
            self.arrive()

    def note_entry(self, notes: Notes, entry: tuple[int, float, Any, Any, str | None]) -> None:
        """Note a log entry as a reader sees it."""
        code, ms, message, meta, logger = plain_entry(entry, self._redactor, self._settings.log_entry_bytes)
        notes.logs.append(LogEntry(level_name(code), message, ms, self.attempt, len(notes.logs), meta, logger))

    # --- time ----------------------------------------------------------------------------------------------------------

    @property
    def clock(self) -> VirtualClock:
        """The run's clock."""
        return self.course.clock

    def pass_time(self, duration: float) -> None:
        """Let virtual time pass, until the job should stop."""
        if not self.signal.aborted:
            self.course.clock.advance(duration, until=lambda: self.signal.aborted or self.is_interrupted())

    def work_for(self, duration: float) -> None:
        """Let virtual time pass as work does that looks at no signal: only an interruption ends it."""
        self.course.clock.advance(duration, until=self.is_interrupted)
        self.arrive()

    def is_interrupted(self) -> bool:
        """Say whether the handler is to be interrupted."""
        interrupt = self._interrupt()
        return interrupt is not None and interrupt.is_due()

    def arrive(self) -> None:
        """Raise in the handler what is to interrupt it."""
        interrupt = self._interrupt()
        if interrupt is not None:
            interrupt.arrive()

    def _interrupt(self) -> InlineInterrupt | None:
        interrupt = self.control.interrupt if isinstance(self.control, JobStop) else None
        return interrupt if isinstance(interrupt, InlineInterrupt) else None

    def _plain(self, value: Any) -> Any:
        return to_plain(value, self._redactor, self._settings.value_bytes).value


def _note_heartbeat(notes: Notes) -> None:
    notes.heartbeats += 1


def _nothing() -> None:
    """Send nothing: a sleep is no report to the store."""
