"""The course of ``--cancel``: a job is cancelled in the middle of its work, and nothing is left of that."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from example_project.demo.panel import event_line, line, number
from example_project.demo.stop import DemoError

if TYPE_CHECKING:
    from pathlib import Path

    from example_project.demo.jobs import JobView
    from example_project.demo.terminal import Screen
    from taskora_celery.records import Event

__all__ = ["CANCEL_AT", "REASON", "Cancellation"]

#: So far, in percent, the job is when it is cancelled.
CANCEL_AT = 30.0
REASON = "not needed any more"
_PHASES = {
    "requested": "the request is stored",
    "delivered": "ctx.signal has fired in the worker; the process that the job waits for gets SIGTERM",
    "interrupted": "the handler did not stop: an exception is raised in it",
    "killed": "the handler did not stop: its process is ended",
}


class Cancellation:
    """Cancels one job, once, and says what it sees of that; ``partial`` is the file that the job writes."""

    def __init__(self, screen: Screen, view: JobView, partial: Path) -> None:
        self._screen = screen
        self._view = view
        self._partial = partial
        #: When the job was cancelled, in seconds since the epoch; None before.
        self.cancelled_at: float | None = None
        #: The file's size at that moment.
        self.size = 0
        self.phases: list[str] = []

    def turn(self) -> list[str]:
        """Cancel the job if the moment has come; return the lines about it.

        :raises DemoError: the job ended before that.
        """
        view = self._view
        if self.cancelled_at is not None:
            return []
        if view.ended:
            raise DemoError(f"{view.title} ended before it could be cancelled: give it more to pack, with --root.")
        if view.progress is None or view.progress["percent"] < CANCEL_AT or not self._partial.exists():
            return []
        self.size, self.cancelled_at = self._partial.stat().st_size, time.time()
        receipt = view.handle.cancel(REASON)
        text = f'handle.cancel("{REASON}") -> "{receipt.outcome}"; {self._partial.name} has {number(self.size)} bytes by now'
        return [line(self._screen, view, int(self.cancelled_at * 1000), "CANCEL", text, "red")]

    def event_line(self, event: Event) -> str | None:
        """Return the line for an event of the job; those of the cancel tell when they came."""
        if event.kind != "cancel":
            return event_line(self._screen, self._view, event)
        phase = event.data["phase"]
        self.phases.append(phase)
        after = max(event.timestamp - int((self.cancelled_at or 0.0) * 1000), 0)
        return line(self._screen, self._view, event.timestamp, "", f"{phase}, after {after} ms: {_PHASES[phase]}", "yellow")

    def rows(self, width: int) -> list[str]:
        """Return the panel's lines about the file, its name filled to a width."""
        return [f"  {self._screen.style('on disk'.ljust(width), 'bold')} {self._now()}"]

    def brief(self) -> str:
        """Return the same in a part of a line."""
        return self._now()

    def table(self) -> dict[str, str]:
        """Return what came of it."""
        exc = self._view.handle.get(timeout=10, propagate=False)
        took = (self._view.ended_at or 0.0) - (self.cancelled_at or 0.0)
        return {
            "state": self._view.state,
            "handle.get()": f"raises {type(exc).__name__}, reason {getattr(exc, 'reason', None)!r}",
            "went through": f"{', '.join(self.phases)}, on_cancel; all within {took * 1000:.0f} ms",
            "on disk": f"{self._now()}; it had {number(self.size)} bytes",
        }

    def _now(self) -> str:
        if not self._partial.exists():
            return f"no {self._partial.name}"
        return f"{self._partial.name}, {number(self._partial.stat().st_size)} bytes"
