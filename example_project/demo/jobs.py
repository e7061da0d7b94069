"""What the demo knows of its jobs, from the events of their handles."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskora_celery import JobHandle
    from taskora_celery.records import Event

__all__ = ["CHECKPOINT", "GOES_ON", "Feed", "JobView"]

#: What ``index_sources`` logs, at DEBUG, with each checkpoint, and where it goes on from one.
CHECKPOINT = "checkpoint"
GOES_ON = "going on from the checkpoint"


@dataclass(slots=True)
class JobView:
    """One job as it is shown. Changed by :meth:`apply` and :meth:`end` alone."""

    title: str
    handle: JobHandle
    #: A state of Celery, or LOST; PENDING until the job is heard of.
    state: str = "PENDING"
    attempt: int = 1
    delivery: int = 1
    #: The worker that has it, or had it last.
    worker: str = ""
    #: The last progress that was reported, None before.
    progress: Any = None
    #: What the job logged of its last checkpoint, None before.
    checkpoint: Mapping[str, Any] | None = None
    #: Why the last attempt was not the last.
    reason: str | None = None
    #: When the next attempt begins, in seconds since the epoch; None where none waits.
    next_at: float | None = None
    sent_at: float = field(default_factory=time.time)
    ended_at: float | None = None

    @property
    def ended(self) -> bool:
        """Whether the job has ended and all its events are here."""
        return self.ended_at is not None

    def apply(self, event: Event) -> None:
        """Take in one event of the job."""
        if event.kind == "progress":
            self.progress = event.data
        elif event.kind == "log":
            self._runs(event.data.attempt)
            if event.data.message == CHECKPOINT:
                self.checkpoint = event.data.meta
        elif event.kind == "state":
            self.state = event.data["state"]
            self.attempt = event.data.get("attempt") or self.attempt
            self.delivery = event.data.get("delivery") or self.delivery
            self.worker = event.data.get("worker") or self.worker
            self.reason = event.data.get("reason")
            next_ms = event.data.get("next_ms")
            self.next_at = next_ms / 1000 if next_ms else None

    def end(self, state: str) -> None:
        """Take in that there are no more events."""
        self.state, self.ended_at, self.next_at = state, time.time(), None

    def _runs(self, attempt: int) -> None:
        if self.state in {"PENDING", "LOST"} or attempt > self.attempt:
            self.state, self.attempt, self.next_at = "STARTED", attempt, None


class Feed:
    """Follows jobs, each in a daemon thread, and hands their events over in the order in which they come.

    The threads end with their jobs. One that fails hands its exception over instead; the demo ends then, they with it.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[JobView, Event | BaseException | None]] = SimpleQueue()

    def follow(self, view: JobView) -> None:
        """Begin to follow a job."""
        threading.Thread(target=self._run, args=(view,), name=f"follow-{view.title}", daemon=True).start()

    def take(self, timeout: float) -> list[tuple[JobView, Event | None]]:
        """Wait up to ``timeout`` seconds for events, and return all there are.

        None in place of an event says that the job has ended. Raises what a thread failed with.
        """
        taken: list[tuple[JobView, Event | None]] = []
        try:
            view, item = self._queue.get(timeout=timeout)
            while True:
                if isinstance(item, BaseException):
                    raise item
                taken.append((view, item))
                view, item = self._queue.get_nowait()
        except Empty:
            return taken

    def _run(self, view: JobView) -> None:
        try:
            for event in view.handle.events():
                self._queue.put((view, event))
        except Exception as exc:  # noqa: BLE001 - the thread's outer edge: the main thread raises it
            self._queue.put((view, exc))
        else:
            self._queue.put((view, None))
