"""Telling the pool's processes whether this worker sends task events: it does with ``-E``, and while a monitor asks for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import bootsteps

from taskora_celery.events import WatchFlag
from taskora_celery.worker.revoke import mailbox_of

__all__ = ["WatchStep", "sends_task_events"]

#: Celery's control commands that switch task events on and off.
COMMANDS = ("enable_events", "disable_events")


class WatchStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Keeps the app's :class:`~taskora_celery.events.WatchFlag` as the worker's own event dispatcher is.

    The commands that change it are followed by a look at it, in this worker's own copy of Celery's table.
    """

    requires = ("celery.worker.consumer.control:Control", "celery.worker.consumer.events:Events")

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        # Made here, before the pool starts: its processes inherit it.
        self._flag = WatchFlag.of(parent.app, make=True)
        self._ours: dict[str, Callable[..., Any]] = {}

    def start(self, parent: Any) -> None:
        """Look at the dispatcher, which is a new one after each lost connection, and follow what changes it."""
        self._look(parent)
        node = mailbox_of(parent)
        if node is None:  # no remote control: nobody can change it
            return
        known = {name: node.handlers[name] for name in COMMANDS if name in node.handlers}
        if any(command is not self._ours.get(name) for name, command in known.items()):
            self._ours = {name: self._followed(command) for name, command in known.items()}
            node.handlers = {**node.handlers, **self._ours}

    def _followed(self, command: Callable[..., Any]) -> Callable[..., Any]:
        def follow(state: Any, **kwargs: Any) -> Any:
            answer = command(state, **kwargs)
            self._look(state.consumer)
            return answer

        return follow

    def _look(self, consumer: Any) -> None:
        dispatcher = consumer.event_dispatcher
        assert self._flag is not None
        self._flag.set(dispatcher is not None and sends_task_events(dispatcher))


def sends_task_events(dispatcher: Any) -> bool:
    """Say whether events of tasks are sent: without ``-E`` there is a dispatcher, too, for those of the worker alone."""
    return bool(dispatcher.enabled and (not dispatcher.groups or "task" in dispatcher.groups))
