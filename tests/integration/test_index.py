"""The index of an app's jobs: in every store, capped, and no reason to scan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from taskora_celery.records import Outcome
from taskora_celery.store.connect import Endpoint
from taskora_celery.store.memory import MemoryStore
from tests.support.cancels import loss, request
from tests.support.executions import NOW_MS, ScriptedExecution
from tests.support.store_fixtures import TTL, redis_store

if TYPE_CHECKING:
    from taskora_celery.store.protocol import JobStore
    from taskora_celery.store.redis import RedisStore
    from tests.support.redis_server import RedisServer


def ids(store: JobStore, limit: int = 100, *, going: bool = False) -> list[str]:
    return [job_id for job_id, _ in store.listed(limit, going=going)]


def test_jobs_are_listed_by_their_last_change(store: JobStore) -> None:
    """K3: the newest first, those that go on in a list of their own."""
    store.note(["a", "b"], [], NOW_MS)
    store.note(["c"], ["a"], NOW_MS + 1_000)
    assert sorted(ids(store)) == ["a", "b", "c"]
    assert ids(store)[-1] == "b"
    assert ids(store, going=True) == ["c", "b"]
    assert dict(store.listed(100)) == {"a": NOW_MS + 1_000, "b": NOW_MS, "c": NOW_MS + 1_000}
    assert ids(store, 1) == ids(store)[:1]
    assert ids(store, 0) == ids(store, -1) == []


def test_a_job_that_ends_and_runs_again_goes_on(store: JobStore) -> None:
    """K3: as its last change says."""
    store.note([], ["a"], NOW_MS)
    assert ids(store, going=True) == []
    store.note(["a"], [], NOW_MS + 1)
    assert ids(store, going=True) == ids(store) == ["a"]


def test_an_id_may_be_any_text(store: JobStore) -> None:
    """L4: users name their jobs."""
    names = ["{a}", "ä 1", "", "x" * 300, "a\nb"]
    store.note(names, [], NOW_MS)
    assert sorted(ids(store)) == sorted(names)


def test_records_come_in_the_order_that_was_asked_for(store: JobStore) -> None:
    """K3: with the last attempt, and without journals; a job that is not known is a gap."""
    first = ScriptedExecution(store, tag="tag-1", token=1)
    first.logs("one")
    first.end_in_retry()
    found = store.records(["nobody", "job-1"])
    assert found[0] is None
    assert found[1] is not None
    assert (found[1].fields["s"], found[1].journal) == (Outcome.RETRY, ())
    assert [attempt.outcome for attempt in found[1].attempts] == [Outcome.RETRY]
    assert store.records([]) == []


def test_how_jobs_stand_is_read_without_what_they_say(store: JobStore) -> None:
    """K5: a checkpoint may be a megabyte, and a look at ten thousand jobs must not be ten gigabytes."""
    first = ScriptedExecution(store, tag="tag-1", token=1)
    first.progress({"rows": "x" * 10_000})
    first.checkpoint("x" * 10_000)
    first.end_in_retry()
    nobody, found = store.records(["nobody", "job-1"], brief=True)
    assert nobody is None
    assert found is not None
    assert found.fields == {
        "s": Outcome.RETRY, "n": "shop.work", "h": NOW_MS + 2_000, "w": "w1@host", "e": NOW_MS + 2_000, "r": "later",
        "z": "OSError",
    }  # fmt: skip
    assert found.attempts == ()


def test_a_list_reads_no_checkpoints(store: JobStore) -> None:
    """K3: only whether there is one, by which a job's speed is judged."""
    without = ScriptedExecution(store, "job-0", tag="tag-0", token=1)
    without.progress(1)
    first = ScriptedExecution(store, tag="tag-1", token=1)
    first.checkpoint("x" * 10_000)
    found = store.records(["job-0", "job-1"])
    assert [record and record.fields.get("k") for record in found] == [None, b""]


def test_many_records_are_read(store: JobStore) -> None:
    """K3: in several pipelines, all of them."""
    store.note([f"job-{n}" for n in range(1_200)], [], NOW_MS)
    assert len(store.records(ids(store, 2_000))) == 1_200


def test_a_cancelled_job_that_never_ran_is_listed(store: JobStore) -> None:
    """K3, G2: it has ended, and nobody else would say so."""
    store.cancel(request(), queued=True)
    assert (ids(store), ids(store, going=True)) == (["job-1"], [])


def test_a_lost_delivery_is_listed(store: JobStore) -> None:
    """K3, D5: its worker has no chance to say that it is to run again."""
    ScriptedExecution(store, tag="tag-1", token=1)
    store.lose(loss(tag="tag-1", token=1))
    assert ids(store, going=True) == ["job-1"]


@pytest.mark.parametrize("limit", [3, 0])
def test_the_index_keeps_the_newest(redis_url: str, limit: int) -> None:
    """K3, L3: it costs the same whatever the fleet does; with 0 there is none."""
    with redis_store(Endpoint(redis_url), index_limit=limit) as redis:
        for store in (redis, MemoryStore(index_limit=limit)):
            for n in range(5):
                store.note([], [f"job-{n}"], NOW_MS + n)
            assert ids(store) == [f"job-{n}" for n in (4, 3, 2)][:limit]


def test_an_entry_without_a_record_is_removed_by_who_finds_it(any_redis: RedisStore) -> None:
    """K3, L3: a job that expired is no job that goes on."""
    ScriptedExecution(any_redis, tag="tag-1", token=1)
    any_redis.note(["job-1", "gone"], [], NOW_MS)
    assert [record is None for record in any_redis.records(["job-1", "gone"])] == [False, True]
    assert ids(any_redis, going=True) == ids(any_redis) == ["job-1"]


def test_a_job_that_has_ended_is_removed_from_those_that_go_on(store: JobStore) -> None:
    """K3, K5: a retry without a delay may end in another process before the one before it has noted that the job goes on."""
    ScriptedExecution(store, "ended").end()
    ScriptedExecution(store, "running")
    store.note([], ["ended"], NOW_MS)
    store.note(["running", "ended"], [], NOW_MS + 1)
    store.records(["ended", "running"])
    assert sorted(ids(store, going=True)) == ["ended", "running"], "who did not ask for those that go on changes nothing"
    assert [record is None for record in store.records(["ended", "running"], going=True)] == [False, False]
    assert (ids(store, going=True), sorted(ids(store))) == (["running"], ["ended", "running"])


def test_who_may_only_read_reads_all_the_same(redis_server: RedisServer, redis_url: str) -> None:
    """K3, K5: an exporter needs no right to write; what has expired is left to others to tidy up."""
    with redis_store(Endpoint(redis_url)) as store, redis_server.client() as client:
        ScriptedExecution(store)
        store.note(["job-1", "gone"], [], NOW_MS)
        allowed = ("+@read", "+@connection", "+select", "+evalsha", "+eval", "+script", "+@pubsub")
        client.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "&*", *allowed)
        try:
            with redis_store(Endpoint(redis_url.replace("redis://", "redis://reader:secret@"))) as reader:
                records = reader.records(["job-1", "gone"], going=True)
                assert [record is None for record in records] == [False, True]
        finally:
            client.execute_command("ACL", "DELUSER", "reader")
        assert sorted(ids(store)) == ["gone", "job-1"]


def test_the_index_expires(any_redis: RedisStore) -> None:
    """L3: as everything does."""
    any_redis.note(["a"], ["b"], NOW_MS)
    for key in any_redis.keys.index:
        assert TTL - 60 < any_redis._read_client().pttl(key) / 1000 <= TTL
