"""Bytes in Redis that nobody of ours wrote, or that were damaged: whoever reads them says so, and raises nothing else."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from taskora_celery import ContextTask, JobHandle, JobNotFoundError, StoreUnavailableError
from taskora_celery.encoding import pack
from taskora_celery.metrics.collect import Collector
from taskora_celery.metrics.text import exposition
from taskora_celery.records import Outcome
from taskora_celery.store.connect import Endpoint
from taskora_celery.store.keys import RECORD_FIELDS, JobKeys
from taskora_celery.store.protocol import CancelRequest, Loss
from taskora_celery.store.redis import RedisStore
from tests.support.executions import NOW_MS, ScriptedExecution

if TYPE_CHECKING:
    from collections.abc import Iterator

JOB = "0f6a1c5e-job"
KEYS = JobKeys("taskora:")
#: Faces by the module of their command, with the arguments that make each read all there is.
COMMANDS = {
    "list": ([], ["-j"], ["--task", "*"]),
    "show": ([JOB], [JOB, "-j"]),
    "logs": ([JOB], [JOB, "-j"]),
    "watch": ([JOB, "--timeout", "0.01"],),
}

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
#: What stands where something of ours stood: garbage, packed data of any shape, numbers, texts.
garbage = (
    st.binary(max_size=40) | plain.map(pack) | st.integers().map(lambda n: str(n).encode()) | st.text(max_size=20).map(str.encode)
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
def whole(redis_url: str, redis_client: redis.Redis) -> Iterator[tuple[Celery, dict[str, Any]]]:
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


def _write(client: redis.Redis, kept: dict[str, Any]) -> None:
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


def _read_by_handle(app: Celery) -> None:
    handle = JobHandle(JOB, app=app)
    for read in (
        handle.record,
        handle.status,
        handle.get_progress,
        handle.get_logs,
        handle.history,
        lambda: handle.get_logs(level="warn", limit=1),
        lambda: list(handle.events(timeout=0.01)),
        lambda: handle.cancel("again"),
    ):
        try:
            read()
        except (JobNotFoundError, TimeoutError, StoreUnavailableError):  # no record, no word, another program's data
            continue


def _read_by_commands(app: Celery) -> None:
    for name, calls in COMMANDS.items():
        command = importlib.import_module(f"taskora_celery.cli.{name}").command
        for arguments in calls:
            result = CliRunner().invoke(command, arguments, obj=CLIContext(app=app, no_color=True, workdir=None))
            assert result.exception is None or isinstance(result.exception, SystemExit), (name, arguments, result.exc_info)


def _read_by_exporter(url: str) -> None:
    store = RedisStore(Endpoint(url))
    text = exposition(Collector(store).samples())
    store.close()
    assert list(text_string_to_metric_families(text))


@settings(
    max_examples=80,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_no_reader_raises_for_damaged_records(
    whole: tuple[Celery, dict[str, Any]], redis_url: str, redis_client: redis.Redis, data: st.DataObject
) -> None:
    """Fault 22, F6: each of the faces that read: the handle, the commands, the exporter."""
    app, kept = whole
    record = dict(kept["record"])
    for name in data.draw(st.lists(st.sampled_from([*RECORD_FIELDS, "?"]), max_size=4), label="fields"):
        record[name.encode()] = data.draw(damaged(record.get(name.encode(), b"")), label=name)
    lists = {}
    for name in ("journal", "attempts"):
        items = list(kept[name])
        for _ in range(data.draw(st.integers(0, 3), label=name)):
            at = data.draw(st.integers(0, len(items) - 1))
            ways = damaged(items[at]) | batches if name == "journal" else damaged(items[at])
            items[at] = data.draw(ways, label=f"{name}[{at}]")
        lists[name] = items
    counts = {**kept["counts"], data.draw(garbage.filter(bool)): str(data.draw(st.integers(0, 9))).encode()}
    _write(redis_client, {"record": record, "counts": counts, **lists})
    _read_by_handle(app)
    _read_by_commands(app)
    _read_by_exporter(redis_url)


@pytest.mark.parametrize("kind", ["string", "list", "set"])
def test_no_reader_raises_for_another_programs_keys(
    whole: tuple[Celery, dict[str, Any]], redis_url: str, redis_client: redis.Redis, kind: str
) -> None:
    """Fault 22: keys of the wrong type are no records."""
    app, kept = whole
    _write(redis_client, kept)
    for key in KEYS.of(JOB):
        redis_client.delete(key)
        {"string": redis_client.set, "list": redis_client.rpush, "set": redis_client.sadd}[kind](key, "another program's")
        redis_client.pexpire(key, 60_000)
    _read_by_handle(app)
    _read_by_commands(app)
    _read_by_exporter(redis_url)
