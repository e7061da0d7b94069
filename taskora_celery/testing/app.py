"""The app that stands in for the user's during a run: its tasks and settings, but no broker and no result backend outside."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timezone
from typing import Any

from celery import Celery
from celery.app.registry import TaskRegistry
from celery.app.utils import Settings
from celery.backends.base import KeyValueStoreBackend
from kombu import Connection

from taskora_celery.task import ContextTask
from taskora_celery.testing.clock import VirtualClock
from taskora_celery.testing.outlet import Outlet, RecordingProducer

__all__ = ["MemoryBackend", "StandInApp"]

_NOWHERE = "memory://"
#: Over the user's settings: nothing leaves the process, and what is called is sent, so that it can be recorded.
_SETTINGS = {
    "broker_url": _NOWHERE,
    "broker_read_url": _NOWHERE,
    "broker_write_url": _NOWHERE,
    "result_backend": "taskora_celery.testing.app:MemoryBackend",
    "task_always_eager": False,
    "task_protocol": 2,
    "task_send_sent_event": False,
    "result_backend_always_retry": False,
}


class MemoryBackend(KeyValueStoreBackend):  # type: ignore[misc]
    """A result backend in memory: results are encoded and decoded as by any other."""

    implements_incr = True
    thread_safe = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lock = threading.Lock()
        self._values: dict[Any, Any] = {}

    def get(self, key: Any) -> Any:
        """Return a value, None where there is none."""
        return self._values.get(key)

    def mget(self, keys: Iterable[Any]) -> list[Any]:
        """Return many values."""
        return [self._values.get(key) for key in keys]

    def set(self, key: Any, value: Any) -> None:
        """Keep a value."""
        self._values[key] = value

    def delete(self, key: Any) -> None:
        """Forget a value."""
        self._values.pop(key, None)

    def incr(self, key: Any) -> int:
        """Count."""
        with self._lock:
            self._values[key] = count = int(self._values.get(key, 0)) + 1
        return count


class StandInApp(Celery):  # type: ignore[misc]
    """Has the settings and the tasks of an app, sends into an outlet, keeps results in memory, and goes by the virtual clock."""

    def __init__(self, original: Celery, outlet: Outlet, clock: VirtualClock) -> None:
        # A task without our base would be called on its own app: under its name alone it is sent from this one.
        tasks = {name: task for name, task in original.tasks.items() if isinstance(task, ContextTask)}
        super().__init__(
            original.main, set_as_current=False, tasks=TaskRegistry(tasks), fixups=[], task_cls=original.task_cls,
            loader=original.loader_cls, strict_typing=original.strict_typing,
        )  # fmt: skip
        conf = original.conf
        conf.get("broker_url")  # loads the configuration
        self.conf = Settings(dict(_SETTINGS), list(conf.maps), (*(conf._keys or ()),), prefix=conf.prefix)  # noqa: SLF001
        self.configured = self.finalized = True
        self.original = original
        self._virtual = clock
        self._producer = RecordingProducer(outlet, clock.time)
        self._results = MemoryBackend(app=self)

    def finalize(self, auto: bool = False) -> None:
        """Do nothing: the tasks are those of the app."""

    def now(self) -> datetime:
        """Return the virtual time: ETAs are made of it."""
        return datetime.fromtimestamp(self._virtual.time(), timezone.utc).astimezone(self.timezone)

    @property
    def backend(self) -> MemoryBackend:
        """The result backend, the same in all threads."""
        return self._results

    def producer_or_acquire(self, producer: Any = None) -> AbstractContextManager[RecordingProducer]:  # noqa: ARG002 - Celery's
        """Give out the one producer, whatever the caller has."""
        return nullcontext(self._producer)

    def connection_for_read(self, url: Any = None, **options: Any) -> Connection:  # noqa: ARG002 - Celery's
        """Return a connection that leads nowhere."""
        return Connection(_NOWHERE)

    connection_for_write = connection_for_read
