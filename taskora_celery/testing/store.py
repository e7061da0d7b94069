"""The in-memory store, from which a run can be cut off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

from taskora_celery.errors import StoreUnavailableError
from taskora_celery.store.memory import MemoryStore
from taskora_celery.store.protocol import (
    NO_COUNTS,
    Announcements,
    Begin,
    Begun,
    CancelOutcome,
    CancelRequest,
    Loss,
    Lost,
    Reply,
    Report,
    Shutdown,
    Snapshot,
    Watch,
)

__all__ = ["RemoteStore"]


class RemoteStore:
    """The in-memory store as a worker sees it: over a line that may be down. Who cancels is elsewhere, and has a line of his own.

    Announcements are handed to ``hear`` at once, and lost while the line is down.
    """

    def __init__(self, memory: MemoryStore, is_down: Callable[[], bool]) -> None:
        self.memory = memory
        self.hear: Callable[[CancelRequest | Shutdown], object] | None = None
        self._is_down = is_down

    def begin(self, begin: Begin) -> Begun:
        """Count a delivery and take the job's fence."""
        self._reach()
        return self.memory.begin(begin)

    def report(self, reports: Sequence[Report]) -> list[Reply]:
        """Write many reports in one go."""
        self._reach()
        return self.memory.report(reports)

    def lose(self, loss: Loss) -> Lost:
        """Record that a delivery is lost: another worker says so."""
        return self.memory.lose(loss)

    def cancel(self, request: CancelRequest, *, queued: bool = False) -> CancelOutcome:
        """Decide what a request to cancel comes to, and announce it."""
        outcome = self.memory.cancel(request, queued=queued)
        if outcome >= CancelOutcome.CANCELLED:
            self._tell(request)
        return outcome

    def shut_down(self, worker: str) -> None:
        """Announce that a worker shuts down."""
        self.memory.shut_down(worker)
        self._tell(Shutdown(worker))

    def listen(self) -> Announcements:
        """Listen to announcements."""
        self._reach()
        return self.memory.listen()

    def read(self, job_id: str, skip: int | None = None, *, attempts: bool = False) -> Snapshot | None:
        """Return a job as it is."""
        self._reach()
        return self.memory.read(job_id, skip, attempts=attempts)

    def note(
        self, going: Sequence[str], ended: Sequence[str], now_ms: int, counts: Mapping[str, int] = NO_COUNTS
    ) -> None:  # fmt: skip
        """Note in the index that the state of these jobs has changed, and add to the counts."""
        self._reach()
        self.memory.note(going, ended, now_ms, counts)

    def counts(self) -> dict[str, int]:
        """Return all counts."""
        self._reach()
        return self.memory.counts()

    def listed(self, limit: int, *, going: bool = False) -> list[tuple[str, int]]:
        """Return the newest jobs with the instant (ms) of their last change."""
        self._reach()
        return self.memory.listed(limit, going=going)

    def records(self, job_ids: Sequence[str], *, brief: bool = False, going: bool = False) -> list[Snapshot | None]:
        """Return the records of these jobs."""
        self._reach()
        return self.memory.records(job_ids, brief=brief, going=going)

    def watch(self, job_ids: Sequence[str]) -> AbstractContextManager[Watch]:
        """Watch jobs for changes."""
        self._reach()
        return self.memory.watch(job_ids)

    def close(self) -> None:
        """Do nothing: the records stay readable."""

    def _tell(self, announcement: CancelRequest | Shutdown) -> None:
        if self.hear is not None and not self._is_down():
            self.hear(announcement)

    def _reach(self) -> None:
        if self._is_down():
            raise StoreUnavailableError("store_down says so")
