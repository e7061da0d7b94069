"""An app's queues as people see them: which there are, what waits in them, and who takes it. Pure functions of values."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from taskora_celery.inspecting import Round
from taskora_celery.lease.waiting import Waiting
from taskora_celery.tally import OTHER, unpack_count
from taskora_celery.workers import WorkerView

__all__ = ["QueueView", "queues_counted", "queues_named", "queues_seen", "worker_command"]

#: What the store counts of queues.
_QUEUE_WAIT = "queue_wait"


class QueueView(msgspec.Struct, frozen=True):
    """One queue at one moment; None where it is not known."""

    name: str
    #: Messages that wait at the broker.
    depth: int | None = None
    #: When the job that is taken next was created, in milliseconds since the epoch.
    oldest_ms: int | None = None
    #: Workers that take from it; on RabbitMQ whoever does.
    consumers: int | None = None
    #: The workers among them that are known by name.
    workers: tuple[str, ...] = ()

    @property
    def unserved(self) -> bool:
        """Whether messages wait, and nobody will take them: the one thing that is worth a warning."""
        return bool(self.depth) and self.consumers == 0


def queues_named(app: Any) -> set[str]:
    """Return the queues that an app's configuration and its tasks name; where a function routes, its queues are not known.

    The app's task modules should have been imported.
    """
    names = {str(name) for name in app.amqp.queues}
    names.update(str(task.queue) for task in app.tasks.values() if getattr(task, "queue", None))
    names.update(_routed(app.conf.task_routes))
    return names


def _routed(routes: Any) -> Iterator[str]:
    """Yield the queues in Celery's ``task_routes``: a mapping, a pair of a pattern and a route, or a list of those."""
    if isinstance(routes, Mapping):
        for route in routes.values():
            queue = route.get("queue") if isinstance(route, Mapping) else route
            name = getattr(queue, "name", queue)
            if isinstance(name, str):
                yield name
    elif isinstance(routes, tuple) and len(routes) == 2 and isinstance(routes[0], str):  # noqa: PLR2004 - a pair
        yield from _routed(dict([routes]))
    elif isinstance(routes, (list, tuple)):
        for part in routes:
            yield from _routed(part)


def queues_counted(counts: Mapping[str, int]) -> set[str]:
    """Return the queues in which jobs have waited, by the store's counts."""
    found = (unpack_count(name) for name in counts)
    return {count.open[0] for count in found if count.metric == _QUEUE_WAIT and count.open} - {OTHER}


def queues_seen(found: Round, workers: Sequence[WorkerView]) -> list[QueueView]:
    """Return the queues of a round: those that nobody serves first, then the longest; ``workers`` are those that are seen now.

    Where workers could not be asked, or one that lives has not said what it takes, a queue without a known consumer may have one:
    then nothing is said of its consumers.
    """
    live = [worker for worker in workers if worker.live]
    complete = found.workers_error is None and all(worker.queues is not None for worker in live)
    views = [
        _seen(name, known, [worker.name for worker in live if name in (worker.queues or ())], complete=complete)
        for name, known in found.waiting.items()
    ]
    return sorted(views, key=lambda view: (not view.unserved, -(view.depth or 0), view.name))


def _seen(name: str, known: Waiting, takers: Iterable[str], *, complete: bool) -> QueueView:
    names = tuple(sorted(takers))
    counted = len(names) if names or complete else None
    consumers = counted if known.consumers is None else known.consumers
    return QueueView(name, known.depth, known.oldest_ms, consumers, names)


def worker_command(app_name: str, queue: str | None = None) -> str:
    """Return the command that starts a worker, for a queue or for those of the app's configuration, as a shell takes it."""
    command = f"celery -A {shlex.quote(app_name)} worker"
    return command if queue is None else f"{command} -Q {shlex.quote(queue)}"
