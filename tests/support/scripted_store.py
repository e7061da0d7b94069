"""A store that does what the test says: it counts calls, fails, hangs and forgets."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from taskora_celery.errors import StoreUnavailableError
from taskora_celery.store.memory import MemoryStore
from taskora_celery.store.protocol import NO_COUNTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from taskora_celery.store.protocol import (
        Announcements,
        Begin,
        Begun,
        CancelOutcome,
        CancelRequest,
        Loss,
        Lost,
        Reply,
        Report,
        Snapshot,
        Watch,
    )


class ScriptedStore:
    """The in-memory store, with a switch for each way in which a store can let one down.

    `away` makes every call fail. While `gate` is cleared, calls hang; `waiting` is set as soon as one does.
    """

    def __init__(self, log_limit: int = 10_000) -> None:
        self.memory = MemoryStore(log_limit)
        self.away = False
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()
        self.begins: list[Begin] = []
        #: The reports of each call, one list a call; refused calls are not among them.
        self.flushes: list[list[Report]] = []
        self.refused = 0

    def begin(self, begin: Begin) -> Begun:
        """As the memory store, after the script's say."""
        self._pass()
        self.begins.append(begin)
        return self.memory.begin(begin)

    def report(self, reports: Sequence[Report]) -> list[Reply]:
        """As the memory store, after the script's say."""
        self._pass()
        self.flushes.append(list(reports))
        return self.memory.report(reports)

    def lose(self, loss: Loss) -> Lost:
        """As the memory store, after the script's say."""
        self._pass()
        return self.memory.lose(loss)

    def cancel(self, request: CancelRequest, *, queued: bool = False) -> CancelOutcome:
        """As the memory store: it is another process that cancels."""
        return self.memory.cancel(request, queued=queued)

    def shut_down(self, worker: str) -> None:
        """As the memory store."""
        self.memory.shut_down(worker)

    def listen(self) -> Announcements:
        """As the memory store, unless it is away; it waits at no gate."""
        if self.away:
            raise StoreUnavailableError("the script says so")
        return self.memory.listen()

    def read(self, job_id: str, skip: int | None = None, *, attempts: bool = False) -> Snapshot | None:
        """As the memory store: the test itself may always look."""
        return self.memory.read(job_id, skip, attempts=attempts)

    def note(
        self, going: Sequence[str], ended: Sequence[str], now_ms: int, counts: Mapping[str, int] = NO_COUNTS
    ) -> None:  # fmt: skip
        """As the memory store, after the script's say."""
        self._pass()
        self.memory.note(going, ended, now_ms, counts)

    def counts(self) -> dict[str, int]:
        """As the memory store: the test itself may always look."""
        return self.memory.counts()

    def listed(self, limit: int, *, going: bool = False) -> list[tuple[str, int]]:
        """As the memory store."""
        return self.memory.listed(limit, going=going)

    def records(self, job_ids: Sequence[str], *, brief: bool = False) -> list[Snapshot | None]:
        """As the memory store."""
        return self.memory.records(job_ids, brief=brief)

    def watch(self, job_ids: Sequence[str]) -> AbstractContextManager[Watch]:
        """As the memory store."""
        return self.memory.watch(job_ids)

    def close(self) -> None:
        """Do nothing."""

    def forget(self) -> None:
        """Lose all records, as FLUSHALL does."""
        self.memory._jobs.clear()

    def _pass(self) -> None:
        if not self.gate.is_set():
            self.waiting.set()
            self.gate.wait(30)
        if self.away:
            self.refused += 1
            raise StoreUnavailableError("the script says so")
