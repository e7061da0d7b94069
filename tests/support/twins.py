"""Both stores at once: each call goes to the in-memory one and to Redis, and their answers and records must be the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from taskora_celery.store.protocol import Begin, Begun, CancelOutcome, CancelRequest, Loss, Lost, Reply, Report, Snapshot

if TYPE_CHECKING:
    from taskora_celery.store.protocol import JobStore

#: Of these one store shows what the other keeps to itself; and fences are taken from two clocks.
_OWN = frozenset("fguv")
#: Not written before there is something to count.
_COUNTS = frozenset("imt")


def plain(found: Snapshot | None) -> Any:
    """What must be the same: all fields but the fences, the journal without its count of log entries, the attempts."""
    if found is None:
        return None
    fields = {name: value for name, value in found.fields.items() if name not in _OWN and not (name in _COUNTS and value == 0)}
    journal = [(first, entries, body) for first, entries, _, body in (item.split(b" ", 3) for item in found.journal)]
    return fields, found.removed, journal, found.attempts


@dataclass
class Held:
    """One execution in both stores: its two fences, and how many entries it has written."""

    begin: Begin
    begun: tuple[Begun, Begun]
    number: int = 0
    told: list[Reply] = field(default_factory=list)
    has_ended: bool = False

    @property
    def runs(self) -> bool:
        """Whether it was let begin."""
        return self.begun[0].fence > 0


class Twins:
    """Two stores that must be one."""

    def __init__(self, memory: JobStore, redis: JobStore) -> None:
        self.stores = (memory, redis)

    def begin(self, begin: Begin) -> Held:
        """Begin a delivery in both."""
        memory, redis = (store.begin(begin) for store in self.stores)
        assert _without_fence(memory) == _without_fence(redis), f"in memory: {memory}\nin Redis:  {redis}"
        self.compare(begin.id)
        return Held(begin, (memory, redis))

    def report(self, held: Held, **fields: Any) -> Reply:
        """Report of one execution in both."""
        memory, redis = (
            store.report([Report(held.begin.id, begun.fence, **fields)])[0]
            for store, begun in zip(self.stores, held.begun, strict=True)
        )
        assert memory is redis
        self.compare(held.begin.id)
        held.told.append(memory)
        return memory

    def cancel(self, request: CancelRequest, *, queued: bool) -> CancelOutcome:
        """Cancel in both."""
        memory, redis = (store.cancel(request, queued=queued) for store in self.stores)
        assert memory is redis
        self.compare(request.id)
        return memory

    def lose(self, loss: Loss) -> Lost:
        """Lose a delivery in both."""
        memory, redis = (store.lose(loss) for store in self.stores)
        assert memory == redis
        self.compare(loss.id)
        return memory

    def compare(self, job_id: str) -> None:
        """Look at both records."""
        memory, redis = (plain(store.read(job_id, 0, attempts=True)) for store in self.stores)
        assert memory == redis, f"in memory: {memory}\nin Redis:  {redis}"

    def state(self, job_id: str) -> str | None:
        """The state that both records show."""
        found = self.stores[1].read(job_id)
        return None if found is None else str(found.fields["s"])


def _without_fence(begun: Begun) -> Begun:
    return msgspec.structs.replace(begun, fence=min(begun.fence, 1))
