"""A broker as the lease's tests use it: a consumer's channel, a lease beside it, and what Redis holds of its messages."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

from celery import Celery
from kombu import Exchange, Queue, pools

from taskora_celery.lease.protocol import Due, Hold
from taskora_celery.lease.redis import RedisLease
from taskora_celery.lease.resolve import lease_for
from taskora_celery.task import ContextTask

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

#: Seconds: long enough that nothing becomes due by itself while a test runs.
VISIBILITY = 60.0
TOPIC = Queue("orders", Exchange("shop", type="topic"), routing_key="order.#")


def work() -> None:
    """Do nothing."""


class Broker:
    """An app, its consumer's channel, and a lease of its own connection."""

    def __init__(self, app: Celery, channel: Any, lease: RedisLease) -> None:
        self.app = app
        self.channel = channel
        self.lease = lease
        self.task = app.tasks["shop.work"]

    def take(self, queue: Queue | None = None) -> Any:
        """Return the next message of the queue, not acknowledged."""
        message = (queue or Queue(self.app.conf.task_default_queue))(self.channel).get()
        assert message is not None
        return message

    def taken(self, **options: Any) -> Any:
        """Send a message, and take it."""
        self.task.apply_async(**options)
        return self.take()

    def look(self) -> tuple[Due, ...]:
        return self.lease.renew([], look=True).due

    def sweep(self) -> None:
        """Be kombu's own sweep of another worker."""
        with self.app.connection_for_read() as connection:
            connection.default_channel.qos.restore_visible(interval=1)


@contextlib.contextmanager
def lease_of(app: Celery) -> Iterator[RedisLease]:
    lease = lease_for(app)
    assert isinstance(lease, RedisLease)
    try:
        yield lease
    finally:
        lease.close()


@contextlib.contextmanager
def app_at(url: str, *, visibility: float | None = VISIBILITY, **conf: Any) -> Iterator[Celery]:
    app = Celery("shop", broker=url, set_as_current=False, task_cls=ContextTask)
    if visibility is not None:
        conf["broker_transport_options"] = {"visibility_timeout": visibility, **conf.get("broker_transport_options", {})}
    app.conf.update(conf)
    app.task(work, name="shop.work", shared=False)
    try:
        yield app
    finally:
        pools.reset()  # they are those of all apps with the same URL: one that is closed would be found by the next


@contextlib.contextmanager
def broker_at(url: str, **conf: Any) -> Iterator[Broker]:
    with app_at(url, **conf) as app, app.connection_for_read() as connection, lease_of(app) as lease:
        yield Broker(app, connection.default_channel, lease)


def hold_of(message: Any, **fields: Any) -> Hold:
    return Hold(message.delivery_tag, **fields)


def scores(client: redis.Redis, index: str = "unacked_index") -> dict[str, float]:
    found: Any = client.zrange(index, 0, -1, withscores=True)
    return {tag.decode(): score for tag, score in found}


def copies(client: redis.Redis) -> list[str]:
    found: Any = client.hkeys("unacked")
    return [tag.decode() for tag in found]


def queued(client: redis.Redis, queue: str = "celery") -> list[str]:
    """The ids of the waiting messages, the next one first."""
    found: Any = client.lrange(queue, 0, -1)
    return [json.loads(raw)["headers"]["id"] for raw in reversed(found)]


def age(client: redis.Redis, message: Any, index: str = "unacked_index", seconds: float = 1_000) -> None:
    """Let the message look as if it had been taken long ago."""
    assert client.zadd(index, {message.delivery_tag: time.time() - seconds}, xx=True, ch=True) == 1


def claim_of(message: Any) -> str:
    """The name of the message's claim."""
    return f"taskora:claim:{message.delivery_tag}"
