"""Mends of a review: the stores, and what the reporter makes of their answers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from taskora_celery.context import Context
from taskora_celery.errors import SettingsError
from taskora_celery.reading import history_of, logs_of, status_of
from taskora_celery.records import Outcome
from taskora_celery.redaction import Redactor
from taskora_celery.reporter.outbox import Outbox
from taskora_celery.reporter.reporter import Reporter
from taskora_celery.settings import Settings
from taskora_celery.store.connect import Endpoint, async_client, check, client
from taskora_celery.store.memory import MemoryStore
from taskora_celery.store.protocol import (
    Begin,
    CancelOutcome,
    CancelRequest,
    Ended,
    JobStore,
    Loss,
    Reply,
    Report,
    Verdict,
)
from taskora_celery.store.redis import RedisStore
from tests.support.executions import NOW_MS, ScriptedExecution
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[JobStore]:
    if request.param == "memory":
        yield MemoryStore()
        return
    made = RedisStore(Endpoint(request.getfixturevalue("redis_url")), ttl=600)
    yield made
    made.close()


@pytest.fixture
def reporter(store: JobStore) -> Iterator[Reporter]:
    made = Reporter(store, Settings(flush_interval=0.005, final_flush_timeout=10.0), Redactor())
    yield made
    made.close()


def state(store: JobStore, job_id: str = "job-1") -> str | None:
    found = store.read(job_id)
    return None if found is None else found.fields["s"]


def messages(store: JobStore, job_id: str = "job-1") -> list[str]:
    snapshot = store.read(job_id, 0)
    return [entry.message for entry in logs_of(snapshot, 100, level=None, attempt=None, after=None, limit=None)]


def begin(reporter: Reporter, *, behind: float = 0.0, job_id: str = "job-1") -> Context:
    """Begin a first delivery on a worker whose clock is so many seconds behind, and that cannot reach the store just now."""
    ctx = Context(job_id, "shop.work", time=lambda: time.time() - behind)
    now_ms = int(ctx.time() * 1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reporter, "_begin", lambda _: None)
        reporter.begin(ctx, Begin(job_id, "shop.work", 1, "w1@host", now_ms, now_ms))
    return ctx


def end(reporter: Reporter, ctx: Context, outcome: str) -> None:
    reporter.flush(ctx, Ended(outcome, int(ctx.time() * 1000)))
    reporter.release(ctx)


# --- B3, F2: an id that is sent anew ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [0.0, 3_600.0])
def test_an_id_sent_anew_is_a_job_of_its_own_also_where_the_clock_lags(
    reporter: Reporter, store: JobStore, behind: float
) -> None:
    """B3, F2: the record and the log are those of the new job, whatever the time is on its worker."""
    first = begin(reporter)
    first.log.info("first")
    end(reporter, first, Outcome.SUCCESS)
    assert (state(store), messages(store)) == (Outcome.SUCCESS, ["first"])
    second = begin(reporter, behind=behind)
    second.log.info("second")
    second.progress(50)
    wait_until(lambda: messages(store) == ["second"], "the log of the new job")
    second.log.info("end")
    end(reporter, second, Outcome.FAILURE)
    wait_until(lambda: state(store) == Outcome.FAILURE, "its end")
    assert messages(store) == ["second", "end"]
    assert [(record.number, record.delivery) for record in history_of(store.read("job-1", attempts=True))] == [(1, 1)]
    assert second.fence > first.fence


def test_an_id_sent_anew_that_ends_at_once_where_the_clock_lags(reporter: Reporter, store: JobStore) -> None:
    """B3, F2: also where its beginning and its end are one report, which the store cannot take as it is."""
    end(reporter, begin(reporter), Outcome.SUCCESS)
    wait_until(lambda: state(store) == Outcome.SUCCESS, "the first job's end")
    second = begin(reporter, behind=3_600.0)
    second.log.info("second")
    end(reporter, second, Outcome.FAILURE)
    wait_until(lambda: state(store) == Outcome.FAILURE, "the second job's end")
    assert messages(store) == ["second"]


def test_a_begin_whose_answer_was_lost_counts_one_delivery(store: JobStore) -> None:
    """B3: sent twice, also with a report, it is the same delivery: nothing was lost, and no entry is there twice."""
    begin = Begin("job-1", "shop.work", 1, "w1@host", NOW_MS, NOW_MS, fence=NOW_MS * 1000)
    assert store.begin(begin) == store.begin(begin)
    script = ScriptedExecution(store, "job-2")
    report = script.made("entry")
    again = Report("job-1", begin.fence, NOW_MS, begin=begin, first=0, batches=report.batches)
    assert store.report([again]) == store.report([again]) == [Reply.ACCEPTED]
    snapshot = store.read("job-1", 0, attempts=True)
    assert snapshot is not None
    assert (snapshot.fields["d"], snapshot.fields["f"], snapshot.attempts) == (1, begin.fence, ())
    assert messages(store) == ["entry"]


def test_entries_that_were_dropped_are_counted_where_none_follows(store: JobStore) -> None:
    """L1: an outbox that had to drop all it had sends an empty batch behind the gap; sent again it counts once."""
    outbox = Outbox()
    execution = ScriptedExecution(store)
    for n in range(2):
        outbox.add(2 * n, execution.made("a", "b").batches[0], 100)
        while outbox.drop_oldest():
            pass
    assert (outbox.entries, bool(outbox)) == (0, True)
    reports = outbox.reports("job-1", execution.fence, NOW_MS)
    assert store.report(reports) == store.report(reports) == [Reply.ACCEPTED]
    assert execution.send(execution.made("after", first=4)) is Reply.ACCEPTED
    status = status_of("job-1", store.read("job-1"), 100)
    assert (messages(store), status.logs, status.dropped_logs) == (["after"], 5, 4)


# --- L1: one job's broken key ------------------------------------------------------------------------------------------------


def test_a_key_of_another_type_harms_its_own_job_only(redis_url: str, redis_client: redis.Redis) -> None:
    """L1: Redis works; what it cannot take is given up, and is no outage for the others."""
    store = RedisStore(Endpoint(redis_url), ttl=600)
    reporter = Reporter(store, Settings(flush_interval=0.005, final_flush_timeout=10.0), Redactor())
    redis_client.set(store.keys.of("bad")[0], "another program's", ex=60)
    redis_client.set(store.keys.of("half")[1], "another program's", ex=60)
    try:
        jobs = {name: begin(reporter, job_id=name) for name in ("bad", "half", "good")}
        for n in range(3):
            for ctx in jobs.values():
                ctx.log.info(f"{n}")
            wait_until(lambda n=n: messages(store, "good") == [f"{m}" for m in range(n + 1)], "the good job's log")  # type: ignore[misc]
        for ctx in jobs.values():
            end(reporter, ctx, Outcome.SUCCESS)
        wait_until(lambda: state(store, "good") == Outcome.SUCCESS, "the good job's end")
        assert reporter._outage.failures == 0
        wait_until(lambda: not reporter._backlog, "the others to be given up")
        assert redis_client.get(store.keys.of("bad")[0]) == b"another program's"
    finally:
        reporter.close()
        store.close()


def test_a_damaged_request_to_cancel_is_a_request_all_the_same(redis_url: str, redis_client: redis.Redis) -> None:
    """L1, G7: it harms neither the job nor who cancels it, and is no outage."""
    store = RedisStore(Endpoint(redis_url), ttl=600)
    try:
        for damaged in (b"c", b"c\x01", b"garbage", b"c\x95" + b"\x01" * 5):
            runs = ScriptedExecution(store, tag="t1")
            redis_client.hset(store.keys.of("job-1")[0], "j", damaged)
            assert store.cancel(CancelRequest("job-1", NOW_MS)) is CancelOutcome.REQUESTED
            ended = Ended(Outcome.SUCCESS, NOW_MS, unaware=True)
            assert runs.send(Report("job-1", runs.fence, NOW_MS, ended=ended)) is Reply.CANCELLED
            again = Begin("job-1", "shop.work", 1, "w2@host", NOW_MS - 500, NOW_MS + 1, redelivered=True, tag="t1")
            assert store.begin(again).fence == Verdict.CANCELLED
            assert state(store) == Outcome.REVOKED
            redis_client.delete(*store.keys.of("job-1"))
            ScriptedExecution(store, tag="t1")
            redis_client.hset(store.keys.of("job-1")[0], "j", damaged)
            lost = store.lose(Loss("job-1", "shop.work", 1, "w1@host", "t1", None, NOW_MS, "gone"))
            assert (lost.ended, lost.cancelled, state(store)) == (True, True, Outcome.REVOKED)
            redis_client.delete(*store.keys.of("job-1"))
    finally:
        store.close()


def test_a_damaged_time_of_creation_harms_no_job(redis_url: str, redis_client: redis.Redis) -> None:
    """L1: whatever another program has written there."""
    store = RedisStore(Endpoint(redis_url), ttl=600)
    try:
        for damaged in (b"yesterday", b"1 2", b"", b"9" * 400):
            ScriptedExecution(store, tag="t1")
            redis_client.hset(store.keys.of("job-1")[0], "c", damaged)
            again = Begin("job-1", "shop.work", 2, "w2@host", NOW_MS - 500, NOW_MS + 1, tag="t2")
            begun = store.begin(again)
            assert (begun.fence > 0, begun.created_ms) == (True, 0)
            redis_client.delete(*store.keys.of("job-1"))
    finally:
        store.close()


# --- L3: every write renews the TTL ------------------------------------------------------------------------------------------


def test_a_job_that_is_cancelled_before_it_begins_keeps_its_record(redis_url: str, redis_client: redis.Redis) -> None:
    """L3: its message is a write, too, and comes perhaps when the record is about to expire."""
    store = RedisStore(Endpoint(redis_url), ttl=600)
    keys = store.keys.of("job-1")[:2]
    try:
        store.cancel(CancelRequest("job-1", NOW_MS), queued=True)
        for key in keys:
            redis_client.expire(key, 5)
        begin = Begin("job-1", "shop.work", 1, "w1@host", NOW_MS - 500, NOW_MS, tag="t1")
        assert store.begin(begin).fence == Verdict.CANCELLED
        assert [redis_client.ttl(key) > 500 for key in keys] == [True, True]
    finally:
        store.close()


# --- L4: URLs ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def socket_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = str(tmp_path_factory.mktemp("s") / "r.sock")
    with RedisServer(f'unixsocket "{path}"'):
        yield path


@pytest.mark.parametrize(
    ("query", "database"),
    [("?virtual_host=4", 4), ("?virtual_host=4&decode_responses=true", 4), ("?decode_responses=true&virtual_host=4", 4), ("", 0)],
)
def test_a_socket_url_as_kombu_writes_it(socket_path: str, query: str, database: int) -> None:
    """D2, L4: `redis+socket` with kombu's name for the database."""
    endpoint = Endpoint(f"redis+socket://{socket_path}{query}")
    check(endpoint)
    store = RedisStore(endpoint, ttl=600)
    try:
        execution = ScriptedExecution(store, f"job{query}")
        assert execution.logs("entry") is Reply.ACCEPTED
        assert messages(store, f"job{query}") == ["entry"]
        assert client(endpoint, 1.0).connection_pool.connection_kwargs.get("db", 0) == database
        assert async_client(endpoint, 1.0).connection_pool.connection_kwargs.get("db", 0) == database
    finally:
        store.close()


@pytest.mark.parametrize("query", ["?decode_responses=true", "?decode_responses=True&health_check_interval=5"])
def test_a_url_that_asks_for_text_is_read_as_bytes_all_the_same(redis_url: str, query: str) -> None:
    """L4: records are bytes; the option is there for the result backend."""
    endpoint = Endpoint(redis_url + query)
    check(endpoint)
    store = RedisStore(endpoint, ttl=600)
    try:
        execution = ScriptedExecution(store)
        assert execution.progress({"n": 1}) is Reply.ACCEPTED
        assert execution.logs("entry") is Reply.ACCEPTED
        assert messages(store) == ["entry"]
    finally:
        store.close()


@pytest.mark.parametrize("scheme", ["redis://localhost:6379/0", "rediss://localhost:6379/0", "redis+socket:///tmp/none.sock"])
@pytest.mark.parametrize("query", ["?no_such_option=1", "?socket_timeuot=3"])
def test_an_option_that_redis_py_does_not_know_is_refused(scheme: str, query: str) -> None:
    """L4: before a worker starts, and with the URL, less its password."""
    with pytest.raises(SettingsError, match=query.strip("?").split("=")[0]) as error:
        check(Endpoint(scheme.replace("//localhost", "//:hunter2@localhost") + query))
    assert "hunter2" not in str(error.value)


def test_redis_answers_of_a_store_url_keep_their_types(redis_url: str) -> None:
    """L4: the client that `decode_responses` was taken from answers in bytes."""
    made: Any = client(Endpoint(redis_url + "?decode_responses=true"), 1.0)
    try:
        made.set("taskora-test", "x", ex=5)
        assert made.get("taskora-test") == b"x"
    finally:
        made.close()
