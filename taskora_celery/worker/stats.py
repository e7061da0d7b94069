"""What a worker says of itself, as the part ``taskora`` of ``celery inspect stats``."""

from __future__ import annotations

import time
from typing import Any

from celery import bootsteps
from celery.worker import state as worker_state

from taskora_celery._version import __version__
from taskora_celery.about import package_versions, recovery_in
from taskora_celery.errors import SettingsError
from taskora_celery.worker.watching import sends_task_events

__all__ = ["StatsStep"]


class StatsStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Adds what this library says of a worker to the worker's answer to ``inspect stats``, by Celery's own hook for steps."""

    def info(self, parent: Any) -> dict[str, Any]:
        """Return what is added; called by the worker's main thread for each question."""
        return {"taskora": about(parent)}


def about(worker: Any) -> dict[str, Any]:
    """Return the library's version, the clock, and what else ``jobs doctor`` compares and the board shows; plain data, no I/O."""
    try:
        recovery = recovery_in(worker.app)
    except SettingsError:
        recovery = None
    dispatcher = getattr(worker.consumer, "event_dispatcher", None)
    return {
        "version": __version__,
        "packages": package_versions(),
        "clock": time.time(),
        "events": None if dispatcher is None else sends_task_events(dispatcher),
        "visibility_timeout": None if recovery is None else recovery.visibility_timeout,
        "active": len(worker_state.active_requests),
        "queues": _consumed(worker.consumer),
    }


def _consumed(consumer: Any) -> list[str]:
    """Return the names of the queues that a worker's consumer has messages delivered from; none before it has begun."""
    consumes = getattr(consumer, "task_consumer", None)
    return [] if consumes is None else [str(queue.name) for queue in consumes.queues]
