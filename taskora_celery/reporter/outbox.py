"""What was taken from a report and is not known to be stored: bounded, numbered, ready to be sent again."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from taskora_celery.encoding import pack, unpack
from taskora_celery.store.protocol import Batch, Begin, Ended, Report

__all__ = ["Outbox", "drop_excess"]

#: A fence that no execution has: the store refuses what comes under it, and counts that.
NOBODY = -1


class Outbox:
    """One execution's unsent batches, oldest first, with the latest progress and checkpoint.

    Numbers make sending again safe: the store knows a repeat by them, and counts a jump as entries that were dropped.
    Held under the reporter's lock.
    """

    __slots__ = ("alive", "batches", "begin", "checkpoint", "ended", "entries", "look", "progress", "refused")

    def __init__(self) -> None:
        self.batches: deque[tuple[int, Batch]] = deque()
        self.entries = 0
        #: The delivery, until the store has counted it.
        self.begin: Begin | None = None
        #: A sign of life is due even if there is nothing else to say.
        self.alive = False
        #: The store is to be asked whether the job may go on, even if there is nothing to say.
        self.look = False
        self.progress: bytes | None = None
        self.checkpoint: bytes | None = None
        self.ended: Ended | None = None
        #: Something was said that does not count any more. Of that the store hears that it was refused, and nothing else.
        self.refused = False

    def __bool__(self) -> bool:
        return bool(self.speaks or self.ended or self.alive or self.begin or self.look or self.refused)

    @property
    def speaks(self) -> bool:
        """Whether it holds what the handler said, besides that it began."""
        return bool(self.batches or self.progress or self.checkpoint)

    def add(self, first: int, batch: Batch, limit: int) -> int:
        """Add a batch whose first entry has the number ``first``; drop the oldest beyond ``limit`` entries, and count them."""
        self.batches.append((first, batch))
        self.entries += batch.entries
        dropped = 0
        while self.entries > limit and len(self.batches) > 1:
            oldest = self.batches.popleft()[1].entries
            self.entries -= oldest
            dropped += oldest
        return dropped

    @property
    def size(self) -> int:
        """The bytes of all unsent batches."""
        return sum(len(batch.data) for _, batch in self.batches)

    def drop_oldest(self) -> int:
        """Give up the oldest batch, which the store will count as a gap; return its bytes, 0 where there is none to give up."""
        if not any(batch.entries for _, batch in self.batches):
            return 0
        first, batch = self.batches.popleft()
        self.entries -= batch.entries
        if self.batches:
            return len(batch.data)
        # An empty one in its place: where no other entry follows, the store would know of no gap.
        empty = Batch(0, 0, pack((*unpack(batch.data)[:2], ())))
        self.batches.append((first + batch.entries, empty))
        return len(batch.data) - len(empty.data)

    def reports(self, job_id: str, fence: int, now_ms: int, *, stands: bool = False) -> list[Report]:
        """Return all that is unsent as reports, one for each run of numbers without a gap; the last carries the end.

        ``stands``: Celery has stored the end already.
        """
        if self.refused:
            return [Report(job_id, NOBODY, 0)]
        if not (self.alive or self.begin or self.ended):
            now_ms = 0
        runs: list[tuple[int, list[Batch]]] = []
        expected = -1
        for first, batch in self.batches:
            if first != expected:
                runs.append((first, []))
            runs[-1][1].append(batch)
            expected = first + batch.entries
        reports = [Report(job_id, fence, now_ms, first=first, batches=tuple(batches)) for first, batches in runs[:-1]]
        first, batches = runs[-1] if runs else (0, [])
        last = Report(
            job_id, fence, now_ms, first=first, batches=tuple(batches), progress=self.progress, checkpoint=self.checkpoint,
            ended=msgspec.structs.replace(self.ended, stands=True) if stands and self.ended is not None else self.ended,
        )  # fmt: skip
        reports.append(last)
        if self.begin is not None:
            begin = msgspec.structs.replace(self.begin, fence=fence, over=stands and self.ended is not None)
            reports[0] = msgspec.structs.replace(reports[0], begin=begin)
        return reports

    def refuse(self) -> None:
        """Forget all of it, but for the fact that something was said."""
        refused = self.refused or self.speaks or self.ended is not None
        self.clear()
        self.refused = refused

    def clear(self) -> None:
        """Forget all of it: it is stored, or refused for good."""
        self.batches.clear()
        self.entries = 0
        self.alive = self.look = self.refused = False
        self.begin = None
        self.progress = self.checkpoint = self.ended = None


def drop_excess(outboxes: Sequence[Outbox], limit: int) -> int:
    """Drop the oldest batch of each in turn until all together hold at most ``limit`` bytes, or nothing that can be dropped.

    Return how many entries were dropped.
    """
    entries = sum(outbox.entries for outbox in outboxes)
    excess = sum(outbox.size for outbox in outboxes) - limit
    while excess > 0:
        before = excess
        for outbox in outboxes:
            excess -= outbox.drop_oldest() if excess > 0 else 0
        if excess == before:
            break
    return entries - sum(outbox.entries for outbox in outboxes)
