"""What waits in a broker's queues: read without taking a message, or making a queue."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from kombu import Connection, Queue

from taskora_celery.lease.resolve import connected
from taskora_celery.lease.waiting import NOT_KNOWN, Waiting, waiting_in
from taskora_celery.rounds import NO_BROADCASTS, Inspector
from tests.support.brokers import app_at, queued
from tests.support.sqs import KEYS, REGION, SqsServer, transport_options
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    import redis

    from tests.support.redis_topologies import RedisSentinel, TlsRedisServer


def looked(app: Any, *queues: str) -> list[Waiting]:
    with connected(app) as connection:
        found = waiting_in(connection, queues)
    assert list(found) == list(queues)
    return list(found.values())


def sent(client: redis.Redis) -> dict[str, dict[str, Any]]:
    """The headers of the waiting messages, by the jobs' ids."""
    found: Any = client.lrange("celery", 0, -1)
    return {headers["id"]: headers for headers in (json.loads(raw)["headers"] for raw in found)}


def test_the_messages_of_each_queue_are_counted_and_the_next_one_has_its_age(redis_url: str, redis_client: redis.Redis) -> None:
    """K4: depth, and since when the job that is taken next has waited; nothing is taken."""
    with app_at(redis_url) as app:
        before = int(time.time() * 1000)
        first = app.tasks["shop.work"].apply_async()
        app.tasks["shop.work"].apply_async()
        found, empty = looked(app, "celery", "reports")
        assert (found.depth, found.consumers) == (2, None)
        assert found.oldest_ms == int(sent(redis_client)[first.id]["taskora_created"])
        assert before <= found.oldest_ms <= time.time() * 1000
        assert empty == Waiting(0)
        assert len(queued(redis_client)) == 2
        assert not redis_client.exists("reports")
        assert looked(app) == []


@pytest.mark.parametrize("options", [{}, {"global_keyprefix": "shop:"}, {"sep": ":", "priority_steps": [0, 5]}])
def test_all_lists_of_a_queue_count(redis_url: str, options: dict[str, Any]) -> None:
    """K4: kombu has a list for each step of priority, and its options decide what they are called."""
    with app_at(redis_url, broker_transport_options=options) as app:
        for created_ms, priority in ((2_000, 9), (3_000, 0), (4_000, 3), (5_000, 9)):
            app.send_task("shop.work", priority=priority, headers={"taskora_created": created_ms})
        assert looked(app, "celery") == [Waiting(4, 2_000)], "the oldest of all lists, whichever is taken from first"


def test_a_publisher_without_this_library_says_no_time(redis_url: str) -> None:
    """K4: and what looks like it in an argument is none."""
    with app_at(redis_url) as app:
        app.send_task("shop.work", args=['"taskora_created": 7', {"taskora_created": 7}], kwargs={"taskora_created": 7})
        assert looked(app, "celery") == [Waiting(1, None)]


def test_a_large_message_stays_where_it_is(redis_url: str, redis_client: redis.Redis) -> None:
    """K4: looking costs no bandwidth, whatever people send."""
    with app_at(redis_url) as app:
        app.tasks["shop.work"].apply_async(shadow="x" * 5_000_000)
        before: Any = redis_client.info("stats")
        (found,) = looked(app, "celery")
        after: Any = redis_client.info("stats")
    assert found.depth == 1
    assert found.oldest_ms is not None
    assert after["total_net_output_bytes"] - before["total_net_output_bytes"] < 100_000


def test_a_key_that_is_no_list_is_no_queue(redis_url: str, redis_client: redis.Redis) -> None:
    """K4: somebody's key has the name of a queue; the others are looked at all the same."""
    with app_at(redis_url) as app:
        app.tasks["shop.work"].apply_async()
        redis_client.set("reports", "7", ex=60)
        assert looked(app, "reports", "celery")[0].depth in {None, 0}
        assert looked(app, "reports", "celery")[1].depth == 1


def test_sentinel_and_tls_are_asked_as_well(redis_sentinel: RedisSentinel, tls_redis: TlsRedisServer) -> None:
    """K4, D10: by the live channel's own connections."""
    for url, options in ((redis_sentinel.url(), redis_sentinel.transport_options), (tls_redis.url(), {})):
        with app_at(url, broker_transport_options=options) as app:
            app.tasks["shop.work"].apply_async()
            assert looked(app, "celery")[0].depth == 1


@pytest.mark.parametrize("predefined", [False, True])
def test_sqs_says_about_how_much_waits(sqs_server: SqsServer, sqs_client: Any, predefined: bool) -> None:
    """K4, D10: it knows neither time nor consumers; no queue is made by looking, and workers cannot be asked."""
    url = sqs_client.create_queue(QueueName="celery")["QueueUrl"]
    for _ in range(3):
        sqs_client.send_message(QueueUrl=url, MessageBody="x")
    options = transport_options()
    if predefined:
        keys = dict(zip(("access_key_id", "secret_access_key"), KEYS, strict=True))
        options["predefined_queues"] = {"celery": {"url": url, "region": REGION, **keys}}
    with app_at(sqs_server.url, visibility=None, broker_transport_options=options) as app:
        assert looked(app, "celery", "nobody-made-it") == [Waiting(3), NOT_KNOWN]
        found = Inspector(app, timeout=0.2).look()
        assert (found.workers_error, found.waiting["celery"].depth) == (NO_BROADCASTS, 3)
    assert sqs_client.list_queues()["QueueUrls"] == [url]


def test_a_broker_in_memory_counts_and_makes_no_queue(no_memory_queues: None) -> None:
    """K4: it knows no consumers, and no time."""
    with app_at("memory://waiting") as app:
        app.tasks["shop.work"].apply_async()
        assert looked(app, "celery", "nobody-made-it") == [Waiting(1), Waiting(0)]
        with app.connection_for_read() as connection:
            assert not connection.default_channel._has_queue("nobody-made-it")
            connection.default_channel.queue_delete("celery")


def test_a_broker_that_would_make_a_queue_is_not_asked(tmp_path: Any) -> None:
    """K4: the cell says that it is not known."""
    options = {"data_folder_in": str(tmp_path), "data_folder_out": str(tmp_path)}
    with Connection("filesystem://", transport_options=options) as connection:
        assert waiting_in(connection, ["reports"]) == {"reports": NOT_KNOWN}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.rabbitmq
def test_rabbitmq_counts_messages_and_consumers(rabbitmq_url: str) -> None:
    """K4: it counts consumers itself; a queue that is not there is empty, and one that may not be looked at is not known."""
    with app_at(rabbitmq_url) as app:
        app.tasks["shop.work"].apply_async()
        app.tasks["shop.work"].apply_async()
        wait_until(lambda: looked(app, "celery")[0].depth == 2, "both messages")
        with app.connection_for_read() as connection:
            mine = connection.channel()
            mine.queue_declare("mine", exclusive=True)
            with connection.Consumer(Queue("celery"), auto_declare=False, prefetch_count=1):
                wait_until(lambda: looked(app, "celery")[0].consumers == 1, "a consumer")
                assert looked(app, "nobody-made-it", "mine") == [Waiting(0, None, 0), NOT_KNOWN]
        assert looked(app, "nobody-made-it") == [Waiting(0, None, 0)]
        found = Inspector(app, timeout=0.2).look()
        assert (found.workers_error, found.present) == (None, frozenset())
        assert found.waiting["celery"].consumers == 0
