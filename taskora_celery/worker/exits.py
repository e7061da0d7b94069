"""Seeing at once that a process of the pool has ended."""

from __future__ import annotations

import contextlib
import os
from typing import Any

__all__ = ["ExitWatch"]


class ExitWatch:
    """Lets the pool look after its processes the moment that one ends, where the kernel tells (Linux 5.3 and newer).

    Celery's pool learns of it from a pipe, of which a process that was forked later may hold the other end, and else every five
    seconds. Used by the worker's main thread, which runs the event loop.
    """

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._watched: dict[int, int] = {}

    def watch(self, pid: int) -> None:
        """Watch a process from now on; one that is watched already, or cannot be, is left alone."""
        hub = getattr(self._worker, "hub", None)
        if pid == os.getpid() or hub is None or not hasattr(os, "pidfd_open"):
            return
        known = self._watched.get(pid)
        if known is not None:
            if known not in hub.readers:  # the event loop was emptied when its connection was lost
                hub.add_reader(known, self._ended, pid)
            return
        try:
            fd = os.pidfd_open(pid)
        except OSError:  # it has ended already, or this kernel does not know the call
            return
        self._watched[pid] = fd
        hub.add_reader(fd, self._ended, pid)

    def _ended(self, pid: int) -> None:
        fd = self._watched.pop(pid, None)
        if fd is not None:
            self._worker.hub.remove(fd)
            with contextlib.suppress(OSError):
                os.close(fd)
        self._worker.pool.maintain_pool()
