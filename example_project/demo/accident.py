"""The accident of ``--kill``: the worker that runs a job is killed in the middle of it, and another one goes on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from example_project.demo.jobs import GOES_ON
from example_project.demo.panel import event_line, line, number
from example_project.demo.stop import DemoError
from example_project.demo.terminal import clean, pad

if TYPE_CHECKING:
    from collections.abc import Sequence

    from example_project.demo.jobs import JobView
    from example_project.demo.terminal import Screen
    from example_project.demo.worker import Worker
    from taskora_celery.records import Event

__all__ = ["Accident"]

#: So far, in percent, the job is when its worker is killed; it has a checkpoint then, or the accident waits for one.
KILL_AT = 40.0


class Accident:
    """Kills the worker of one job, once, and says what it sees of that."""

    def __init__(self, screen: Screen, view: JobView, workers: Sequence[Worker]) -> None:
        self._screen = screen
        self._view = view
        self._workers = workers
        self._killed_at: float | None = None

    def turn(self) -> list[str]:
        """Kill the worker if the moment has come; return the lines about it.

        :raises DemoError: the job ended before that, or somebody else's worker has it.
        """
        view = self._view
        if self._killed_at is not None:
            return []
        if view.ended:
            raise DemoError(f"{view.title} ended before its worker could be killed: give it more to read, with --root.")
        if view.checkpoint is None or view.progress is None or view.progress["percent"] < KILL_AT:
            return []
        record = view.handle.record()
        worker = self._worker_named(record.worker)
        worker.kill()
        self._killed_at = worker.killed_at or 0.0
        progress, saved = record.progress, view.checkpoint
        text = (
            f"{worker.name}, which runs it, is killed with its processes at {_where(progress['current'], progress['total'])}, "
            f"last checkpoint {_where(saved['files'], saved['of'])}, {clean(saved['path'])}"
        )
        return [line(self._screen, view, int(self._killed_at * 1000), "KILL", text, "red")]

    def event_line(self, event: Event) -> str | None:
        """Return the line for an event of the job; the one in which it goes on tells how long that took."""
        if self._killed_at is None or event.kind != "log" or event.data.message != GOES_ON:
            return event_line(self._screen, self._view, event)
        view, saved = self._view, event.data.meta
        text = (
            f"{event.timestamp / 1000 - self._killed_at:.1f} s after the kill {view.worker} has it (delivery {view.delivery}) "
            f"and goes on from the checkpoint: {_where(saved['files'], saved['of'])}, behind {clean(saved['path'])}"
        )
        return line(self._screen, view, event.timestamp, "AGAIN", text, "green")

    def rows(self, width: int) -> list[str]:
        """Return the panel's lines about the workers, their names filled to a width."""
        return [f"  {self._screen.style(pad(str(worker.name), width), 'bold')} {self._now(worker)}" for worker in self._workers]

    def brief(self) -> str:
        """Return the same in a part of a line."""
        return " | ".join(f"{worker.name}: {self._now(worker)}" for worker in self._workers)

    def _now(self, worker: Worker) -> str:
        view = self._view
        if worker.killed_at is not None:
            return self._screen.style(f"killed {time.time() - worker.killed_at:.0f} s ago", "red")
        if view.ended or view.state == "PENDING":
            return self._screen.style("has nothing to do", "dim")
        if view.worker == worker.name:
            return f"runs {view.title}, delivery {view.delivery}"
        if self._killed_at is not None:
            return self._screen.style(f"waits until {view.title} counts as lost", "yellow")
        return self._screen.style("has nothing to do", "dim")

    def _worker_named(self, name: str) -> Worker:
        for worker in self._workers:
            if worker.name == name:
                return worker
        raise DemoError(f"{self._view.title} is run by {name}, which is not the demo's to kill: end it, or unset REDIS_URL.")


def _where(files: int, of: int) -> str:
    return f"{files / of:.1%} ({number(files)} of {number(of)} files)".replace("%", " %", 1)
