"""What the worker's parent knows of jobs that were cancelled before they began."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from taskora_celery.store.protocol import CancelRequest, Shutdown

__all__ = ["EarlyCancels"]

#: So many are kept in memory, the newest: as many as the store remembers.
KEPT = 100_000


class EarlyCancels:
    """Ids of jobs whose message may still come, and which are cancelled. Fed by the listener, asked by the main thread.

    It decides nothing, since each delivery asks the store before it begins: it only says of which jobs the result backend may
    have lost its REVOKED. It can be relied on while announcements are heard: it was read behind the subscription's beginning.
    """

    def __init__(self, read: Callable[[], Iterable[str]], is_listening: Callable[[], bool]) -> None:
        self._read = read
        self._is_listening = is_listening
        self._lock = threading.Lock()
        self._ids: dict[str, None] = {}
        self._loaded = False

    def load(self) -> None:
        """Read what was cancelled until now. Called whenever announcements are heard (again)."""
        ids = self._read()
        with self._lock:
            self._ids.update(dict.fromkeys(ids))
            self._loaded = True

    def announced(self, announcement: CancelRequest | Shutdown) -> None:
        """Take an announcement in."""
        if isinstance(announcement, CancelRequest):
            with self._lock:
                self._ids[announcement.id] = None
                while len(self._ids) > KEPT:
                    del self._ids[next(iter(self._ids))]

    def excludes(self, job_id: str) -> bool:
        """Say whether a job was certainly not cancelled before now, as far as announcements have come."""
        return self._loaded and self._is_listening() and job_id not in self._ids
