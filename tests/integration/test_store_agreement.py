"""The in-memory twin and Redis say the same, whatever comes in whatever order: found by chance, and made small by Hypothesis."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskora_celery.encoding import pack
from taskora_celery.records import AttemptRecord, Outcome
from taskora_celery.store.connect import Endpoint
from taskora_celery.store.journal import decode, encode
from taskora_celery.store.keys import RECORD_FIELDS
from taskora_celery.store.memory import MemoryStore
from taskora_celery.store.protocol import Begin, Begun, Ended, JobStore, Loss, Report
from taskora_celery.store.redis import RedisStore
from tests.support.executions import NOW_MS

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG_LIMIT = 4
HOUR = 3_600_000_000  # microseconds
#: Fences and tokens are real microseconds: the stores take the time as the least fence.
PAST, FUTURE = -HOUR, HOUR

_ids = itertools.count()

Step = tuple[str, dict[str, Any]]

tags = st.sampled_from(["", "tag-1", "tag-2"])
attempts = st.integers(1, 3)
#: An instant, or a fence that a store gave out before, by its place (-1: the last).
fences = st.one_of(st.just(0), st.sampled_from([PAST, FUTURE, FUTURE + 1]), st.sampled_from([-1, -2]))
begins = st.fixed_dictionaries({
    "attempt": attempts, "tag": tags, "fence": fences, "redelivered": st.booleans(), "anyway": st.booleans(),
    "token": st.sampled_from([0, PAST, FUTURE]), "worker": st.sampled_from(["w1", "w2"]),
    "created_ms": st.sampled_from([0, NOW_MS - 500, NOW_MS + 500]),
})  # fmt: skip
losses = st.fixed_dictionaries({
    "attempt": attempts, "tag": tags, "token": st.sampled_from([None, 0, PAST, FUTURE, FUTURE + 2]),
    "state": st.sampled_from([None, Outcome.FAILURE, Outcome.REVOKED]), "limit": st.sampled_from([None, 0, 1]),
    "created_ms": st.sampled_from([0, NOW_MS - 500, NOW_MS + 500]),
})  # fmt: skip
states = st.sampled_from([None, *sorted(Outcome.FINAL), Outcome.RETRY, Outcome.REJECTED])
reports = st.fixed_dictionaries({
    "fence": st.sampled_from([-1, -2, -3]), "entries": st.integers(0, 3), "first": st.integers(0, 4), "state": states,
    "progress": st.booleans(), "checkpoint": st.booleans(), "begin": st.one_of(st.none(), begins),
})  # fmt: skip
steps = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), begins), st.tuples(st.just("lose"), losses), st.tuples(st.just("report"), reports)
    ),
    max_size=7,
)  # fmt: skip


class Side:
    """One store, and what it answered. Fences are of its own clock, so they are told by the order in which they came."""

    def __init__(self, store: JobStore, job_id: str, now_us: int) -> None:
        self.store = store
        self.id = job_id
        self.now_us = now_us
        self.now_ms = NOW_MS
        self.fences: list[int] = []

    def instant(self, said: int | None) -> int | None:
        """A token or fence as this store has it."""
        if said is None or said == 0:
            return said
        if -10 < said < 0:
            return self.fences[said] if len(self.fences) >= -said else 0
        return self.now_us + said

    def take(self, step: Step) -> Any:
        """Do one step, and return the answer in words that do not depend on the clock."""
        kind, said = step
        self.now_ms += 1_000
        if kind == "begin":
            return self._told(self.store.begin(self._begin(said)))
        if kind == "lose":
            fields = {**said, "token": self.instant(said["token"])}
            return self.store.lose(Loss(self.id, "shop.work", worker="w3", now_ms=self.now_ms, reason="gone", **fields))
        return self.store.report([self._report(said)])

    def _begin(self, said: dict[str, Any]) -> Begin:
        fields = {**said, "token": self.instant(said["token"]), "fence": self.instant(said["fence"])}
        return Begin(self.id, "shop.work", now_ms=self.now_ms, **fields)

    def _told(self, begun: Begun) -> Any:
        if begun.fence > 0:
            self.fences.append(begun.fence)
            return msgspec.structs.replace(begun, fence=1 + sorted(set(self.fences)).index(begun.fence))
        return begun

    def _report(self, said: dict[str, Any]) -> Report:
        begin = None if said["begin"] is None else self._begin(said["begin"])
        fence = self.instant(said["fence"]) or 1
        if begin is not None:
            fence = begin.fence or fence
            begin = msgspec.structs.replace(begin, fence=fence)
            self.fences.append(fence)
        entries = [(2, self.now_ms, f"m{n}", None, None) for n in range(said["entries"])]
        ended = None
        if said["state"] is not None:
            keep = AttemptRecord(1, 1, "w1", 1, Outcome.RETRY) if said["state"] == Outcome.RETRY else None
            ended = Ended(said["state"], self.now_ms, "why", "OSError", keep)
        return Report(
            self.id, fence, self.now_ms, begin=begin, first=said["first"], batches=encode(1, entries, 1) if entries else (),
            progress=pack((1, self.now_ms, None)) if said["progress"] else None,
            checkpoint=pack(self.now_ms) if said["checkpoint"] else None, ended=ended,
        )  # fmt: skip

    def record(self) -> Any:
        """The whole record, in words that do not depend on the clock; a counter that was never set is 0."""
        found = self.store.read(self.id, 0, attempts=True)
        if found is None:
            return None
        fields = {name: found.fields[name] for name in RECORD_FIELDS if found.fields.get(name) not in (None, 0)}
        fields.pop("f")
        token = fields.get("o", 0)
        fields["o"] = round((token - self.now_us) / HOUR) if token else 0
        for name in "bch":  # of a delivery that died before it was registered: its token
            if abs(fields.get(name, 0) - self.now_us // 1_000) < 2 * HOUR // 1_000:
                fields[name] = round((fields[name] - self.now_us / 1_000) * 1_000 / HOUR)
        told = [
            msgspec.structs.replace(record, started_ms=0, duration=None) if record.started_ms > NOW_MS + 10**9 else record
            for record in found.attempts
        ]
        return fields, found.removed, decode(found.journal), told


@pytest.fixture(scope="module")
def redis_store(redis_server: Any) -> Iterator[RedisStore]:
    store = RedisStore(Endpoint(redis_server.url(db=99)), ttl=60.0, log_limit=LOG_LIMIT)
    yield store
    store.close()


@settings(
    max_examples=400, deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=steps)
def test_the_twin_and_redis_agree_in_every_field(redis_store: RedisStore, steps: list[Step]) -> None:
    """O3: a test that passes on the twin must not fail in production: answers, record, journal and attempts are the same."""
    job_id, now_us = f"job-{next(_ids)}", time.time_ns() // 1_000
    sides = [Side(MemoryStore(log_limit=LOG_LIMIT), job_id, now_us), Side(redis_store, job_id, now_us)]
    for step in steps:
        memory, real = (side.take(step) for side in sides)
        assert memory == real, step
        assert sides[0].record() == sides[1].record(), step
