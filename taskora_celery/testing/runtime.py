"""A process's parts as the kit has them: no thread, virtual time, and each report sent before the call returns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from taskora_celery.background import Background
from taskora_celery.capture import install_capture
from taskora_celery.context import Context
from taskora_celery.lease.protocol import NO_LEASE
from taskora_celery.reporter.listener import Listener
from taskora_celery.reporter.report import JobReport
from taskora_celery.reporter.reporter import Reporter
from taskora_celery.reporter.showing import InlineShowing
from taskora_celery.runtime import Runtime
from taskora_celery.stopping import Stopper
from taskora_celery.store.protocol import Ended, Reply
from taskora_celery.testing.clock import VirtualClock
from taskora_celery.testing.context import InlineInterrupt, RecordedContext
from taskora_celery.testing.course import Course
from taskora_celery.testing.store import RemoteStore

__all__ = ["InlineReporter", "InlineStopper", "KitRuntime"]

#: What is due at once is done so many virtual seconds later: time goes on, whatever asks again and again.
_SOON = 0.001
#: So often is a store asked that is there again, at the end of a run.
_LAST_TURNS = 20


class InlineReporter(Reporter):
    """Takes its turns in the thread that reports, and when the virtual clock has come to what is due by itself."""

    def __init__(self, *args: Any, virtual: VirtualClock, **options: Any) -> None:
        super().__init__(*args, clock=virtual, showing=InlineShowing(), **options)
        self._virtual = virtual
        #: Threads that are in a turn: what their own work reports waits for the next.
        self._turning: set[int] = set()
        self._planned = 0

    def flush(self, report: JobReport, ended: Ended | None = None) -> Reply:
        """Write all that a job has said until now, and its end; see the base."""
        with self._quiet():
            return super().flush(report, ended)

    def settle(self) -> None:
        """Write what is left of ended jobs, when the store is there again; virtual time passes as it wants to be asked."""
        for _ in range(_LAST_TURNS):
            pause = self._pause()
            if pause is None:
                return
            self._virtual.advance(max(pause, _SOON))
            self._touched()

    def close(self) -> None:
        """Drop what could not be written: a store that is down at the end of a run stays down."""
        super().close()
        self._backlog.clear()
        self._live.clear()

    def _touched(self) -> None:
        if threading.get_ident() in self._turning:
            return
        with self._quiet():
            self._turn()
        self._plan()

    def _start(self) -> None:
        self._plan()

    def _plan(self) -> None:
        """Take the next turn when something is due by itself."""
        pause = self._pause()
        self._planned += 1
        if pause is not None:
            number = self._planned
            self._virtual.call_in(max(pause, _SOON), lambda: self._touched() if number == self._planned else None)

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        ident = threading.get_ident()
        outer = ident in self._turning
        self._turning.add(ident)
        try:
            yield
        finally:
            if not outer:
                self._turning.discard(ident)


class _Turns(Background):
    """Takes the turns of a thread in whatever thread wakes it, or lets virtual time pass."""

    def __init__(self, name: str, turn: Callable[[], float | None], clock: VirtualClock) -> None:
        super().__init__(name, turn)
        self._clock = clock
        self._inside = False

    def start(self) -> None:
        """Do nothing: there is no thread."""

    def wake(self) -> None:
        """Take the next turn now."""
        if self._inside:  # the turn that is under way does it
            return
        self._inside = True
        try:
            pause = self._turn()
        finally:
            self._inside = False
        if pause is not None:
            self._clock.call_in(pause, self.wake)

    def stop(self) -> None:
        """Do nothing."""


class InlineStopper(Stopper):
    """Does what is due when virtual time has come to it."""

    def __init__(self, before_kill: Callable[[Context], Any], clock: VirtualClock) -> None:
        self._virtual = clock
        super().__init__("default", before_kill, clock)

    def new_interrupt(self) -> InlineInterrupt:
        """Return an interruption that arrives in the handler's next call of the kit."""
        return InlineInterrupt()

    def _new_thread(self) -> Background:
        return _Turns("taskora-stopper", self._turn, self._virtual)


class KitRuntime(Runtime):
    """One app's parts during a run. It knows the course, and no app."""

    reporter: InlineReporter

    def __init__(self, app: Any, store: RemoteStore, course: Course) -> None:
        self._course = course
        super().__init__(app, store, course.clock)

    def prepare(self) -> None:
        """Capture logging as a worker does; there is no end of a process to be heard of."""
        install_capture(self.settings.capture_logging)

    def new_context(self, *args: Any, **options: Any) -> Context:
        """Return a context whose reports are noted."""
        ctx = RecordedContext(self._course, self.redactor, self.settings, *args, **options)
        self._course.contexts.append(ctx)
        return ctx

    def _new_reporter(self, app: Any) -> InlineReporter:  # noqa: ARG002 - the base asks it for the broker
        return InlineReporter(
            self.store, self.settings, self.redactor, open_lease=lambda: NO_LEASE, on_stopping=self._on_stopping,
            virtual=self._course.clock,
        )  # fmt: skip

    def _new_stopper(self) -> Stopper:
        return InlineStopper(self.reporter.flush, self._course.clock)

    def _new_listener(self) -> Listener | None:
        return None
