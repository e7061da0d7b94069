"""The thread that hears what is announced to the processes that run jobs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from taskora_celery.background import Background
from taskora_celery.backoff import outage_pause
from taskora_celery.errors import StoreUnavailableError
from taskora_celery.store.protocol import Announcements, CancelRequest, JobStore, Shutdown

__all__ = ["Listener"]

logger = logging.getLogger("taskora_celery.reporter")


class Listener:
    """Hands on every announcement, as it comes.

    One daemon thread named ``taskora-listener`` with a connection of its own, asleep in it; see
    :class:`~taskora_celery.background.Background` for its contract. What was announced while the connection was lost is not
    repeated: ``on_ready`` is called whenever it listens (again), and ``ready`` is False in between.
    """

    def __init__(
        self, store: JobStore, on_announcement: Callable[[CancelRequest | Shutdown], None], on_ready: Callable[[], None]
    ) -> None:
        self._store = store
        self._on_announcement = on_announcement
        self._on_ready = on_ready
        self._heard: Announcements | None = None
        self._failures = 0
        self._stopped = False
        self._thread = Background("taskora-listener", self._turn)
        #: Since when announcements are heard without a gap, in seconds since the epoch; None while they are not.
        self.ready_since: float | None = None

    @property
    def ready(self) -> bool:
        """Whether announcements are heard."""
        return self.ready_since is not None

    def start(self) -> None:
        """Start the thread, once."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; bounded."""
        self._stopped = True
        if self._heard is not None:
            self._heard.close()
        self._thread.stop()

    def _turn(self) -> float:
        try:
            self._heard = heard = self._store.listen()
            since = time.time()
            self._on_ready()
            self.ready_since, self._failures = since, 0
            while not self._stopped:
                with self._thread.waiting():
                    announcement = heard.next()
                if announcement is not None:
                    self._hand_on(announcement)
        except StoreUnavailableError as exc:
            if self._stopped:
                return 0.0
            self._failures += 1
            if self._failures == 1:
                logger.warning("announcements cannot be heard: %s; a cancel reaches its job with the next flush or renewal", exc)
            return outage_pause(self._failures)
        finally:
            self.ready_since = None  # whatever it was
        return 0.0

    def _hand_on(self, announcement: CancelRequest | Shutdown) -> None:
        try:
            self._on_announcement(announcement)
        except Exception:  # a listener of a job's signal, say; the next announcement is another job's
            logger.exception("an announcement could not be handed on")
