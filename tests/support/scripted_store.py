"""A store that does what the test says: it counts calls, fails, hangs and forgets."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from taskora_celery.errors import StoreUnavailableError
from taskora_celery.store.memory import MemoryStore
from taskora_celery.store.protocol import NO_COUNTS
from taskora_celery.testing.store import RemoteStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskora_celery.store.protocol import Announcements, Begin, Begun, Loss, Lost, Reply, Report


class ScriptedStore(RemoteStore):
    """The in-memory store, with a switch for each way in which a store can let one down.

    `away` makes every call fail. While `gate` is cleared, calls hang; `waiting` is set as soon as one does. The test itself, and
    who cancels, may always look: `memory` is the store behind it.
    """

    def __init__(self, log_limit: int = 10_000) -> None:
        super().__init__(MemoryStore(log_limit), is_down=lambda: False)
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
        return super().begin(begin)

    def report(self, reports: Sequence[Report]) -> list[Reply]:
        """As the memory store, after the script's say."""
        self._pass()
        self.flushes.append(list(reports))
        return super().report(reports)

    def lose(self, loss: Loss) -> Lost:
        """As the memory store, after the script's say."""
        self._pass()
        return super().lose(loss)

    def listen(self) -> Announcements:
        """As the memory store, unless it is away; it waits at no gate."""
        if self.away:
            raise StoreUnavailableError("the script says so")
        return super().listen()

    def note(
        self, going: Sequence[str], ended: Sequence[str], now_ms: int, counts: Mapping[str, int] = NO_COUNTS
    ) -> None:  # fmt: skip
        """As the memory store, after the script's say."""
        self._pass()
        super().note(going, ended, now_ms, counts)

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
