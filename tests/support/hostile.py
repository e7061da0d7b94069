"""A job that has all there is in Redis, and ways to damage it: for tests of who reads bytes that nobody of ours wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from celery import Celery
from hypothesis import strategies as st

from taskora_celery import ContextTask
from taskora_celery.encoding import pack
from taskora_celery.records import Outcome
from taskora_celery.store.connect import Endpoint
from taskora_celery.store.keys import RECORD_FIELDS, JobKeys
from taskora_celery.store.protocol import CancelRequest, Loss
from taskora_celery.store.redis import RedisStore
from tests.support.executions import NOW_MS, ScriptedExecution

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

JOB = "0f6a1c5e-job"
KEYS = JobKeys("taskora:")
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
#: What MessagePack has and JSON has not: keys that are no texts, extensions, instants, nesting without an end.
foreign = st.sampled_from([
    msgspec.msgpack.encode({1: "one", 2.5: "two"}), b"\x81\xc0\x01", b"\x81\xc3\x01", b"\x81\xc4\x02\xff\xfe\x01",
    b"\x81\x92\x01\x02\x03", msgspec.msgpack.encode(msgspec.msgpack.Ext(7, b"ext")), b"\xd6\xff\x00\x00\x00\x01",
    b"\x91" * 5_000 + b"\xc0",
])  # fmt: skip
#: What stands where something of ours stood: garbage, packed data of any shape, numbers, texts.
garbage = (
    st.binary(max_size=40)
    | foreign
    | plain.map(pack)
    | st.integers().map(lambda n: str(n).encode())
    | st.text(max_size=20).map(str.encode)
    | st.builds(lambda value: b"\x93" + value + pack(NOW_MS) + b"\xc0", foreign)
)


#: A batch of the journal with a head that can be read, and entries of any shape.
_codes = st.integers(0, 12) | plain
_items = st.lists(st.tuples(_codes, plain, plain) | st.tuples(_codes, st.integers(0, 9), plain, plain, plain) | plain, max_size=3)
_body = st.tuples(plain | st.integers(0, 3), plain | st.just(NOW_MS), _items)
batches = st.builds(
    lambda first, count, body: f"{first} {count} {count} ".encode() + pack(body), st.integers(-2, 9), st.integers(0, 9), _body
)


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Return bytes with a part cut off, a byte changed, or something else in their place."""
    way = draw(st.sampled_from(["cut", "flip", "other"]))
    if way == "other" or not data:
        return draw(garbage)
    at = draw(st.integers(0, len(data) - 1))
    return data[:at] if way == "cut" else data[:at] + bytes([data[at] ^ draw(st.integers(1, 255))]) + data[at + 1 :]


@pytest.fixture
def whole_job(redis_url: str, redis_client: redis.Redis) -> Iterator[tuple[Celery, dict[str, Any]]]:
    """An app with one job that has all there is, and the bytes of that job."""
    app = Celery("hostile", broker=redis_url, backend=redis_url, task_cls=ContextTask)
    store = RedisStore(Endpoint(redis_url))
    first = ScriptedExecution(store, JOB, tag="tag-1", token=1)
    first.logs("one", "two")
    first.checkpoint({"row": 3})
    first.end_in_retry()
    second = ScriptedExecution(store, JOB, attempt=2, tag="tag-2", token=2)
    second.progress({"current": 1, "total": 4})
    store.lose(Loss(JOB, "hostile.work", 2, "w1@host", "tag-2", 2, NOW_MS + 9_000, "its worker is gone", error="JobLostError"))
    third = ScriptedExecution(store, JOB, attempt=2, tag="tag-2", token=3, redelivered=True)
    third.logs("three")
    store.cancel(CancelRequest(JOB, NOW_MS + 10_000, "enough", 1.0, by="somebody"))
    third.end(Outcome.REVOKED, "enough", "JobCancelledError")
    store.note([], [JOB], NOW_MS + 11_000, {"ended hostile.work SUCCESS": 1})
    record, journal, attempts = KEYS.of(JOB)
    kept = {
        "record": redis_client.hgetall(record), "journal": redis_client.lrange(journal, 0, -1),
        "attempts": redis_client.lrange(attempts, 0, -1), "counts": redis_client.hgetall(KEYS.counts),
    }  # fmt: skip
    assert len(kept["journal"]) >= 4
    assert kept["attempts"]
    yield app, kept
    store.close()


def write(client: redis.Redis, kept: dict[str, Any]) -> None:
    record, journal, attempts = KEYS.of(JOB)
    with client.pipeline() as pipe:
        pipe.delete(record, journal, attempts, KEYS.counts)
        if kept["record"]:
            pipe.hset(record, mapping=kept["record"])
        for key, items in ((journal, kept["journal"]), (attempts, kept["attempts"])):
            if items:
                pipe.rpush(key, *items)
        if kept["counts"]:
            pipe.hset(KEYS.counts, mapping=kept["counts"])
        pipe.zadd(KEYS.index[0], {JOB: NOW_MS})
        for key in (record, journal, attempts, KEYS.counts, KEYS.index[0]):
            pipe.pexpire(key, 60_000)
        pipe.execute()


@st.composite
def damaged_jobs(draw: st.DrawFn, kept: dict[str, Any]) -> dict[str, Any]:
    """Return the bytes of a job with some fields, entries, attempts and counts in any shape."""
    record = dict(kept["record"])
    for name in draw(st.lists(st.sampled_from([*RECORD_FIELDS, "?"]), max_size=4)):
        record[name.encode()] = draw(damaged(record.get(name.encode(), b"")))
    lists = {}
    for name in ("journal", "attempts"):
        items = list(kept[name])
        for _ in range(draw(st.integers(0, 3))):
            at = draw(st.integers(0, len(items) - 1))
            items[at] = draw(damaged(items[at]) | batches if name == "journal" else damaged(items[at]))
        lists[name] = items
    counts = {**kept["counts"], draw(garbage.filter(bool)): draw(st.integers(0, 9).map(lambda n: str(n).encode()) | garbage)}
    return {"record": record, "counts": counts, **lists}


def write_foreign(client: redis.Redis, kind: str) -> None:
    """Put what another program may have there under all keys of the job: a ``"string"``, a ``"list"`` or a ``"set"``."""
    for key in KEYS.of(JOB):
        client.delete(key)
        {"string": client.set, "list": client.rpush, "set": client.sadd}[kind](key, "another program's")
        client.pexpire(key, 60_000)
