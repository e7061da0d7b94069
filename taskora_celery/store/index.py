"""What is kept of an app's jobs together, in Redis: which there are, so that nobody has to scan for them, and what is counted.

The index is two sorted sets, both capped: the jobs whose state changed last, and those that have not ended. They are written in
batches and may be a moment behind; the records are what counts. An entry whose record has expired, or has ended though it is
among those that go on, is removed by whoever comes across it and may write. The counts are one hash of a bounded number of names,
to which the same script adds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from redis.exceptions import ResponseError

from taskora_celery.store.keys import BRIEF_FIELDS, CHECKPOINT, LISTED_FIELDS, JobKeys
from taskora_celery.store.protocol import NO_COUNTS, Snapshot
from taskora_celery.store.snapshots import number_in, read_snapshot
from taskora_celery.store.wire import Call, load_script
from taskora_celery.tally import COUNTS_KEPT

__all__ = ["RedisIndex"]

NOTE = load_script("note", 3)
#: So many jobs that have not ended are kept at most: more than any fleet runs at once.
GOING_KEPT = 100_000
#: Counts stay for so long, in milliseconds, where records are gone sooner: a quiet week-end is no reason to begin anew.
COUNTS_TTL_MS = 7 * 86_400_000
#: No instant is later: a score that somebody else wrote may be infinite.
_LAST_MS = 2**53
#: So many records are read in one pipeline.
RECORDS_AT_ONCE = 500


class RedisIndex:
    """What there is to do with the index; ``limit`` is how many jobs are listed, 0 for none."""

    def __init__(self, keys: JobKeys, ttl_ms: int, limit: int) -> None:
        self._keys = keys
        self._ttl_ms = ttl_ms
        self._limit = limit

    def note(
        self, going: Sequence[str], ended: Sequence[str], now_ms: int, counts: Mapping[str, int] = NO_COUNTS
    ) -> list[Call]:  # fmt: skip
        """Return the call that notes jobs which go on, jobs which have ended, and counts; none where there is nothing to note."""
        if not self._limit:
            going = ended = ()
        if not (going or ended or counts):
            return []
        arguments: list[str | int] = [
            *self._keys.index, self._keys.counts, now_ms, self._ttl_ms, self._limit, GOING_KEPT, COUNTS_KEPT,
            max(self._ttl_ms, COUNTS_TTL_MS), len(going), len(ended), *going, *ended,
        ]  # fmt: skip
        for name, number in counts.items():
            arguments += (name, number)
        return [(NOTE, arguments)]

    def counts(self, client: Any) -> dict[str, int]:
        """Return all counts by their names."""
        found = client.hgetall(self._keys.counts)
        return {name.decode("utf-8", "replace"): number_in(number) for name, number in found.items()}

    def ids(self, client: Any, limit: int, *, going: bool) -> list[tuple[str, int]]:
        """Return the newest jobs with the instant of their last change of state; ``going``: only those that have not ended."""
        if limit <= 0:
            return []
        found = client.zrange(self._keys.index[1 if going else 0], 0, limit - 1, desc=True, withscores=True)
        return [(job.decode("utf-8", "replace"), int(min(max(changed, 0), _LAST_MS))) for job, changed in found]

    def records(self, client: Any, job_ids: Sequence[str], *, brief: bool) -> list[Snapshot | None]:
        """Return each job's record with its last attempt, None where it has expired; ``brief``: only how it stands."""
        fields = BRIEF_FIELDS if brief else LISTED_FIELDS
        found: list[Snapshot | None] = []
        for at in range(0, len(job_ids), RECORDS_AT_ONCE):
            pipeline = client.pipeline(transaction=False)
            for job_id in job_ids[at : at + RECORDS_AT_ONCE]:
                record, _, attempts = self._keys.of(job_id)
                pipeline.hmget(record, fields)
                if not brief:
                    pipeline.hexists(record, CHECKPOINT)
                    pipeline.lrange(attempts, -1, -1)
            answers = iter(pipeline.execute())
            for values in answers:
                if brief:
                    found.append(read_snapshot((values, 0, (), ()), fields))
                else:
                    checkpoint = b"" if next(answers) else None
                    found.append(read_snapshot(([*values, checkpoint], 0, (), next(answers)), (*fields, CHECKPOINT)))
        return found

    def forget(self, client: Any, gone: Sequence[str], ended: Sequence[str]) -> None:
        """Remove jobs whose records have expired, and from those that go on what has ended."""
        recent, going = self._keys.index
        # Who may only read (a replica, a user of Redis without the right to write) leaves it to others.
        with suppress(ResponseError):
            if gone:
                client.zrem(recent, *gone)
            if gone or ended:
                client.zrem(going, *gone, *ended)
