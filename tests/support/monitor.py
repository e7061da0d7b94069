"""A monitor: what a worker's events tell, put together as Flower does it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from celery.events.state import State

from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from celery import Celery
    from typing_extensions import Self


class Seen(NamedTuple):
    """One event of a job, and the job's state in the monitor behind it."""

    event: dict[str, Any]
    state: str
    result: Any

    @property
    def type(self) -> str:
        """Celery's word for what happened."""
        return str(self.event["type"])


class Monitor:
    """Hears all events of an app's broker from `__enter__` on, and asks its workers for them, unless ``asks`` is false."""

    def __init__(self, app: Celery, *, asks: bool = True) -> None:
        self._app = app
        self._asks = asks
        self._seen: list[tuple[str, Seen]] = []
        self._state = State()
        self._listening = threading.Event()
        self._connection = app.connection_for_read()
        self._receiver = app.events.Receiver(self._connection, handlers={"*": self._on_event})
        self._thread = threading.Thread(target=self._capture, daemon=True)

    def __enter__(self) -> Self:
        if self._asks:
            assert self._app.control.enable_events(reply=True, timeout=5, limit=1)
        self._thread.start()
        # It asks for a sign of life as soon as it listens: with the answer it has begun.
        assert self._listening.wait(20), "no worker was heard"
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._asks:
            self._app.control.disable_events(reply=True, timeout=5, limit=1)
        self._receiver.should_stop = True  # within a second

    def _capture(self) -> None:
        with self._connection:
            self._receiver.capture(limit=None, timeout=None, wakeup=True)

    def _on_event(self, event: dict[str, Any]) -> None:
        told = dict(event)  # the state puts more into it
        self._state.event(event)
        if told["type"].startswith("task-"):
            task = self._state.tasks[told["uuid"]]
            self._seen.append((told["uuid"], Seen(told, task.state, task.result)))
        self._listening.set()

    def task(self, job_id: str) -> Any:
        """Celery's `Task` of a job, as the monitor has it now."""
        return self._state.tasks.get(job_id)

    def seen(self, job_id: str, kind: str | None = None) -> list[Seen]:
        """What was heard of a job, of one type or all."""
        return [seen for uuid, seen in list(self._seen) if uuid == job_id and kind in {None, seen.type}]

    def wait_for(self, job_id: str, kind: str, number: int = 1, timeout: float = 20.0) -> Seen:
        """Wait for the nth event of a type, and return it."""
        wait_until(lambda: len(self.seen(job_id, kind)) >= number, f"event {number} of type {kind} of job {job_id}", timeout)
        return self.seen(job_id, kind)[number - 1]
