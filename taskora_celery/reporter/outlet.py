"""A place besides the store that shows a job's progress, and when it is its turn."""

from __future__ import annotations

from typing import Any

from taskora_celery.clock import Clock
from taskora_celery.reporter.decisions import Throttle
from taskora_celery.reporter.report import UNSET, ProgressSink
from taskora_celery.reporter.showing import Showing

__all__ = ["Outlet"]


class Outlet:
    """The latest value that a sink does not show yet, written at most every ``interval`` seconds."""

    __slots__ = ("_sink", "_throttle", "_value")

    def __init__(self, sink: ProgressSink, interval: float, lead: float) -> None:
        """``lead`` is the wait before the first, in seconds: a job that ends within it is not worth showing."""
        self._sink = sink
        self._throttle = Throttle(interval, lead=lead)
        self._value: Any = UNSET

    def offer(self, value: Any) -> None:
        """Show this when it is its turn."""
        self._value = value

    def due_at(self, now: float) -> float | None:
        """Return when that is, in monotonic seconds, None where there is nothing to show."""
        return None if self._value is UNSET else self._throttle.due_at(now)

    def show(self, clock: Clock, showing: Showing) -> None:
        """Have the value written if its turn has come."""
        due = self.due_at(clock.monotonic())
        if due is not None and clock.monotonic() >= due:
            value, self._value = self._value, UNSET
            showing.show(self._sink, value)
            self._throttle.done(clock.monotonic())
