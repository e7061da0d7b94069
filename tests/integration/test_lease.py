"""The lease on kombu's Redis transport: a real channel, a real Redis, and nothing guessed."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from kombu import Queue

from taskora_celery.lease.protocol import NoLease
from taskora_celery.lease.redis import RedisLease
from taskora_celery.lease.resolve import lease_for
from taskora_celery.task import ContextTask
from tests.support.redis_server import RedisServer, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from tests.support.redis_topologies import RedisSentinel, TlsRedisServer


class Held:
    """A message that a consumer has taken and not acknowledged, and the lease of its broker."""

    def __init__(self, app: Celery, lease: RedisLease, message: Any) -> None:
        self.app = app
        self.lease = lease
        self.message = message
        self.tag: str = message.delivery_tag


@contextlib.contextmanager
def held(url: str, **conf: Any) -> Iterator[Held]:
    app = Celery("shop", broker=url, set_as_current=False, task_cls=ContextTask)
    app.conf.update(conf)
    app.task(work, name="shop.work").apply_async()
    with app.connection_for_read() as connection:
        queue = Queue(app.conf.task_default_queue)(connection.default_channel)
        message = queue.get()
        assert message is not None
        lease = lease_for(app)
        assert isinstance(lease, RedisLease)
        try:
            yield Held(app, lease, message)
        finally:
            lease.close()
            app.pool.force_close_all()


def work() -> None:
    """Do nothing."""


def scores(client: redis.Redis, index: str = "unacked_index") -> dict[str, float]:
    return {tag.decode(): score for tag, score in client.zrange(index, 0, -1, withscores=True)}


def age(client: redis.Redis, tag: str, index: str = "unacked_index", seconds: float = 1_000) -> None:
    """Let the message look as if it had been taken long ago."""
    assert client.zadd(index, {tag: time.time() - seconds}, xx=True, ch=True) == 1


def test_renewing_moves_the_messages_time_to_now(redis_url: str, redis_client: redis.Redis) -> None:
    """D1, D2: the sweep puts back what is older than the visibility timeout; this is not, any more."""
    with held(redis_url) as message:
        age(redis_client, message.tag)
        assert message.lease.renew([message.tag]) == [True]
        assert abs(scores(redis_client)[message.tag] - time.time()) < 5


def test_renewing_never_creates_a_member(redis_url: str, redis_client: redis.Redis) -> None:
    """D2: one that is created after the acknowledgement would be an orphan, which no sweep ever removes."""
    with held(redis_url) as message:
        message.message.ack()
        assert message.lease.renew([message.tag, "nobody"]) == [False, False]
        assert scores(redis_client) == {}


def test_renewing_tells_which_messages_are_still_held(redis_url: str, redis_client: redis.Redis) -> None:
    """D2: an acknowledged one among held ones."""
    with held(redis_url) as message:
        assert message.lease.renew(["gone", message.tag]) == [False, True]
        assert list(scores(redis_client)) == [message.tag]


def test_renewing_twice_in_the_same_moment_finds_the_message_held(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """D2: Redis counts changes, and an unchanged score is none."""
    with held(redis_url) as message:
        monkeypatch.setattr("taskora_celery.lease.redis.time.time", lambda: 1_790_000_000.0)
        assert message.lease.renew([message.tag]) == [True]
        assert message.lease.renew([message.tag]) == [True]


def test_a_renewed_message_survives_the_sweep(redis_url: str, redis_client: redis.Redis) -> None:
    """D1: kombu's own sweep, which restores what is overdue."""
    options = {"visibility_timeout": 60}
    with held(redis_url, broker_transport_options=options) as message:
        age(redis_client, message.tag)
        message.lease.renew([message.tag])
        _sweep(message)
        assert list(scores(redis_client)) == [message.tag]


def test_a_message_that_is_not_renewed_is_restored_by_the_sweep(redis_url: str, redis_client: redis.Redis) -> None:
    """D5: the counterpart, without which the test above would prove nothing."""
    with held(redis_url, broker_transport_options={"visibility_timeout": 60}) as message:
        age(redis_client, message.tag)
        _sweep(message)
        assert scores(redis_client) == {}


def _sweep(message: Held) -> None:
    with message.app.connection_for_read() as connection:
        connection.default_channel.qos.restore_visible(interval=1)


@pytest.mark.parametrize("timeout", [5, 30, 43_200])
def test_the_visibility_timeout_is_that_of_the_channel(redis_url: str, timeout: int) -> None:
    """D2: from the transport's options."""
    with held(redis_url, broker_transport_options={"visibility_timeout": timeout}) as message:
        assert message.lease.visibility_timeout == float(timeout)


def test_without_options_the_timeout_is_kombus_default(redis_url: str) -> None:
    """D2: an hour, as kombu has it."""
    with held(redis_url) as message:
        assert message.lease.visibility_timeout == 3_600.0


@pytest.mark.parametrize(
    ("options", "index"),
    [
        ({"global_keyprefix": "tenant_a:"}, "tenant_a:unacked_index"),
        ({"unacked_index_key": "my_index", "unacked_key": "my_unacked"}, "my_index"),
        ({"global_keyprefix": "t.", "unacked_index_key": "idx"}, "t.idx"),
        ({"queue_order_strategy": "priority", "priority_steps": [0, 5]}, "unacked_index"),
    ],
    ids=["prefix", "keys", "both", "priorities"],
)
def test_key_names_are_those_of_the_transport(
    redis_url: str, redis_client: redis.Redis, options: dict[str, Any], index: str
) -> None:
    """D2: prefix and custom names come from the live channel."""
    with held(redis_url, broker_transport_options=options) as message:
        age(redis_client, message.tag, index)
        assert message.lease.renew([message.tag]) == [True]
        assert abs(scores(redis_client, index)[message.tag] - time.time()) < 5
    assert [key for key in redis_client.scan_iter() if b"index" in key or b"idx" in key] in ([], [index.encode()])


def test_the_database_is_that_of_the_broker(redis_url: str, redis_client: redis.Redis) -> None:
    """D2: which is not 0 here."""
    assert not redis_url.endswith("/0")
    with held(redis_url) as message:
        assert message.lease.renew([message.tag]) == [True]
        assert list(scores(redis_client)) == [message.tag]


def test_it_works_behind_a_sentinel(redis_sentinel: RedisSentinel) -> None:
    """D2, D10: the master is asked for by the channel's own pool."""
    with (
        redis_sentinel.client() as client,
        held(redis_sentinel.url(), broker_transport_options=redis_sentinel.transport_options) as message,
    ):
        age(client, message.tag)
        assert message.lease.renew([message.tag]) == [True]
        assert abs(scores(client)[message.tag] - time.time()) < 5


def test_it_works_over_tls(tls_redis: TlsRedisServer) -> None:
    """D2, D10: with the certificates of the transport."""
    with tls_redis.client() as client, held(tls_redis.url()) as message:
        age(client, message.tag)
        assert message.lease.renew([message.tag]) == [True]


def test_a_lost_connection_is_a_connection_error_and_the_next_renewal_works(redis_url: str, redis_client: redis.Redis) -> None:
    """D1: the reporter tells it once and tries again."""
    with RedisServer() as server, held(server.url()) as message:
        server.kill()
        with pytest.raises(ConnectionError):
            message.lease.renew([message.tag])
        server.start()
        assert message.lease.renew([message.tag]) == [False]  # this server keeps nothing over a restart


def test_a_broker_that_is_away_is_not_waited_for() -> None:
    """D1: kombu would try again for ever, and the reports of all jobs with it."""
    app = Celery("shop", broker=f"redis://127.0.0.1:{free_port()}/0", set_as_current=False)
    started = time.monotonic()
    with pytest.raises(Exception, match="refused"):
        lease_for(app)
    assert time.monotonic() - started < 5


def test_a_transport_without_a_visibility_timeout_has_nothing_to_renew() -> None:
    """D10: renewing does nothing, and everything is held."""
    lease = lease_for(Celery("shop", broker="memory://", set_as_current=False))
    assert isinstance(lease, NoLease)
    assert (lease.renew(["a", "b"]), lease.visibility_timeout) == ([True, True], None)
    lease.close()


def test_many_messages_are_renewed_in_one_command(redis_url: str, redis_client: redis.Redis) -> None:
    """D1: one round trip, however many are held."""
    with held(redis_url) as message:
        tags = {f"tag-{n}": 1.0 for n in range(500)}
        redis_client.zadd("unacked_index", tags)
        before = int(redis_client.info("commandstats")["cmdstat_zadd"]["calls"])
        assert message.lease.renew(list(tags)) == [True] * 500
        assert int(redis_client.info("commandstats")["cmdstat_zadd"]["calls"]) - before == 1
        redis_client.zrem("unacked_index", *tags)
