"""The thread that writes progress to the places besides the store, which may hang for as long as they like."""

from __future__ import annotations

import threading
from typing import Any

from taskora_celery.background import Background
from taskora_celery.reporter.report import ProgressSink

__all__ = ["InlineShowing", "Showing"]


class Showing:
    """Writes values to sinks, one after another; of each sink the latest value waits.

    One daemon thread named ``taskora-progress``, started by the first value, asleep while there is none; see
    :class:`~taskora_celery.background.Background` for its contract. A result backend that does not answer holds up this thread,
    and neither the reports of a job nor the renewal of its lease.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[ProgressSink, Any]] = {}
        self._thread = Background("taskora-progress", self._turn)

    def show(self, sink: ProgressSink, value: Any) -> None:
        """Write a value when those before it are written. Never blocks on I/O."""
        with self._lock:
            self._waiting[id(sink)] = (sink, value)
        self._thread.start()
        self._thread.wake()

    def forget(self, sink: ProgressSink) -> None:
        """Write nothing more to a sink that is closed."""
        with self._lock:
            self._waiting.pop(id(sink), None)

    def close(self) -> None:
        """End the thread after the write that it is in; bounded."""
        self._thread.stop()

    def _turn(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    return
                sink, value = self._waiting.pop(next(iter(self._waiting)))
            with self._thread.waiting():  # it may take long: no fork waits for it
                sink.write(value)


class InlineShowing(Showing):
    """Writes at once, in the thread that asks."""

    def show(self, sink: ProgressSink, value: Any) -> None:
        """Write a value before returning."""
        sink.write(value)
