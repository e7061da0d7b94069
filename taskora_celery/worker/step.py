"""Where the keeper comes into the worker: it starts with it, and goes on through a warm shutdown."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from celery import bootsteps
from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.signals import worker_shutdown, worker_shutting_down
from celery.worker import state

from taskora_celery.lease.fence import FencedChannel
from taskora_celery.worker.holdings import unacknowledged
from taskora_celery.worker.keeper import Keeper
from taskora_celery.worker.request import FORGETS_AT_LOST_CONNECTIONS, JobRequest

__all__ = ["HandoverStep", "KeeperStep", "RecallStep"]

logger = logging.getLogger("taskora_celery.worker")


class KeeperStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Starts the keeper with the worker, and lets it go on through a warm shutdown.

    It requires the pool, so it is told to stop before the pool is, which then takes as long as its jobs do; the pool's end ends
    the thread.
    """

    requires: Sequence[str] = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._keeper: Keeper | None = None

    def start(self, parent: Any) -> None:
        """Start the keeper."""
        self._keeper = keeper = Keeper(parent)
        keeper.start()
        # Housekeeping only: the thread ends by itself when the pool has ended.
        worker_shutdown.connect(lambda **_: keeper.stop(), weak=False, dispatch_uid=f"taskora-keeper-{id(parent)}")

        # Sent by the handler of SIGTERM: a solo worker's step would learn of a shutdown only after its job, that of greenlets
        # seconds later. In prefork `close` comes within a second, and nobody must listen: Celery sends its signals under a plain
        # lock, so a SIGQUIT, which ends prefork's jobs, waits for itself for ever where it comes while SIGTERM's is being sent.
        if not issubclass(parent.pool_cls, PreforkPool):
            worker_shutting_down.connect(self._on_shutting_down, weak=False, dispatch_uid=f"taskora-shutdown-{id(parent)}")

    def _on_shutting_down(self, how: str = "", **_: Any) -> None:
        if how == "Warm" and self._keeper is not None:
            self._keeper.shut_down()

    def close(self, parent: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Tell the running jobs of a shutdown that no signal brought (``control shutdown``, a worker in a thread)."""
        if self._keeper is not None:
            self._keeper.shut_down()

    def stop(self, parent: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Begin the end: the pool drains, and its jobs are kept until the last has ended."""
        if self._keeper is not None:
            self._keeper.drain()

    def terminate(self, parent: Any) -> None:  # noqa: ARG002 - Celery's signature
        """End at once: what is held goes back."""
        if self._keeper is not None:
            self._keeper.stop()


class RecallStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Tells Celery 5.5's pool at each new connection to the broker which jobs it runs: it forgets them when one is lost."""

    requires: Sequence[str] = ("celery.worker.consumer.tasks:Tasks",)

    def include_if(self, parent: Any) -> bool:  # noqa: ARG002 - Celery's signature
        """Say whether the pool forgets."""
        return FORGETS_AT_LOST_CONNECTIONS

    def start(self, parent: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Tell it, before the worker's event loop hears of jobs that have ended meanwhile."""
        for request in tuple(state.active_requests):
            if isinstance(request, JobRequest):
                request.recall()


class HandoverStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Gives back at the worker's end what it still holds, each message through its fence.

    kombu does it when its channel is closed, but looks at no claim: it would take a message from the worker that has it by then.
    """

    requires: Sequence[str] = ("celery.worker.consumer.tasks:Tasks",)

    def shutdown(self, parent: Any) -> None:
        """Give back, while the channel is open and behind the pool's end; what is given back is not kombu's any more."""
        try:
            for _, message in unacknowledged(parent):
                if isinstance(message.channel, FencedChannel):
                    message.channel.put_back()
        except Exception as exc:  # noqa: BLE001 - any error of the driver: the worker is to end
            logger.warning("what is held cannot be given back: %s; it comes back when its lease runs out", exc)
