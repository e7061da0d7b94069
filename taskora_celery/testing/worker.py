"""A worker's way with one message, without a worker: Celery's own tracer calls the task, and says what became of it."""

from __future__ import annotations

from contextvars import copy_context
from typing import Any

from celery import states
from celery.app.trace import build_tracer
from celery.exceptions import Reject

from taskora_celery.context import activate
from taskora_celery.outcomes import Cancelled, fail_unstored, is_unstored
from taskora_celery.runtime import Runtime
from taskora_celery.testing.app import StandInApp
from taskora_celery.testing.outlet import Message

__all__ = ["Delivered", "KitWorker"]


class Delivered:
    """What became of one delivery, as Celery's tracer has it."""

    __slots__ = ("requeued", "state", "value")

    def __init__(self, state: str, value: Any, *, requeued: bool = False) -> None:
        self.state = state
        #: The result, or the exception.
        self.value = value
        #: The message is to be delivered again.
        self.requeued = requeued


class KitWorker:
    """Runs the messages of one task, one delivery after the other."""

    def __init__(self, app: StandInApp, original: Any) -> None:
        self._app = app
        self._loader = original.loader
        #: Counts the workers that had the job: after a shutdown or a lost lease another one gets it.
        self.number = 1
        self.deliveries = 0

    @property
    def name(self) -> str:
        """The worker's node name."""
        return f"worker-{self.number}@test"

    def deliver(self, task: Any, message: Message) -> Delivered:
        """Run one delivery as ``celery.worker`` does: what is in the message becomes the request."""
        self.deliveries += 1
        args, kwargs, embedded = message.body(self._app.conf.accept_content)
        properties = message.properties
        delivery_info = {**properties["delivery_info"], "redelivered": message.redelivered}
        request = {
            **message.headers, **(embedded or {}), "args": args, "kwargs": kwargs, "is_eager": False, "hostname": self.name,
            "properties": {**properties, "delivery_info": delivery_info}, "delivery_info": delivery_info,
            "reply_to": properties["reply_to"], "correlation_id": properties["correlation_id"],
        }  # fmt: skip
        trace = build_tracer(task.name, task, loader=self._loader, hostname=self.name, app=self._app)
        try:
            value, info, _, _ = trace(message.id, args, kwargs, request)
        except Reject as rejected:  # from one of Celery's hooks
            return Delivered(states.REJECTED, rejected, requeued=bool(rejected.requeue))
        if info is None:
            return Delivered(states.SUCCESS, value)
        if isinstance(info.retval, Cancelled):
            return Delivered(states.REVOKED, info.retval)
        if is_unstored(info.retval, value):
            runtime = Runtime.of(self._app)
            fail_unstored(runtime.store, runtime.redactor, message.id, str(properties.get("delivery_tag")), info.retval)
        requeued = info.state == states.REJECTED and bool(info.retval.requeue)
        return Delivered(info.state, info.retval, requeued=requeued)

    def deliver_beside(self, task: Any, message: Message) -> Delivered:
        """Run another delivery of the message while one is running, and as if it were elsewhere: on another worker."""
        self.number += 1

        def apart() -> Delivered:
            activate(None)
            return self.deliver(task, message)

        try:
            return copy_context().run(apart)
        finally:
            self.number -= 1
