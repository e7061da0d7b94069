"""The fence of the worker's parent: an earlier delivery cannot take the message from a later one, whatever it does."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import kombu
import pytest
from celery.worker.consumer import Connection, Consumer, Tasks
from redis.exceptions import NoPermissionError, RedisError

from taskora_celery.lease.fence import FencedChannel, Places, RedisFence, places_in
from taskora_celery.lease.protocol import Held, Hold
from taskora_celery.worker.step import HandoverStep
from tests.support.brokers import VISIBILITY, Broker, age, app_at, broker_at, claim_of, copies, hold_of, queued, scores
from tests.support.redis_server import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

EARLIER, LATER = 7, 8  # tokens


@pytest.fixture
def broker(redis_url: str) -> Iterator[Broker]:
    with broker_at(redis_url) as found:
        yield found


def fenced(message: Any, token: int = EARLIER) -> FencedChannel:
    """Let the message be acknowledged as the worker's parent does."""
    channel = message.channel
    message.channel = fenced = FencedChannel(channel, RedisFence(channel), hold_of(message, token=token))
    return fenced


def superseded(broker: Broker, **options: Any) -> Any:
    """A message that has been delivered again since it was taken."""
    message = broker.taken(**options)
    channel = fenced(message)
    channel._fence.claim(Hold(message.delivery_tag, LATER))
    return message


def is_counted(message: Any) -> bool:
    """Whether kombu holds a slot of the prefetch count for the message, and would put it back when the channel is closed."""
    qos = message.channel.qos
    return message.delivery_tag in qos._delivered and message.delivery_tag not in qos._dirty


ENDS: list[Callable[[Any], None]] = [
    lambda message: message.ack(),
    lambda message: message.reject(requeue=False),
    lambda message: message.reject(requeue=True),
]
END_IDS = ["ack", "reject", "requeue"]


@pytest.mark.parametrize("claimed", [False, True])
@pytest.mark.parametrize("end", ENDS[:2], ids=END_IDS[:2])
def test_the_delivery_that_counts_removes_all_of_its_message(
    broker: Broker, redis_client: redis.Redis, end: Callable[[Any], None], claimed: bool
) -> None:
    """D7: copy, score and, where it was delivered again, claim; nothing of it stays, and its slot is free."""
    message = broker.taken()
    channel = fenced(message)
    if claimed:
        channel._fence.claim(channel.hold)
    end(message)
    assert (copies(redis_client), scores(redis_client), queued(redis_client)) == ([], {}, [])
    assert redis_client.exists(claim_of(message)) == 0
    assert (is_counted(message), channel.settled) == (False, True)


@pytest.mark.parametrize("end", ENDS, ids=END_IDS)
def test_an_earlier_delivery_leaves_the_message_to_the_later_one(
    broker: Broker, redis_client: redis.Redis, end: Callable[[Any], None]
) -> None:
    """D7: both have one tag and one copy; without it the later delivery's job would be lost with its worker."""
    message = superseded(broker)
    before = scores(redis_client)
    end(message)
    assert (copies(redis_client), scores(redis_client), queued(redis_client)) == ([message.delivery_tag], before, [])
    assert redis_client.get(claim_of(message)) == b"%d" % LATER
    assert not is_counted(message), "its slot of the prefetch count is free all the same"


@pytest.mark.parametrize("end", ENDS, ids=END_IDS)
def test_an_earlier_delivery_leaves_the_slot_of_a_later_one_on_its_channel(broker: Broker, end: Callable[[Any], None]) -> None:
    """D3, D7: what kombu does not count is not renewed while it waits, and not put back when the worker ends."""
    message = broker.taken()
    fenced(message)
    broker.lease.put_back(message.delivery_tag)
    again = broker.take()
    later = fenced(again, LATER)
    later._fence.claim(later.hold)
    end(message)
    assert is_counted(again)
    again.ack()
    assert not is_counted(again)


def test_a_refused_acknowledgement_is_told(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    """D7: refused, and logged."""
    message = superseded(broker)
    message.ack()
    told = [record.message for record in caplog.records if record.name == "taskora_celery.lease"]
    assert told == [f"message {message.delivery_tag} was delivered again: the earlier delivery's acknowledgement is refused"]


def test_what_was_acknowledged_by_the_later_delivery_stays_so(broker: Broker, redis_client: redis.Redis) -> None:
    """D7: nothing is left to be removed, and nothing comes back."""
    message = superseded(broker)
    assert message.channel._fence.acknowledge(Hold(message.delivery_tag, LATER)) is Held.HELD
    assert message.channel._fence.acknowledge(Hold(message.delivery_tag, EARLIER)) is Held.GONE
    message.ack()
    assert (copies(redis_client), scores(redis_client), queued(redis_client)) == ([], {}, [])


def test_the_delivery_that_counts_may_put_its_message_back(broker: Broker, redis_client: redis.Redis) -> None:
    """D7, I3: a requeue is kombu's own, for who still has the message."""
    message = broker.taken(task_id="job-1")
    channel = fenced(message)
    channel._fence.claim(channel.hold)
    message.reject(requeue=True)
    assert (copies(redis_client), scores(redis_client), queued(redis_client)) == ([], {}, ["job-1"])
    assert (is_counted(message), channel.settled) == (False, True)
    assert redis_client.ttl(claim_of(message)) > 0


class Elsewhere:
    """Another worker, which has the message between what a transaction of ours asks and what it changes, once."""

    def __init__(self, broker: Broker, message: Any, channel: Any, *, ends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.had_it = False
        self._broker, self._message, self._ends = broker, message, ends
        self._restore = channel._do_restore_message
        monkeypatch.setattr(channel, "_do_restore_message", self._late)

    def _late(self, *arguments: Any, **named: Any) -> None:
        if not self.had_it:
            self.had_it = True
            with self._broker.app.connection_for_read() as connection:
                self._take(connection.default_channel)
        self._restore(*arguments, **named)

    def _take(self, channel: Any) -> None:
        channel.qos.restore_by_tag(self._message.delivery_tag)  # as kombu's sweep does
        again = Broker(self._broker.app, channel, self._broker.lease).take()
        later = fenced(again, LATER)
        later._fence.claim(later.hold)
        if self._ends:
            again.ack()
        channel.qos._delivered.clear()  # it goes on: nothing is put back by its end


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("prefix", ["", "tenant_a:"])
@pytest.mark.parametrize("by", ["its delivery", "its worker's keeper", "who found it due"])
def test_a_message_that_another_worker_takes_meanwhile_is_not_put_back(
    redis_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, by: str, prefix: str, ends: bool
) -> None:
    """D7: asked and done are one: else the message would be in its queue while it runs."""
    with broker_at(redis_url, broker_transport_options={"global_keyprefix": prefix} if prefix else {}) as broker:
        message, index = broker.taken(task_id="job-1"), f"{prefix}unacked_index"
        channel = fenced(message)
        if by == "its delivery":
            other = Elsewhere(broker, message, broker.channel, ends=ends, monkeypatch=monkeypatch)
            message.reject(requeue=True)
            assert (is_counted(message), channel.settled) == (False, True)
        else:
            token = EARLIER if by == "its worker's keeper" else None
            if token is None:
                age(redis_client, message, index)
                assert broker.lease.take(message.delivery_tag)
            other = Elsewhere(broker, message, broker.lease._channel, ends=ends, monkeypatch=monkeypatch)
            broker.lease.put_back(message.delivery_tag, token=token)
        assert other.had_it
        held: Any = redis_client.hkeys(f"{prefix}unacked")
        assert (len(held), len(scores(redis_client, index)), redis_client.llen(f"{prefix}celery")) == (not ends, not ends, 0)
        claim = None if ends else b"%d" % LATER
        assert redis_client.get(f"{prefix}{claim_of(message)}") == claim, "the later delivery still has it"
        channel.give_up()


def test_a_message_that_may_not_be_claimed_is_given_back_by_kombus_own_code(
    broker: Broker, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """D7, L1: a broker's user who may not read claims has no fence, and is told so once; nothing is lost."""
    message = broker.taken(task_id="job-1")
    channel = fenced(message)

    def refused(**_: Any) -> None:
        raise NoPermissionError("this user has no permissions to access one of the keys")

    channel._fence._client.pipeline = refused
    message.reject(requeue=True)
    assert (copies(redis_client), queued(redis_client)) == ([], ["job-1"])
    assert "Redis refuses" in caplog.text


@pytest.mark.parametrize("claimed", [False, True])
@pytest.mark.parametrize("end", ENDS, ids=END_IDS)
def test_what_was_put_back_is_fenced_before_it_is_claimed(
    broker: Broker, redis_client: redis.Redis, end: Callable[[Any], None], claimed: bool
) -> None:
    """D6, D7: a worker receives a message a moment before it claims it; who held it before leaves it alone from the start.

    Given back in that moment, it would be delivered a third time, push out the second, and count as a loss that there was not.
    """
    message = broker.taken(task_id="job-1")
    channel = fenced(message)
    if claimed:
        channel._fence.claim(channel.hold)
    broker.lease.put_back(message.delivery_tag)
    assert redis_client.ttl(claim_of(message)) > 0
    again = broker.take()
    assert again.delivery_tag == message.delivery_tag
    assert broker.lease.renew([channel.hold]).held == (Held.TAKEN,)
    end(message)
    assert (copies(redis_client), queued(redis_client)) == ([again.delivery_tag], [])
    later = fenced(again, LATER)
    later._fence.claim(later.hold)
    again.ack()
    assert (copies(redis_client), scores(redis_client), redis_client.exists(claim_of(again))) == ([], {}, 0)


@pytest.mark.parametrize("garbage", [b"", b"garbage", b"\xff\xfe", b"9" * 5_000])
def test_a_claim_that_is_none_of_ours_takes_the_message(broker: Broker, redis_client: redis.Redis, garbage: bytes) -> None:
    """D7: nobody can say whose it is; the message stays, and is delivered again."""
    message = broker.taken(task_id="job-1")
    channel = fenced(message)
    redis_client.set(claim_of(message), garbage, ex=60)
    assert channel.is_taken()
    assert not channel.is_mine()
    assert broker.lease.renew([channel.hold]).held == (Held.TAKEN,)
    channel.basic_reject(message.delivery_tag, requeue=True)
    other = fenced(message)
    other.basic_ack(message.delivery_tag)
    assert (copies(redis_client), queued(redis_client)) == ([message.delivery_tag], [])


def test_what_is_settled_is_left_alone(broker: Broker, redis_client: redis.Redis) -> None:
    """D7: a job that was given up, or has acknowledged, does not touch the message of whoever runs it next."""
    message = broker.taken(task_id="job-1")
    channel = fenced(message)
    broker.lease.put_back(message.delivery_tag)
    channel.give_up()
    again = broker.take()
    assert again.delivery_tag == message.delivery_tag
    assert not channel.is_mine(), "nobody has claimed it, and it is given up all the same"
    channel.basic_ack(message.delivery_tag)
    channel.basic_reject(message.delivery_tag, requeue=True)
    assert (copies(redis_client), queued(redis_client)) == ([message.delivery_tag], [])


def test_what_was_given_up_is_not_put_back_when_the_channel_is_closed(redis_url: str, redis_client: redis.Redis) -> None:
    """D4: kombu puts back what its channel holds at a shutdown; this is on its way to another delivery already."""
    with app_at(redis_url) as app, app.connection_for_read() as connection:
        app.tasks["shop.work"].apply_async(task_id="job-1")
        broker = Broker(app, connection.default_channel, None)  # type: ignore[arg-type]
        message = broker.take()
        fenced(message).give_up()
        connection.default_channel.close()
    assert (copies(redis_client), queued(redis_client)) == ([message.delivery_tag], [])


@pytest.mark.parametrize("later", ["", "received", "ended"])
def test_a_worker_that_ends_gives_back_what_is_still_its_own(redis_url: str, redis_client: redis.Redis, later: str) -> None:
    """I3, D7: kombu puts back what its channel holds, whoever has it by then; so nothing is left to it."""
    with broker_at(redis_url) as other, other.app.connection_for_read() as connection:
        channel = connection.default_channel
        mine = Broker(other.app, channel, other.lease)
        message, unfenced = mine.taken(task_id="job-1"), mine.taken(task_id="job-2")
        fenced(message)
        if later:
            channel.qos.restore_by_tag(message.delivery_tag)  # as another worker's sweep does
            again = other.take()
            claimed = fenced(again, LATER)
            claimed._fence.claim(claimed.hold)
            if later == "ended":
                again.ack()
        step = HandoverStep(SimpleNamespace())
        step.shutdown(SimpleNamespace(task_consumer=SimpleNamespace(channel=channel)))
        assert (is_counted(message), is_counted(unfenced)) == (False, True)
        channel.close()
        held = [message.delivery_tag] if later == "received" else []
        assert (copies(redis_client), list(scores(redis_client))) == (held, held)
        assert sorted(queued(redis_client)) == (["job-2"] if later else ["job-1", "job-2"])
        step.shutdown(SimpleNamespace(task_consumer=None))


def test_a_worker_that_ends_is_not_kept_by_its_broker(caplog: pytest.LogCaptureFixture) -> None:
    """I3: what it cannot give back comes back when its lease runs out."""
    with RedisServer() as server, broker_at(server.url()) as broker:
        fenced(broker.taken())
        server.kill()
        HandoverStep(SimpleNamespace()).shutdown(SimpleNamespace(task_consumer=SimpleNamespace(channel=broker.channel)))
        assert "what is held cannot be given back" in caplog.text
        server.start()


def test_what_is_held_is_given_back_before_the_channel_is_closed() -> None:
    """I3, D7: behind it, kombu would have done it."""
    with app_at("redis://localhost:1") as app:
        app.finalize()
        blueprint = Consumer.Blueprint(steps=app.steps["consumer"])
        blueprint.steps = blueprint.claim_steps()
        order = list(blueprint._finalize_steps(blueprint.steps))
        assert order.index(Connection) < order.index(Tasks) < order.index(HandoverStep)  # each is shut down before those


def test_who_claims_the_message_has_it(broker: Broker) -> None:
    """D7: asked of Redis, at each time."""
    message = broker.taken()
    channel = fenced(message)
    assert channel.is_mine(), "a first delivery needs no claim"
    channel._fence.claim(channel.hold)
    assert channel.is_mine()
    channel._fence.claim(Hold(message.delivery_tag, LATER))
    assert not channel.is_mine()


def test_a_message_that_came_back_to_its_own_worker_is_acknowledged_on_its_new_channel(
    broker: Broker, redis_client: redis.Redis
) -> None:
    """D3: after a lost connection the running job goes on under the delivery that its own worker received."""
    message = broker.taken()
    channel = fenced(message)
    with broker.app.connection_for_read() as connection:
        other = connection.default_channel
        other.qos.restore_by_tag(message.delivery_tag)  # as kombu does when a connection is lost
        again = Broker(broker.app, other, broker.lease).take()
        channel.move(again, RedisFence(other))
        assert is_counted(again)
        channel.basic_ack(message.delivery_tag)
        assert not is_counted(again)
    assert (copies(redis_client), scores(redis_client), queued(redis_client)) == ([], {}, [])


def test_an_acknowledgement_outlives_the_channel(broker: Broker, redis_client: redis.Redis) -> None:
    """D7: a job that runs while its consumer's connection is lost still removes the message when it has ended."""
    with broker.app.connection_for_read() as connection:
        message = Broker(broker.app, connection.default_channel, broker.lease)
        taken = message.taken()
        channel = fenced(taken)
        channel.qos._delivered.clear()  # the connection is lost: nothing is put back by it
    channel.basic_ack(taken.delivery_tag)
    assert (copies(redis_client), scores(redis_client)) == ([], {})


def test_what_is_given_back_behind_its_channels_end_comes_back_by_its_lease(broker: Broker, redis_client: redis.Redis) -> None:
    """I3, D7: a job outlives a lost connection, and asks to be requeued; a channel that is closed knows no queue any more."""
    with broker.app.connection_for_read() as connection:
        message = Broker(broker.app, connection.default_channel, broker.lease).taken(task_id="job-1")
        channel = fenced(message)
        channel.qos._delivered.clear()  # Redis was away when it was closed
        connection.default_channel.close()
        message.reject(requeue=True)
    assert (channel.settled, copies(redis_client), queued(redis_client)) == (True, [message.delivery_tag], [])
    age(redis_client, message)
    assert broker.lease.take(message.delivery_tag)
    broker.lease.put_back(message.delivery_tag)
    assert queued(redis_client) == ["job-1"]


def test_from_its_reception_on_a_message_has_the_timeout_of_its_job(broker: Broker, redis_client: redis.Redis) -> None:
    """D5: kombu has given it the visibility timeout; who dies before the first renewal must not hold it for so long."""
    message, other = broker.taken(), broker.taken()
    channel = message.channel
    FencedChannel(channel, RedisFence(channel), hold_of(other)).received()
    FencedChannel(channel, RedisFence(channel), hold_of(message, timeout=5.0)).received()
    left = {tag: score + VISIBILITY - time.time() for tag, score in scores(redis_client).items()}
    assert (3 < left[message.delivery_tag] <= 5, left[other.delivery_tag] > VISIBILITY - 10) == (True, True)
    message.ack()
    FencedChannel(channel, RedisFence(channel), hold_of(message, timeout=5.0)).received()
    assert list(scores(redis_client)) == [other.delivery_tag], "never created"


def test_an_error_is_one_that_kombu_knows() -> None:
    """D7: Celery's consumer handles what kombu's own acknowledgement raises when its Redis is away."""
    with RedisServer() as server, broker_at(server.url()) as broker:
        message = broker.taken()
        fenced(message)
        server.kill()
        with pytest.raises(RedisError) as caught:
            message.ack()
        assert isinstance(caught.value, broker.app.connection_for_read().connection_errors)
        server.start()


def test_all_else_is_the_channels_own(broker: Broker) -> None:
    """A6: who asks the message's channel for anything finds it."""
    message = broker.taken()
    fenced(message)
    assert message.channel.visibility_timeout == broker.channel.visibility_timeout
    assert message.channel.connection is broker.channel.connection
    assert message.payload == [[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]


@pytest.mark.parametrize(
    ("options", "prefix"),
    [({"global_keyprefix": "tenant_a:"}, "tenant_a:"), ({"unacked_index_key": "my_index", "unacked_key": "my_unacked"}, "")],
    ids=["prefix", "keys"],
)
def test_the_fence_stands_under_the_names_of_the_transport(
    redis_url: str, redis_client: redis.Redis, options: dict[str, Any], prefix: str
) -> None:
    """D2, D7: the lease and the fence, which have two connections, mean the same keys."""
    with broker_at(redis_url, broker_transport_options=options) as broker:
        message = superseded(broker)
        assert list(redis_client.scan_iter("*claim*")) == [f"{prefix}{claim_of(message)}".encode()]
        assert broker.lease.renew([hold_of(message, token=EARLIER)]).held == (Held.TAKEN,)
        message.ack()
        assert broker.lease.renew([hold_of(message, token=LATER)]).held == (Held.HELD,)
        message.channel._fence.acknowledge(Hold(message.delivery_tag, LATER))
        assert list(redis_client.scan_iter("*unacked*")) + list(redis_client.scan_iter("*my_*")) == []


# --- the connections of the channel ------------------------------------------------------------------------------------

MANY = 40


def end_at_once(broker: Broker, end: Callable[[Any], None], before: Callable[[], Any] | None = None) -> None:
    """End so many messages in one moment, ``before`` which something is done, each in a thread of its own.

    Raises what any of them has raised.
    """
    fence = RedisFence(broker.channel)
    messages = [broker.taken(task_id=f"job-{number}") for number in range(MANY)]
    for message in messages:
        message.channel = FencedChannel(broker.channel, fence, hold_of(message, token=EARLIER))
    start = threading.Barrier(MANY, before)

    def run(message: Any) -> None:
        start.wait(10)
        end(message)

    with ThreadPoolExecutor(MANY) as threads:
        list(threads.map(run, messages))
    assert not any(is_counted(message) for message in messages)


def check_ended(client: redis.Redis, end: Callable[[Any], None]) -> None:
    """Nothing is held any more, and in the queue is what was to go back."""
    assert copies(client) == []
    assert sorted(queued(client)) == sorted(f"job-{number}" for number in range(MANY if end is ENDS[2] else 0))


def test_without_room_in_its_pool_kombu_loses_what_it_receives(redis_url: str, redis_client: redis.Redis) -> None:
    """Fault 21: the control, and why room is left."""
    with broker_at(redis_url, broker_transport_options={"max_connections": 1}) as broker:
        broker.task.apply_async()
        assert len(queued(redis_client)) == 1
        kombu.Consumer(broker.channel, [kombu.Queue("celery")]).consume()
        broker.channel.pool.get_connection("EVALSHA")  # as an acknowledgement does
        with pytest.raises(RedisError, match="Too many connections"):
            broker.channel.connection.client.drain_events(timeout=10)
    assert (queued(redis_client), copies(redis_client)) == ([], [])


@pytest.mark.parametrize("connections", [2, 3, 10, 0, None])
@pytest.mark.parametrize("end", ENDS, ids=END_IDS)
def test_many_that_end_at_once_use_no_more_connections_than_there_are(
    redis_url: str, redis_client: redis.Redis, end: Callable[[Any], None], connections: int | None
) -> None:
    """Fault 21, D7: each of them ends as it wants; with kombu's own client it is "Too many connections" for some."""
    with broker_at(redis_url, broker_transport_options={"max_connections": connections}) as broker:
        end_at_once(broker, end)
        check_ended(redis_client, end)


@pytest.mark.parametrize("end", ENDS, ids=END_IDS)
def test_many_that_end_at_once_wait_for_a_redis_that_hangs(
    redis_url: str, redis_client: redis.Redis, end: Callable[[Any], None]
) -> None:
    """Fault 14, D7: none of them gives up because others hold its connection."""
    with broker_at(redis_url) as broker:
        end_at_once(broker, end, lambda: redis_client.execute_command("CLIENT", "PAUSE", 700))
        check_ended(redis_client, end)


@pytest.mark.parametrize("end", ENDS, ids=END_IDS)
def test_many_that_end_at_once_where_the_fence_is_forbidden(
    redis_url: str, redis_client: redis.Redis, end: Callable[[Any], None]
) -> None:
    """Fault 15, 21: kombu's own road is as narrow."""
    redis_client.execute_command(
        "ACL", "SETUSER", "unfenced", "on", ">secret", "~unacked*", "~celery*", "~_kombu*", "&*", "+@all"
    )
    try:
        with broker_at(redis_url.replace("redis://", "redis://unfenced:secret@")) as broker:
            end_at_once(broker, end)
            check_ended(redis_client, end)
    finally:
        redis_client.execute_command("ACL", "DELUSER", "unfenced")


@pytest.mark.parametrize(("connections", "places"), [(1, 1), (3, 1), (5, 1), (6, 2), (10, 4), (100, 49), (2**31, 50)])
def test_two_connections_are_left_to_kombu_and_no_end_takes_more_than_two(connections: int, places: int) -> None:
    """Fault 21: at least one can end, and a pool without a limit is none for the memory."""
    assert places_in(connections) == places


def test_a_place_is_given_back_whatever_happens() -> None:
    """Fault 21: an error of the driver costs no place."""
    places = Places(1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), places.one():
            raise ZeroDivisionError
    assert places._free.qsize() == 1


def test_a_signal_handler_waits_for_no_place_that_its_own_thread_has() -> None:
    """I3: the handler of SIGQUIT gives messages back, whatever the thread was doing."""
    places = Places(1)
    with places.one(), places.one():
        assert places._free.qsize() == 0
    assert places._free.qsize() == 1


def test_who_waits_too_long_for_a_place_goes_on_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 14: not even a place that is lost holds up anybody for ever; there are no more places afterwards than before."""
    monkeypatch.setattr("taskora_celery.lease.fence.PLACE_TIMEOUT", 0.01)
    places = Places(1)

    def wait() -> int:
        with places.one():
            return places._free.qsize()

    with places.one(), ThreadPoolExecutor(1) as thread:
        assert thread.submit(wait).result(10) == 0
    assert places._free.qsize() == 1
