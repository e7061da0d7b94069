"""How far a run has come, and what was reported in it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from taskora_celery.records import LogEntry
from taskora_celery.testing.clock import VirtualClock
from taskora_celery.testing.conditions import Conditions

if TYPE_CHECKING:
    from taskora_celery.testing.context import RecordedContext

__all__ = ["Course", "Notes"]


class Notes:
    """What the handler reported, in all attempts, as far as it counts: what is refused is not noted."""

    def __init__(self) -> None:
        self.progress: list[Any] = []
        self.logs: list[LogEntry] = []
        self.checkpoints: list[Any] = []
        self.heartbeats = 0
        #: Seconds of each ``ctx.sleep``, as asked for.
        self.sleeps: list[float] = []


class Course:
    """One run: its clock, the number of reports until now, and what happens at which. Threads of the handler may share it.

    It knows no app: a runtime holds it, and lives in a registry for as long as its app does.
    """

    def __init__(self, conditions: Conditions) -> None:
        self.clock = VirtualClock()
        self.conditions = conditions
        self.notes = Notes()
        self.steps = 0
        #: The job has ended: who looks now finds the store there.
        self.over = False
        self.contexts: list[RecordedContext] = []
        #: What is still to happen, by the option's name; called with the context that it happens to.
        self.pending: dict[str, Callable[[RecordedContext | None], object]] = {}
        self._moments = conditions.moments()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of all that knows an app: contexts, and what was to happen."""
        self.pending.clear()
        self.contexts.clear()

    def plan(self, name: str, action: Callable[[RecordedContext | None], object]) -> None:
        """Let something happen when its moment comes, if it is among the conditions."""
        moment = self._moments.get(name)
        if moment is None:
            return
        self.pending[name] = action
        if moment.after is not None:
            self.clock.call_in(moment.after, lambda: self._happen(name))

    def begin_step(self) -> int:
        """Count a report that is about to be made; return its number."""
        with self._lock:
            self.steps += 1
            return self.steps

    def end_step(self, step: int, ctx: RecordedContext) -> None:
        """Let happen what was to at this report, which has been made."""
        for name, moment in self._moments.items():
            if moment.step == step:
                self._happen(name, ctx)

    def before_the_first(self) -> None:
        """Let happen what was to before the job begins."""
        for name, moment in self._moments.items():
            if moment.step == 0:
                self._happen(name)

    def running(self) -> RecordedContext | None:
        """Return the context of the handler that was called last and has not ended."""
        return next((ctx for ctx in reversed(self.contexts) if ctx.runs), None)

    def unreached(self) -> list[tuple[str, str]]:
        """Return what was to happen and did not, with its moment."""
        return [(name, str(self._moments[name])) for name in self.pending]

    def store_is_down(self) -> bool:
        """Say whether the store does not answer now."""
        return not self.over and self.conditions.store_is_down(self.steps)

    def _happen(self, name: str, ctx: RecordedContext | None = None) -> None:
        ctx = ctx or self.running()
        if ctx is None and name != "cancel_at":
            return  # all but a cancel happens to a handler
        action = self.pending.pop(name, None)
        if action is not None:
            action(ctx)
