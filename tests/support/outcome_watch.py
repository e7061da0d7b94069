"""Every outcome that a result backend on Redis was ever given, not only the last."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import redis
from celery import states

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

_CHANNELS = "celery-task-meta-*"


class OutcomeWatch:
    """Listens to the backend's own announcements: it makes one for each result that it stores. A context manager."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._pubsub = self._client.pubsub(ignore_subscribe_messages=True)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="outcome-watch", daemon=True)
        #: Final states in the order in which they were stored, by the job's id.
        self.stored: dict[str, list[str]] = defaultdict(list)

    def __enter__(self) -> Self:
        self._pubsub.psubscribe(_CHANNELS)
        self._pubsub.get_message(timeout=5)  # the confirmation
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(10)
        self._pubsub.close()
        self._client.close()

    def _listen(self) -> None:
        while not self._stop.is_set():
            message: Any = self._pubsub.get_message(timeout=0.2)
            if message is None:
                continue
            meta = json.loads(message["data"])
            if meta["status"] in states.READY_STATES:
                self.stored[meta["task_id"]].append(meta["status"])
