"""``celery control revoke``, ``app.control.revoke`` and Flower's Revoke reach the job's own record (rule G8)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from celery import bootsteps
from celery.worker import state as worker_state

from taskora_celery.cancelling import request_of
from taskora_celery.errors import StoreUnavailableError
from taskora_celery.runtime import Runtime
from taskora_celery.worker.holdings import copied

__all__ = ["RevokeStep", "mailbox_of"]

logger = logging.getLogger("taskora_celery.worker")

REASON = "revoked"


class RevokeStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Lets this worker's remote control do more than Celery's ``revoke`` does, which forgets when the worker ends.

    Celery's command is called first, and its answer is the answer. The handlers are this worker's own copy of Celery's table:
    nothing of Celery is changed. A queued job is dropped for good, by every worker, also one that starts later. One that runs has
    its signal fired, and no more: a plain revoke never interrupted a running task; where its handler takes no context, its end is
    its own. ``terminate`` keeps Celery's meaning.
    """

    requires = ("celery.worker.consumer.control:Control",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._ours: Callable[..., Any] | None = None

    def start(self, parent: Any) -> None:
        """Put our command before Celery's, in the table of this worker's mailbox, once: it outlives a lost connection."""
        node = mailbox_of(parent)
        if node is None:  # a broker without broadcasts (SQS), or remote control is off: JobHandle.cancel needs neither
            return
        revoke = node.handlers.get("revoke")
        if revoke is not None and revoke is not self._ours:
            self._ours = _remembering(parent.app, revoke)
            node.handlers = {**node.handlers, "revoke": self._ours}


def mailbox_of(consumer: Any) -> Any:
    """Return the mailbox that takes this worker's remote control, None where it has none."""
    for step in consumer.blueprint.order:
        box = getattr(step, "box", None)
        if box is not None and hasattr(box, "node"):
            return box.node
    return None


def _remembering(app: Any, revoke: Callable[..., Any]) -> Callable[..., Any]:
    def revoke_and_remember(state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **kwargs: Any) -> Any:
        answer = revoke(state, task_id, terminate=terminate, signal=signal, **kwargs)
        ids = [task_id] if isinstance(task_id, str) else list(task_id or ())
        remember(app, ids, terminate=terminate)
        return answer

    return revoke_and_remember


def remember(app: Any, ids: Iterable[str], *, terminate: bool = False) -> None:
    """Store requests to cancel these jobs, gently; never raises for the store.

    Every worker hears the command and does this; it is the same request each time. Other tasks than ours have no record, and a
    stored request that no message of ours meets expires.
    """
    store = Runtime.of(app).store
    if store is None:
        return
    running = {request.id for request in copied(lambda: worker_state.active_requests)}
    try:
        for job_id in ids:
            if terminate and job_id in running:
                continue  # Celery ends its process, and on_failure writes what became of it
            store.cancel(request_of(app, job_id, REASON, None, gently=True, by="celery revoke"), queued=True)
    except StoreUnavailableError as exc:
        logger.warning("a revoke could not be remembered (%s): it holds until this worker ends", exc)
