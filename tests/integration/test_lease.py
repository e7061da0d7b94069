"""The lease on kombu's Redis transport: a real channel, a real Redis, and nothing guessed."""

from __future__ import annotations

import json
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from kombu.transport.redis import Mutex

from taskora_celery.lease import resolve
from taskora_celery.lease.moving import CLAIM_TTL
from taskora_celery.lease.protocol import NO_LEASE, Held, Hold, NoLease
from taskora_celery.lease.redis import DUE_AT_ONCE, HOLDS_AT_ONCE, RedisLease
from taskora_celery.lease.resolve import lease_for
from tests.support.brokers import (
    TOPIC,
    VISIBILITY,
    Broker,
    age,
    app_at,
    broker_at,
    claim_of,
    copies,
    hold_of,
    lease_of,
    queued,
    scores,
)
from tests.support.redis_server import RedisServer, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from tests.support.redis_topologies import RedisSentinel, TlsRedisServer


@pytest.fixture(autouse=True)
def _lease_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "taskora_celery.lease")


@pytest.fixture
def broker(redis_url: str) -> Iterator[Broker]:
    with broker_at(redis_url) as found:
        yield found


def at_once(*calls: Callable[[], Any]) -> None:
    """Make these calls in threads of their own, all in the same moment."""
    start, failures = threading.Barrier(len(calls)), []

    def run(call: Callable[[], Any]) -> None:
        start.wait(10)
        try:
            call()
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []


# --- renewing ------------------------------------------------------------------------------------------------------------


def test_renewing_moves_the_messages_time_to_now(broker: Broker, redis_client: redis.Redis) -> None:
    """D1, D2: the sweep puts back what is older than the visibility timeout; this is not, any more."""
    message = broker.taken()
    age(redis_client, message)
    assert broker.lease.renew([hold_of(message)]).held == (Held.HELD,)
    assert abs(scores(redis_client)[message.delivery_tag] - time.time()) < 5


def test_renewing_never_creates_a_member(broker: Broker, redis_client: redis.Redis) -> None:
    """D2: one that is created after the acknowledgement would be an orphan, which no sweep ever removes."""
    message = broker.taken()
    message.ack()
    assert broker.lease.renew([hold_of(message), Hold("nobody")]).held == (Held.GONE, Held.GONE)
    assert scores(redis_client) == {}


def test_renewing_tells_which_messages_are_still_held(broker: Broker, redis_client: redis.Redis) -> None:
    """D2: an acknowledged one among held ones, in the order of the question."""
    message = broker.taken()
    assert broker.lease.renew([Hold("gone"), hold_of(message), Hold("gone")]).held == (Held.GONE, Held.HELD, Held.GONE)
    assert list(scores(redis_client)) == [message.delivery_tag]


def test_renewing_twice_in_the_same_moment_finds_the_message_held(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """D2: Redis counts changes, and an unchanged score is none."""
    message = broker.taken()
    ahead = time.time() + 1_000
    monkeypatch.setattr("taskora_celery.lease.redis.time.time", lambda: ahead)
    assert broker.lease.renew([hold_of(message)]).held == (Held.HELD,)
    assert broker.lease.renew([hold_of(message)]).held == (Held.HELD,)


@pytest.mark.parametrize(("skew", "expected"), [(-500.0, 0.0), (500.0, 500.0)])
def test_the_later_of_two_clocks_counts(
    broker: Broker, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, skew: float, expected: float
) -> None:
    """D3: the sweep goes by its own worker's clock; a Redis on another machine may lag behind it, or run ahead."""
    message, now = broker.taken(), time.time()
    monkeypatch.setattr("taskora_celery.lease.redis.time.time", lambda: now + skew)
    broker.lease.renew([hold_of(message)])
    assert scores(redis_client)[message.delivery_tag] - now == pytest.approx(expected, abs=5)


def test_a_renewed_message_survives_the_sweep(broker: Broker, redis_client: redis.Redis) -> None:
    """D1: kombu's own sweep, which restores what is overdue."""
    message = broker.taken()
    age(redis_client, message)
    broker.lease.renew([hold_of(message)])
    broker.sweep()
    assert list(scores(redis_client)) == [message.delivery_tag]


def test_a_message_that_is_not_renewed_is_restored_by_the_sweep(broker: Broker, redis_client: redis.Redis) -> None:
    """D5: the counterpart, without which the test above would prove nothing."""
    age(redis_client, broker.taken())
    broker.sweep()
    assert scores(redis_client) == {}


@pytest.mark.parametrize("seconds_of_silence", [0.0, 3.0])
@pytest.mark.parametrize("timeout", [10.0, VISIBILITY, 600.0])
def test_a_message_with_a_timeout_of_its_own_is_due_so_long_behind_the_last_sign_of_life(
    broker: Broker, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, timeout: float, seconds_of_silence: float
) -> None:
    """D4: for kombu's own sweep too, which knows one visibility timeout only, be it longer or shorter than the message's."""
    message = broker.taken()
    broker.lease.renew([hold_of(message, timeout=timeout, age=seconds_of_silence)])
    end = time.time() - seconds_of_silence + timeout
    for at, held in ((end - 1, [message.delivery_tag]), (end + 1, [])):
        monkeypatch.setattr("kombu.transport.redis.time", lambda at=at: at)
        broker.sweep()
        assert list(scores(redis_client)) == held


def test_more_messages_than_one_script_takes_are_renewed_in_one_call(broker: Broker, redis_client: redis.Redis) -> None:
    """D1: one round trip for each thousand, however many are held, and each has its answer."""
    assert HOLDS_AT_ONCE == 1_000
    tags = [f"tag-{n}" for n in range(2_500)]
    redis_client.zadd("unacked_index", dict.fromkeys(tags, 1.0))
    gone = {1: "acked", 999: "acked", 1_000: "acked", 2_499: "acked"}
    redis_client.zrem("unacked_index", *[tags[n] for n in gone])
    broker.lease.renew([Hold("load the script")])
    calls = script_calls(redis_client)
    redis_client.zadd("unacked_index", {"lost": 1.0})
    renewal = broker.lease.renew([Hold(tag) for tag in tags], look=True)
    assert [due.tag for due in renewal.due] == ["lost"]
    redis_client.zrem("unacked_index", "lost")
    assert script_calls(redis_client) - calls == 3
    assert [n for n, held in enumerate(renewal.held) if held is not Held.HELD] == list(gone)
    assert min(scores(redis_client).values()) > time.time() - 60


def script_calls(client: redis.Redis) -> int:
    stats: dict[str, Any] = client.info("commandstats")
    return int(stats["cmdstat_evalsha"]["calls"])


# --- looking -------------------------------------------------------------------------------------------------------------


def test_what_is_only_watched_is_never_written(broker: Broker, redis_client: redis.Redis) -> None:
    """D4: a job that must show life is renewed by its own process alone; the worker's parent sees whether it is."""
    message = broker.taken()
    broker.lease.claim(hold_of(message, token=7))
    redis_client.expire(claim_of(message), 100)
    before = scores(redis_client)
    assert broker.lease.renew([hold_of(message, token=7, watched=True)]).held == (Held.HELD,)
    assert scores(redis_client) == before
    assert redis_client.ttl(claim_of(message)) <= 100


def test_what_is_watched_and_was_not_renewed_in_time_is_due(broker: Broker, redis_client: redis.Redis) -> None:
    """D4: this is how a handler that hangs is seen from outside."""
    message = broker.taken()
    age(redis_client, message, seconds=VISIBILITY - 5)
    assert broker.lease.renew([hold_of(message, watched=True)]).held == (Held.HELD,)
    age(redis_client, message, seconds=VISIBILITY + 1)
    before = scores(redis_client)
    assert broker.lease.renew([hold_of(message, watched=True)]).held == (Held.DUE,)
    assert scores(redis_client) == before


def test_what_is_renewed_is_not_due(broker: Broker, redis_client: redis.Redis) -> None:
    """D3: a keeper that comes late renews first and looks then, so it never puts back what it holds itself."""
    message = broker.taken()
    age(redis_client, message)
    renewal = broker.lease.renew([hold_of(message)], look=True)
    assert (renewal.held, renewal.due) == ((Held.HELD,), ())
    assert renewal.next_due == pytest.approx(VISIBILITY, abs=5)


def test_a_look_names_the_jobs_that_are_due_and_when_the_next_one_is(broker: Broker, redis_client: redis.Redis) -> None:
    """D5: whoever brings a message back tells the job's record, and wakes up for the next one."""
    first, second, third = broker.taken(task_id="job-1"), broker.taken(task_id="job-2", retries=2), broker.taken()
    age(redis_client, first, seconds=VISIBILITY + 30)
    age(redis_client, second, seconds=VISIBILITY + 10)
    age(redis_client, third, seconds=VISIBILITY - 20)
    age(redis_client, broker.taken(), seconds=VISIBILITY - 40)
    renewal = broker.lease.renew([], look=True)
    assert [(due.tag, due.job_id, due.name, due.attempt) for due in renewal.due] == [
        (first.delivery_tag, "job-1", "shop.work", 1), (second.delivery_tag, "job-2", "shop.work", 3),
    ]  # fmt: skip
    assert [due.late for due in renewal.due] == [pytest.approx(30, abs=5), pytest.approx(10, abs=5)]
    assert renewal.next_due == pytest.approx(20, abs=5)


def test_who_does_not_look_is_told_of_nothing(broker: Broker, redis_client: redis.Redis) -> None:
    """D5: only the worker's parent brings messages back."""
    age(redis_client, broker.taken())
    renewal = broker.lease.renew([])
    assert (renewal.due, renewal.next_due) == ((), None)


def test_a_look_at_an_empty_index_finds_nothing(broker: Broker) -> None:
    """D5: and no instant of a next one."""
    renewal = broker.lease.renew([], look=True)
    assert (renewal.held, renewal.due, renewal.next_due) == ((), (), None)


def test_a_look_finds_so_many_at_once_and_the_rest_later(broker: Broker, redis_client: redis.Redis) -> None:
    """D5: a whole worker's messages come due together; each look is bounded, and there is no next instant while more are due."""
    redis_client.zadd("unacked_index", {f"tag-{n:03}": 1.0 + n for n in range(DUE_AT_ONCE + 5)})
    renewal = broker.lease.renew([], look=True)
    assert [due.tag for due in renewal.due] == [f"tag-{n:03}" for n in range(DUE_AT_ONCE)]
    assert renewal.next_due is None
    for due in renewal.due:
        broker.lease.put_back(due.tag)
    assert len(broker.look()) == 5


def test_a_copy_that_cannot_be_read_is_left_alone(
    broker: Broker, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """D5: it is another program's, or damaged; what lies behind it is found all the same."""
    message = broker.taken(task_id="job-1")
    for n, raw in enumerate([b"\xff", b"3", b"[]", b"{}", b"null"]):
        redis_client.zadd("unacked_index", {f"junk-{n}": 1.0})
        redis_client.hset("unacked", f"junk-{n}", raw)
    age(redis_client, message)
    assert [due.job_id for due in broker.look()] == ["job-1"]
    assert len(warnings_in(caplog)) == 1


def test_a_message_of_another_program_has_no_job(broker: Broker, redis_client: redis.Redis) -> None:
    """D5: it is put back like any other, and nothing is written of it."""
    copy = json.dumps([{"body": "x", "headers": {"retries": "many"}, "properties": {}}, "", "celery"])
    redis_client.zadd("unacked_index", {"tag-1": 1.0})
    redis_client.hset("unacked", "tag-1", copy)
    (due,) = broker.look()
    assert (due.job_id, due.name, due.attempt) == ("", "", 1)


# --- claims --------------------------------------------------------------------------------------------------------------


def test_without_a_claim_the_first_delivery_counts(broker: Broker, redis_client: redis.Redis) -> None:
    """D7: a message that was never delivered again costs no key."""
    assert broker.lease.renew([hold_of(broker.taken(), token=7)]).held == (Held.HELD,)
    assert list(redis_client.scan_iter("taskora:*")) == []


@pytest.mark.parametrize("watched", [False, True])
def test_a_claim_takes_the_message_from_every_other_delivery(broker: Broker, redis_client: redis.Redis, watched: bool) -> None:
    """D7: all deliveries share one tag and one score; what tells them apart is the token of the claim."""
    message = broker.taken()
    age(redis_client, message, seconds=10)
    broker.lease.claim(hold_of(message, token=8))
    before = scores(redis_client)
    assert broker.lease.renew([hold_of(message, token=7, watched=watched)]).held == (Held.TAKEN,)
    assert scores(redis_client) == before, "the earlier delivery does not keep the later one's message"
    assert broker.lease.renew([hold_of(message, token=8)]).held == (Held.HELD,)
    assert scores(redis_client)[message.delivery_tag] > before[message.delivery_tag]


def test_who_does_not_know_its_token_is_not_taken(broker: Broker) -> None:
    """D3: a message that a worker holds and knows no more of than its tag is kept, whoever claimed it."""
    message = broker.taken()
    broker.lease.claim(hold_of(message, token=8))
    assert broker.lease.renew([hold_of(message)]).held == (Held.HELD,)


def test_the_last_claim_counts(broker: Broker) -> None:
    """D7: a message that was delivered three times is the third delivery's."""
    message = broker.taken()
    broker.lease.claim(hold_of(message, token=7))
    broker.lease.claim(hold_of(message, token=8))
    assert broker.lease.renew([hold_of(message, token=token) for token in (7, 8)]).held == (Held.TAKEN, Held.HELD)


def test_a_claim_ends_by_itself_and_lives_as_long_as_its_delivery(broker: Broker, redis_client: redis.Redis) -> None:
    """L3, D7: nothing stays for ever, and a job that runs for a week keeps its claim."""
    message = broker.taken()
    broker.lease.claim(hold_of(message, token=7))
    assert 0 < redis_client.ttl(claim_of(message)) <= CLAIM_TTL
    redis_client.expire(claim_of(message), 100)
    broker.lease.renew([hold_of(message, token=7)])
    assert CLAIM_TTL - 60 < redis_client.ttl(claim_of(message)) <= CLAIM_TTL


# --- putting back --------------------------------------------------------------------------------------------------------


def test_what_is_put_back_is_the_next_of_its_queue(broker: Broker, redis_client: redis.Redis) -> None:
    """D4: it has waited once already; the copy and its score are gone with it."""
    message = broker.taken(task_id="job-1")
    for n in range(3):
        broker.task.apply_async(task_id=f"later-{n}")
    broker.lease.put_back(message.delivery_tag)
    assert queued(redis_client) == ["job-1", "later-0", "later-1", "later-2"]
    assert (scores(redis_client), copies(redis_client)) == ({}, [])
    again = broker.take()
    assert (again.headers["id"], again.delivery_info["redelivered"]) == ("job-1", True)


def test_what_is_put_back_by_two_at_once_is_delivered_once(broker: Broker, redis_client: redis.Redis) -> None:
    """D5: every worker's keeper sees the same message run out."""
    tags = [broker.taken(task_id=f"job-{n}").delivery_tag for n in range(20)]

    def put_back(lease: RedisLease) -> None:
        for tag in tags:
            lease.put_back(tag)

    with lease_of(broker.app) as other, lease_of(broker.app) as third:
        at_once(*[lambda lease=lease: put_back(lease) for lease in (broker.lease, other, third)])
    assert sorted(queued(redis_client)) == sorted(f"job-{n}" for n in range(20))
    assert (scores(redis_client), copies(redis_client)) == ({}, [])


def test_of_several_who_see_a_message_run_out_one_may_put_it_back(broker: Broker, redis_client: redis.Redis) -> None:
    """D5: and for a while nobody else finds it due."""
    message = broker.taken()
    age(redis_client, message)
    mine: list[bool] = []
    with lease_of(broker.app) as other, lease_of(broker.app) as third:
        at_once(*[lambda lease=lease: mine.append(lease.take(message.delivery_tag)) for lease in (broker.lease, other, third)])
    assert sorted(mine) == [False, False, True]
    assert broker.look() == ()


def test_what_was_renewed_meanwhile_cannot_be_taken(broker: Broker, redis_client: redis.Redis) -> None:
    """D5: who looked saw it run out, and its worker came back before it was put back."""
    message = broker.taken()
    age(redis_client, message)
    (due,) = broker.look()
    broker.lease.renew([hold_of(message)])
    before = scores(redis_client)
    assert not broker.lease.take(due.tag)
    assert not broker.lease.take("nobody")
    assert scores(redis_client) == before


def test_what_was_taken_and_delivered_again_is_left_to_its_receiver(broker: Broker, redis_client: redis.Redis) -> None:
    """D5, D7: a sweep that had seen it before puts it back, and the next worker has it by now."""
    message = broker.taken(task_id="job-1")
    age(redis_client, message)
    assert broker.lease.take(message.delivery_tag)
    broker.channel.qos.restore_by_tag(message.delivery_tag)
    again = broker.take()
    before = scores(redis_client)
    broker.lease.put_back(message.delivery_tag)
    assert (scores(redis_client), queued(redis_client)) == (before, [])
    age(redis_client, again)
    assert broker.lease.take(again.delivery_tag)
    broker.lease.put_back(again.delivery_tag)
    assert queued(redis_client) == ["job-1"]


@pytest.mark.parametrize(
    "options", [{}, {"global_keyprefix": "t."}, {"unacked_mutex_key": "my_mutex"}], ids=["plain", "prefix", "key"]
)
def test_while_one_puts_back_no_other_does(redis_url: str, redis_client: redis.Redis, options: dict[str, Any]) -> None:
    """D5: kombu's sweep puts back all that it has seen, be it delivered again by then: it waits for us, and we for it."""
    with broker_at(redis_url, broker_transport_options=options) as broker, lease_of(broker.app) as other:
        prefix = options.get("global_keyprefix", "")
        message = broker.taken(task_id="job-1")
        age(redis_client, message, f"{prefix}unacked_index")
        with broker.lease.alone() as alone, other.alone() as second:
            assert (alone, second) == (True, False)
            broker.sweep()
            assert queued(redis_client, f"{prefix}celery") == []
        qos = broker.channel.qos
        with Mutex(broker.channel.client, qos.unacked_mutex_key, 300), broker.lease.alone() as alone:
            assert not alone
        with broker.lease.alone() as alone:
            assert alone
        broker.sweep()
        assert queued(redis_client, f"{prefix}celery") == ["job-1"]


def test_a_sweep_whose_worker_died_is_not_waited_for(
    broker: Broker, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D11: kombu keeps its mutex for five minutes, and nothing would come back until then."""
    clock = [1_000.0]
    monkeypatch.setattr("taskora_celery.lease.redis.time.monotonic", lambda: clock[0])
    redis_client.set("unacked_mutex", "of a dead worker", ex=300)

    def alone() -> bool:
        with broker.lease.alone() as found:
            return found

    found = []
    for passed in (0.0, 1.9, 0.2):
        clock[0] += passed
        found.append(alone())
    assert found == [False, False, True]
    assert redis_client.get("unacked_mutex") == b"of a dead worker", "it is not ours to release"
    redis_client.delete("unacked_mutex")
    assert alone()
    redis_client.set("unacked_mutex", "of the next sweep", ex=300)
    assert not alone(), "the patience begins anew"


@pytest.mark.parametrize(
    ("left", "alone"),
    [(299.0, False), (298.5, False), (297.9, True), (6.0, True), (4.9, False), (3.5, False), (2.9, True), (None, False)],
)
def test_how_long_a_sweep_has_held_its_mutex_is_seen_at_the_second_look(
    broker: Broker, redis_client: redis.Redis, left: float | None, alone: bool
) -> None:
    """D5, fault 5: from what is left of kombu's 300 seconds, or of our five; a dead worker's jobs wait for no more."""
    redis_client.set("unacked_mutex", "another's", px=None if left is None else int(left * 1000))
    with broker.lease.alone() as found:
        assert not found, "others may give it less time"
    with broker.lease.alone() as found:
        assert found is alone


def test_where_redis_forbids_to_ask_the_mutex_is_waited_for_as_long_as_it_is_seen(
    redis_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D5, fault 15: it is held by somebody, and that is all; leases are renewed as before."""
    clock = [1_000.0]
    monkeypatch.setattr("taskora_celery.lease.redis.time.monotonic", lambda: clock[0])
    redis_client.execute_command("ACL", "SETUSER", "timeless", "on", ">secret", "~*", "&*", "+@all", "-pttl")
    try:
        with broker_at(redis_url.replace("redis://", "redis://timeless:secret@")) as broker:
            redis_client.set("unacked_mutex", "another's", px=297_000)
            found = []
            for passed in (0.0, 1.9, 0.2):
                clock[0] += passed
                with broker.lease.alone() as alone:
                    found.append(alone)
            assert found == [False, False, True]
    finally:
        redis_client.execute_command("ACL", "DELUSER", "timeless")


def test_a_mutex_that_kombu_keeps_for_ever_is_waited_for_as_long_as_it_is_seen(
    redis_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D5, fault 5: an `unacked_mutex_expire` of None, with which kombu itself would never look again."""
    clock = [1_000.0]
    monkeypatch.setattr("taskora_celery.lease.redis.time.monotonic", lambda: clock[0])
    redis_client.set("unacked_mutex", "of a dead worker")
    with broker_at(redis_url, broker_transport_options={"unacked_mutex_expire": None}) as broker:
        with broker.lease.alone() as found:
            assert not found
        clock[0] += 2.1
        with broker.lease.alone() as found:
            assert found


def test_sweeps_of_others_that_follow_one_another_are_not_taken_for_one(
    broker: Broker, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D5: each of them lives, however long somebody or other has been at it."""
    clock = [1_000.0]
    monkeypatch.setattr("taskora_celery.lease.redis.time.monotonic", lambda: clock[0])
    for number in range(5):
        redis_client.set("unacked_mutex", f"sweep {number}", ex=300)
        with broker.lease.alone() as found:
            assert not found
        clock[0] += 1.0


def test_a_mutex_that_ran_out_is_left_to_the_next(broker: Broker, redis_client: redis.Redis) -> None:
    """D5: whoever took longer than it lasts must not release another's."""
    with broker.lease.alone():
        redis_client.set("unacked_mutex", "of the next sweep", ex=300)
    assert redis_client.get("unacked_mutex") == b"of the next sweep"


def test_what_nobody_holds_is_not_put_back(broker: Broker, redis_client: redis.Redis) -> None:
    """D4: acknowledged meanwhile, or never there."""
    message = broker.taken()
    message.ack()
    broker.lease.put_back(message.delivery_tag)
    broker.lease.put_back("nobody")
    assert queued(redis_client) == []


def test_a_score_without_a_copy_is_removed(broker: Broker, redis_client: redis.Redis) -> None:
    """D5: an orphan would be due for ever."""
    redis_client.zadd("unacked_index", {"orphan": 1.0})
    (due,) = broker.look()
    broker.lease.put_back(due.tag)
    assert broker.look() == ()


@pytest.mark.parametrize("priority", [0, 9])
def test_what_is_put_back_keeps_its_priority(redis_url: str, redis_client: redis.Redis, priority: int) -> None:
    """D10: each step of priority has a list of its own."""
    with broker_at(redis_url, broker_transport_options={"queue_order_strategy": "priority", "priority_steps": [0, 5]}) as broker:
        broker.task.apply_async(priority=priority)
        queues = [name for name in redis_client.scan_iter("celery*") if redis_client.type(name) == b"list"]
        message = broker.take()
        broker.lease.put_back(message.delivery_tag)
        assert [redis_client.llen(name) for name in queues] == [1]


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "taskora_celery.lease"]


def test_a_message_of_a_topic_exchange_goes_back_to_its_queue(redis_url: str, redis_client: redis.Redis) -> None:
    """D5: the lease's own connection has declared no exchange; kombu takes what it does not know for direct, and drops it."""
    with broker_at(redis_url, task_queues=[TOPIC], task_default_queue="orders") as broker:
        broker.task.apply_async(task_id="job-1", queue=TOPIC, routing_key="order.created")
        message = broker.take(TOPIC)
        age(redis_client, message)
        (due,) = broker.look()
        broker.lease.put_back(due.tag)
        assert (due.job_id, queued(redis_client, "orders")) == ("job-1", ["job-1"])


def test_a_message_whose_exchange_nobody_knows_is_not_lost(
    redis_url: str, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """D5: it stays where it is, for a worker that knows it; the log says so once, and what lies behind it is found."""
    with (
        broker_at(redis_url, task_queues=[TOPIC], task_default_queue="orders") as other,
        broker_at(redis_url) as broker,
    ):
        strangers = []
        for n in range(DUE_AT_ONCE + 1):
            other.task.apply_async(task_id=f"strange-{n}", queue=TOPIC, routing_key="order.created")
            strangers.append(other.take(TOPIC))
            age(redis_client, strangers[-1], seconds=2_000)
        age(redis_client, broker.taken(task_id="job-1"))
        for _ in range(3):
            found = broker.look()
            broker.lease.put_back(strangers[0].delivery_tag)
        assert [due.job_id for due in found] == ["job-1"]
        assert sorted(copies(redis_client)) == sorted([found[0].tag, *[message.delivery_tag for message in strangers]])
        assert len(warnings_in(caplog)) == 1
        assert "('shop', 'order.created')" in warnings_in(caplog)[0]
        assert len(other.look()) == DUE_AT_ONCE, "where it is known, it is found and can go back"


def test_a_connection_that_breaks_is_no_exchange_that_nobody_knows(
    redis_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """D5: what could not be asked is asked again, and not left alone."""

    def lost(exchange: str) -> None:
        raise OSError(f"the connection broke over {exchange}")

    with broker_at(redis_url, task_queues=[TOPIC], task_default_queue="orders") as broker:
        broker.task.apply_async(queue=TOPIC, routing_key="order.created")
        message = broker.take(TOPIC)
        age(redis_client, message)
        monkeypatch.setattr(broker.lease._channel, "get_table", lost)
        with pytest.raises(ConnectionError, match="broke over shop"):
            broker.look()
        with pytest.raises(ConnectionError, match="broke over shop"):
            broker.lease.put_back(message.delivery_tag)
    assert warnings_in(caplog) == []


# --- what belongs to the transport ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [5, 30, 43_200])
def test_the_visibility_timeout_is_that_of_the_channel(redis_url: str, timeout: int) -> None:
    """D2: from the transport's options."""
    with broker_at(redis_url, visibility=timeout) as broker:
        assert broker.lease.visibility_timeout == float(timeout)


def test_without_options_the_timeout_is_kombus_default(redis_url: str) -> None:
    """D2: an hour, as kombu has it."""
    with broker_at(redis_url, visibility=None) as broker:
        assert broker.lease.visibility_timeout == 3_600.0


@pytest.mark.parametrize(
    ("options", "index", "prefix"),
    [
        ({"global_keyprefix": "tenant_a:"}, "tenant_a:unacked_index", "tenant_a:"),
        ({"unacked_index_key": "my_index", "unacked_key": "my_unacked"}, "my_index", ""),
        ({"global_keyprefix": "t.", "unacked_index_key": "idx"}, "t.idx", "t."),
        ({"queue_order_strategy": "priority", "priority_steps": [0, 5]}, "unacked_index", ""),
    ],
    ids=["prefix", "keys", "both", "priorities"],
)
def test_key_names_are_those_of_the_transport(
    redis_url: str, redis_client: redis.Redis, options: dict[str, Any], index: str, prefix: str
) -> None:
    """D2: prefix and custom names come from the live channel, for all that the lease does."""
    with broker_at(redis_url, broker_transport_options=options) as broker:
        message = broker.taken(task_id="job-1")
        age(redis_client, message, index)
        assert [due.job_id for due in broker.look()] == ["job-1"]
        assert broker.lease.renew([hold_of(message, token=7)]).held == (Held.HELD,)
        assert abs(scores(redis_client, index)[message.delivery_tag] - time.time()) < 5
        broker.lease.claim(hold_of(message, token=8))
        assert list(redis_client.scan_iter("*claim*")) == [f"{prefix}{claim_of(message)}".encode()]
        assert broker.lease.renew([hold_of(message, token=7)]).held == (Held.TAKEN,)
        broker.lease.put_back(message.delivery_tag)
        assert queued(redis_client, f"{prefix}celery") == ["job-1"]
        assert [key for key in redis_client.scan_iter() if b"index" in key or b"idx" in key] == []


def test_the_database_is_that_of_the_broker(redis_url: str, broker: Broker, redis_client: redis.Redis) -> None:
    """D2: which is not 0 here."""
    assert not redis_url.endswith("/0")
    message = broker.taken()
    assert broker.lease.renew([hold_of(message)]).held == (Held.HELD,)
    assert list(scores(redis_client)) == [message.delivery_tag]


def test_it_works_behind_a_sentinel(redis_sentinel: RedisSentinel) -> None:
    """D2, D10: the master is asked for by the channel's own pool."""
    with (
        redis_sentinel.client() as client,
        broker_at(redis_sentinel.url(), broker_transport_options=redis_sentinel.transport_options) as broker,
    ):
        message = broker.taken(task_id="job-1")
        age(client, message)
        assert broker.lease.renew([hold_of(message)]).held == (Held.HELD,)
        assert abs(scores(client)[message.delivery_tag] - time.time()) < 5
        broker.lease.put_back(message.delivery_tag)
        assert queued(client) == ["job-1"]


def test_it_works_over_tls(tls_redis: TlsRedisServer) -> None:
    """D2, D10: with the certificates of the transport."""
    with tls_redis.client() as client, broker_at(tls_redis.url()) as broker:
        message = broker.taken(task_id="job-1")
        age(client, message)
        assert broker.lease.renew([hold_of(message)]).held == (Held.HELD,)
        broker.lease.put_back(message.delivery_tag)
        assert queued(client) == ["job-1"]


def test_a_transport_without_a_visibility_timeout_has_nothing_to_renew() -> None:
    """D10: renewing does nothing, and everything is held."""
    lease = lease_for(Celery("shop", broker="memory://", set_as_current=False))
    assert isinstance(lease, NoLease)
    assert lease is NO_LEASE
    renewal = lease.renew([Hold("a"), Hold("b", watched=True)], look=True)
    assert (renewal.held, renewal.due, renewal.next_due) == ((Held.HELD, Held.HELD), (), None)
    assert lease.visibility_timeout is None
    lease.claim(Hold("a", 1))
    lease.put_back("a")
    lease.close()


# --- a broker that lets one down -----------------------------------------------------------------------------------------


def test_a_lost_connection_is_a_connection_error_and_the_next_renewal_works() -> None:
    """D1: the reporter tells it once and tries again."""
    with RedisServer() as server, broker_at(server.url()) as broker:
        hold = hold_of(broker.taken(), token=7)
        server.kill()
        for call in (
            lambda: broker.lease.renew([hold]),
            broker.look,
            lambda: broker.lease.claim(hold),
            lambda: broker.lease.put_back(hold.tag),
        ):
            with pytest.raises(ConnectionError):
                call()
        server.start()
        assert broker.lease.renew([hold]).held == (Held.GONE,)  # this server keeps nothing over a restart
        broker.lease.claim(hold)


def test_a_redis_that_refuses_to_write_is_a_connection_error() -> None:
    """D1: a replica, a full memory, a script that may not run: nothing is known to have been renewed."""
    with RedisServer() as server, broker_at(server.url()) as broker, server.client() as client:
        hold = hold_of(broker.taken(), token=7)
        client.replicaof("127.0.0.1", str(free_port()))
        with pytest.raises(ConnectionError, match="read only"):
            broker.lease.renew([hold])


def test_a_broker_that_hangs_holds_up_a_renewal_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """D1: kombu itself would wait for ever, and the reports of all jobs with it."""
    assert resolve.TIMEOUT == 5.0
    monkeypatch.setattr(resolve, "TIMEOUT", 0.3)
    with RedisServer() as server, broker_at(server.url()) as broker:
        hold = hold_of(broker.taken(), token=7)
        server.pause()
        try:
            for call in (lambda: broker.lease.renew([hold]), broker.look, lambda: broker.lease.put_back(hold.tag)):
                started = time.monotonic()
                with pytest.raises(ConnectionError):
                    call()
                assert time.monotonic() - started < 1
        finally:
            server.resume()
        assert broker.lease.renew([hold]).held == (Held.HELD,)


def test_a_broker_that_hangs_holds_up_the_first_renewal_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """D1: the kernel takes the connection, and nobody answers on it."""
    monkeypatch.setattr(resolve, "TIMEOUT", 0.3)
    with RedisServer() as server, app_at(server.url()) as app:
        server.pause()
        try:
            started = time.monotonic()
            with pytest.raises(Exception, match=r"(?i)timeout"):
                lease_for(app)
            assert time.monotonic() - started < 1
        finally:
            server.resume()


def test_the_timeout_of_the_transport_is_kept_where_the_user_has_set_one(redis_url: str) -> None:
    """D1, D2: the options are the user's."""
    with broker_at(redis_url, broker_transport_options={"socket_timeout": 33}) as broker:
        assert broker.lease._channel.socket_timeout == 33
        assert broker.lease._channel.socket_connect_timeout == resolve.TIMEOUT


def test_the_timeout_is_the_leases_alone(redis_url: str) -> None:
    """D1: a consumer that waits for messages must not be cut off by it."""
    with broker_at(redis_url) as broker:
        assert broker.channel.socket_timeout is None
        assert "socket_timeout" not in broker.app.conf.broker_transport_options


def test_a_broker_that_is_away_is_not_waited_for() -> None:
    """D1: kombu would try again for ever, and the reports of all jobs with it."""
    with app_at(f"redis://127.0.0.1:{free_port()}/0") as app:
        started = time.monotonic()
        with pytest.raises(Exception, match="refused"):
            lease_for(app)
        assert time.monotonic() - started < 1


def test_each_of_several_brokers_is_tried(redis_url: str) -> None:
    """D1: the app fails over between them, and so does its lease."""
    away = ";".join(f"redis://127.0.0.1:{free_port()}/0" for _ in range(2))
    with app_at(f"{away};{redis_url}") as app, lease_of(app) as lease:
        assert lease.renew([Hold("nobody")]).held == (Held.GONE,)


#: What kombu never writes: tags that are no text, copies that are none, headers of any shape.
NO_COPIES = [
    b"", b"garbage", b"\xff\xfe", b"[" * 100_000, b"null", b"[]", b"[1, 2]", b"[null, [], {}]",
    b'[{"headers": []}, "", "celery"]',
    b'[{"headers": {"id": [], "task": {}, "retries": "x"}}, "", "celery"]',
    b'[{"headers": {"id": "\\ud800", "task": "\\udfff", "retries": ' + b"9" * 400 + b'}}, "nowhere", "celery"]',
]  # fmt: skip


def test_garbage_among_the_unacknowledged_keeps_nobody_from_what_is_due(broker: Broker, redis_client: redis.Redis) -> None:
    """D2, D5: it is told of or passed over; what is held is renewed, and a message that is due is found and put back."""
    held, due = broker.taken(), broker.taken(task_id="job-2")
    age(redis_client, due)
    index: Any = {f"tag-{number}": number for number in range(len(NO_COPIES))}
    copied: Any = dict(zip(index, NO_COPIES, strict=True))
    index.update({b"\xff\xfe": 1.0, b"": 2.0, b"\xed\xa0\x80": 3.0, "never": float("-inf"), "late": float("inf")})
    redis_client.zadd("unacked_index", index)
    redis_client.hset("unacked", mapping=copied)
    for _ in range(2):
        renewal = broker.lease.renew([hold_of(held)], look=True)
        assert renewal.held == (Held.HELD,)
        for found in renewal.due:
            assert broker.lease.take(found.tag)
            (found.job_id + found.name).encode()  # fit to be written into a record
            if found.job_id == "job-2":
                broker.lease.put_back(found.tag)
    assert queued(redis_client) == ["job-2"]
