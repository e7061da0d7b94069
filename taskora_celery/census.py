"""How many jobs there are in each state, from the index: what each face that counts them asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec

from taskora_celery.listing import ALL
from taskora_celery.store.protocol import JobStore, Snapshot
from taskora_celery.views import ENDED, STATES, TaskFacts, is_silent

__all__ = ["Census", "StateCounts"]

#: So many jobs that have not ended are looked at, those whose state changed last.
GOING_READ = 5_000


class StateCounts(msgspec.Struct, frozen=True):
    """The jobs that are listed, by the word of their state; a word that is not there counts none."""

    counts: dict[str, int]
    #: Jobs that have not ended and were not looked at: there are too many.
    unread: int = 0


class Census:
    """Counts the jobs of a store. An end is final, so only what has changed is read again. Used by one thread at a time."""

    def __init__(self, store: JobStore, facts: Callable[[str], TaskFacts]) -> None:
        self._store = store
        self._facts = facts
        #: The instant of the last change, and the word, of jobs that have ended.
        self._ended: dict[str, tuple[int, str]] = {}

    def look(self, now_ms: int) -> StateCounts:
        """Return the counts of now.

        Two round trips, and one more for each 500 jobs that go on or have ended since the last look.

        :raises StoreUnavailableError: the store does not answer.
        """
        going = dict(self._store.listed(ALL, going=True))
        recent = {job_id: changed_ms for job_id, changed_ms in self._store.listed(ALL) if job_id not in going}
        known = {job_id: kept for job_id, kept in self._ended.items() if recent.get(job_id) == kept[0]}
        new = [job_id for job_id in recent if job_id not in known]
        read = list(going)[:GOING_READ]
        counts = Counter[str]()
        for job_id, record in zip((*new, *read), self._store.records([*new, *read], brief=True), strict=True):
            word = self._word(record, now_ms)
            if word in ENDED and job_id in recent:
                known[job_id] = recent[job_id], word
            elif word is not None:
                counts[word] += 1
        self._ended = known
        counts.update(word for _, word in known.values())
        return StateCounts(dict(counts), len(going) - len(read))

    def _word(self, record: Snapshot | None, now_ms: int) -> str | None:
        if record is None:
            return None
        fields = record.fields
        state = STATES.get(fields.get("s", "PENDING"), fields.get("s", "").lower())
        return "stalled" if is_silent(state, fields.get("h", 0), self._facts(fields.get("n", "")), now_ms) else state
