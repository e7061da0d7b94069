"""The end of a process whose job cannot even hear that it is to stop: code in C that holds the interpreter's lock."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from typing import Any

from taskora_celery.errors import StoreUnavailableError
from taskora_celery.store.journal import decode
from taskora_celery.store.protocol import CancelRequest, JobStore, Shutdown

__all__ = ["Backstop"]

#: A job that is about to be ended by its own process has so many seconds more for it.
MARGIN = 0.5
#: Seconds until a store that did not answer is asked again.
AGAIN = 2.0


class Backstop:
    """Remembers what was to stop, and looks after two graces whether its process has heard of it; fed by the listener."""

    def __init__(self, store: JobStore | None, grace_of: Callable[[str], float | None], wake: Callable[[], None]) -> None:
        """``grace_of`` returns the grace in seconds of a job that is here, or about to run, None of others."""
        self._store = store
        self._grace_of = grace_of
        self._wake = wake
        self._lock = threading.Lock()
        self._due: list[tuple[float, str]] = []

    def announced(self, announcement: CancelRequest | Shutdown) -> None:
        """Take an announcement in."""
        if not isinstance(announcement, CancelRequest) or announcement.gently:
            return
        grace = self._grace_of(announcement.id)
        if grace is None:
            return
        grace = grace if announcement.grace is None else announcement.grace
        with self._lock:
            heapq.heappush(self._due, (time.monotonic() + 2 * grace + MARGIN, announcement.id))
        self._wake()

    def turn(self, end: Callable[[str], Any]) -> float | None:
        """Call ``end`` for the jobs whose time is over and whose process has said nothing; return the seconds to the next."""
        while True:
            with self._lock:
                if not self._due:
                    return None
                pause = self._due[0][0] - time.monotonic()
                if pause > 0:
                    return pause
                job_id = heapq.heappop(self._due)[1]
            try:
                heard = self._was_heard(job_id)
            except StoreUnavailableError:  # to be asked again: nobody else will end it
                with self._lock:
                    heapq.heappush(self._due, (time.monotonic() + AGAIN, job_id))
                return AGAIN
            if not heard:
                end(job_id)

    def _was_heard(self, job_id: str) -> bool:
        """Say whether the job's process has noted a step of the cancel: then it goes the rest of the way by itself."""
        found = None if self._store is None else self._store.read(job_id, 0)
        if found is None:
            return True
        steps = [event.data for event in decode(found.journal) if event.kind == "cancel"]
        # What it heard of a plain revoke says nothing of the cancel that came after it.
        asked = next((n for n, step in enumerate(steps) if step.get("phase") == "requested" and not step.get("gently")), None)
        if asked is None:  # of another job: that has ended, and its id was sent anew
            return True
        return any(step.get("phase") != "requested" for step in steps[asked:])
