"""The lease on kombu's SQS transport: real HTTP, a real channel, and a server that is as strict as SQS.

Time is told by messages that come back: when one that nobody renewed is visible again, the renewed one is not.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from kombu import Queue

from taskora_celery.lease.protocol import Held, Hold
from taskora_celery.lease.resolve import lease_for
from taskora_celery.lease.visibility import LIMIT, MARGIN
from tests.support.sqs import KEYS, SqsServer, transport_options
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from taskora_celery.lease.sqs import SqsLease

LONG = 600  # seconds: longer than any test


def app_on(server: SqsServer, **options: Any) -> Celery:
    app = Celery("shop", broker=server.url, set_as_current=False)
    app.conf.broker_transport_options = transport_options(**options)
    return app


@contextlib.contextmanager
def lease_on(server: SqsServer, **options: Any) -> Iterator[SqsLease]:
    lease = lease_for(app_on(server, **options))
    from taskora_celery.lease.sqs import SqsLease  # not above: a machine without boto3 must come as far as the skip

    assert isinstance(lease, SqsLease)
    try:
        yield lease
    finally:
        lease.close()


class Shop:
    """A queue, and what its consumer does."""

    def __init__(self, client: Any, visibility_timeout: int, name: str = "celery") -> None:
        self.client = client
        attributes = {"VisibilityTimeout": str(visibility_timeout)}
        self.url: str = client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]

    def send(self, *bodies: str) -> None:
        for body in bodies:
            self.client.send_message(QueueUrl=self.url, MessageBody=body)

    def receive(self) -> dict[str, str]:
        """Everything that is visible now: receipt handles by body."""
        received: dict[str, str] = {}
        while messages := self.client.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages"):
            received |= {message["Body"]: message["ReceiptHandle"] for message in messages}
        return received

    def take(self, *bodies: str) -> dict[str, str]:
        """Send these messages, and receive them."""
        self.send(*bodies)
        handles = self.receive()
        assert set(handles) == set(bodies)
        return handles

    def come_back(self) -> dict[str, str]:
        """Wait until something is visible again, and receive it."""
        return wait_until(self.receive, "a message that is visible again", timeout=20)

    def all_back(self, count: int) -> set[str]:
        """Wait until so many messages were received again."""
        received: set[str] = set()

        def all_received() -> bool:
            received.update(self.receive())
            return len(received) >= count

        wait_until(all_received, f"{count} messages", timeout=20)
        return received

    def hold(self, handle: str, **fields: Any) -> Hold:
        return Hold(handle, **{"queue": self.url, **fields})


def test_a_renewed_message_stays_invisible_past_its_visibility_timeout(sqs_server: SqsServer, sqs_client: Any) -> None:
    """D1, D10: the other one, received with it, comes back after three seconds."""
    shop = Shop(sqs_client, 3)
    with lease_on(sqs_server, visibility_timeout=LONG) as lease:
        handles = shop.take("renewed", "left")
        assert lease.renew([shop.hold(handles["renewed"])]).held == (Held.HELD,)
        assert set(shop.come_back()) == {"left"}


def test_a_heartbeat_timeout_counts_and_not_the_visibility_timeout(sqs_server: SqsServer, sqs_client: Any) -> None:
    """D5, D10: the job that shows no life within a second comes back, though its queue hides messages for ten minutes."""
    shop = Shop(sqs_client, LONG)
    with lease_on(sqs_server) as lease:
        handles = shop.take("dead", "quiet", "alive")
        holds = [shop.hold(handles["dead"], timeout=1.0), shop.hold(handles["quiet"], timeout=60.0, age=59.5)]
        assert lease.renew([*holds, shop.hold(handles["alive"])]).held == (Held.HELD,) * 3
        assert shop.all_back(2) == {"dead", "quiet"}


def test_the_handle_of_an_earlier_delivery_is_gone(sqs_server: SqsServer, sqs_client: Any) -> None:
    """D7, D10: the message was delivered again; the newer delivery is still held."""
    shop = Shop(sqs_client, LONG)
    with lease_on(sqs_server) as lease:
        stale = shop.take("order")["order"]
        lease.put_back(stale, shop.url)
        newer = shop.receive()["order"]
        assert stale != newer
        assert lease.renew([shop.hold(stale), shop.hold(newer)]).held == (Held.GONE, Held.HELD)


def test_an_acknowledged_message_is_gone(sqs_server: SqsServer, sqs_client: Any) -> None:
    """D10: a renewal may come a moment after the acknowledgement, and is no error."""
    shop = Shop(sqs_client, LONG)
    with lease_on(sqs_server) as lease:
        handles = shop.take("done", "running")
        sqs_client.delete_message(QueueUrl=shop.url, ReceiptHandle=handles["done"])
        held = lease.renew([shop.hold(handles["done"]), shop.hold(handles["running"]), shop.hold("no handle")]).held
        assert held == (Held.GONE, Held.HELD, Held.GONE)


def test_a_message_that_is_put_back_is_visible_at_once(sqs_server: SqsServer, sqs_client: Any) -> None:
    """D4, D10: and not after the ten minutes of its queue."""
    shop = Shop(sqs_client, LONG)
    with lease_on(sqs_server) as lease:
        handle = shop.take("stalled")["stalled"]
        lease.put_back(handle, shop.url)
        assert set(shop.receive()) == {"stalled"}


def test_putting_back_what_is_not_held_does_nothing(sqs_server: SqsServer, sqs_client: Any) -> None:
    """D4, D10: it was acknowledged, delivered to another worker, or its queue is gone."""
    shop = Shop(sqs_client, LONG)
    with lease_on(sqs_server) as lease:
        stale = shop.take("order")["order"]
        lease.put_back(stale, shop.url)
        newer = shop.receive()["order"]
        lease.put_back(stale, shop.url)
        assert shop.receive() == {}
        sqs_client.delete_message(QueueUrl=shop.url, ReceiptHandle=newer)
        lease.put_back(newer, shop.url)
        lease.put_back(newer)
        sqs_client.delete_queue(QueueUrl=shop.url)
        lease.put_back(newer, shop.url)
        assert lease.renew([shop.hold(newer)]).held == (Held.GONE,)


def test_near_the_limit_of_12_hours_the_rest_is_used(sqs_server: SqsServer, sqs_client: Any) -> None:
    """D10: a second is left, so the message comes back after a second; past the limit it is gone."""
    shop = Shop(sqs_client, LONG)
    with lease_on(sqs_server) as lease:
        handle = shop.take("long")["long"]
        received = time.time() - LIMIT + MARGIN + 1.5
        assert lease.renew([shop.hold(handle, token=int(received * 1e6))]).held == (Held.HELD,)
        handle = shop.come_back()["long"]
        assert lease.renew([shop.hold(handle, token=int((received - 2) * 1e6))]).held == (Held.GONE,)


def test_a_refusal_of_sqs_for_its_limit_is_no_error(
    sqs_server: SqsServer, sqs_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D10: where the worker's clock and that of SQS differ."""
    shop = Shop(sqs_client, LONG)
    with lease_on(sqs_server) as lease:
        handles = shop.take("long", "short")
        monkeypatch.setattr("taskora_celery.lease.sqs.renewed_seconds", lambda hold, *_: LIMIT if hold.token else LONG)
        held = lease.renew([shop.hold(handles["long"], token=1), shop.hold(handles["short"])]).held
        assert held == (Held.GONE, Held.HELD)


def test_25_messages_are_renewed_in_three_requests(sqs_server: SqsServer, sqs_client: Any) -> None:
    """D10: the largest number that SQS takes in one request is ten."""
    shop = Shop(sqs_client, LONG)
    requests: list[str] = []
    with lease_on(sqs_server) as lease:
        lease._queues.client(shop.url).meta.events.register("before-call.sqs", lambda model, **_: requests.append(model.name))
        handles = shop.take(*[f"order {n}" for n in range(25)])
        assert lease.renew([shop.hold(handle, timeout=1.0) for handle in handles.values()]).held == (Held.HELD,) * 25
        assert requests == ["ChangeMessageVisibilityBatch"] * 3
        assert shop.all_back(25) == set(handles)


def test_predefined_queues_are_reached_with_their_own_keys_and_regions(sqs_server: SqsServer, sqs_client: Any) -> None:
    """D10: both queues in one renewal; the server keeps regions apart."""
    import boto3

    near = Shop(sqs_client, LONG, "near")
    other = boto3.client(
        "sqs", endpoint_url=sqs_server.endpoint, region_name="eu-west-1", aws_access_key_id="AKIAFAR", aws_secret_access_key="x"
    )
    far = Shop(other, LONG, "far")
    keys = {"access_key_id": "AKIANEAR", "secret_access_key": "y"}
    predefined = {
        "near": {"url": near.url, **keys},
        "far": {"url": far.url, "region": "eu-west-1", "access_key_id": "AKIAFAR", "secret_access_key": "x"},
    }
    used: list[str] = []
    with lease_on(sqs_server, predefined_queues=predefined) as lease:
        for queue in (near, far):
            events = lease._queues.client(queue.url).meta.events
            events.register("before-send.sqs", lambda request, **_: used.append(str(request.headers["Authorization"])))
        holds = [queue.hold(queue.take("order")["order"], timeout=1.0) for queue in (near, far)]
        assert lease.renew(holds).held == (Held.HELD, Held.HELD)
        assert [set(queue.come_back()) for queue in (near, far)] == [{"order"}, {"order"}]
    assert any("AKIANEAR" in header and "us-east-1" in header for header in used)
    assert any("AKIAFAR" in header and "eu-west-1" in header for header in used)


def test_an_assumed_role_is_used_and_renewed(sqs_server: SqsServer, sqs_client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """D10: the channel asks for new credentials when those of the role have run out."""
    for name, value in {
        "AWS_ENDPOINT_URL_STS": sqs_server.endpoint,
        "AWS_ACCESS_KEY_ID": KEYS[0],
        "AWS_SECRET_ACCESS_KEY": KEYS[1],
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    shop = Shop(sqs_client, LONG, "shop")
    options = {"predefined_queues": {"shop": {"url": shop.url}}, "sts_role_arn": "arn:aws:iam::123456789012:role/worker"}
    with lease_on(sqs_server, **options) as lease:
        hold = shop.hold(shop.take("order")["order"])
        assert lease.renew([hold]).held == (Held.HELD,)
        client = lease._queues.client(shop.url)
        assert lease._queues.client(shop.url) is client
        channel = lease._queues._channel
        channel.sts_expiration = channel.sts_expiration.replace(year=2020)
        assert lease.renew([hold]).held == (Held.HELD,)
        assert lease._queues.client(shop.url) is not client


def test_what_kombu_receives_can_be_renewed_by_its_tag_and_its_queue(sqs_server: SqsServer, sqs_client: Any) -> None:
    """D10: the delivery tag is the receipt handle, and the delivery info holds the queue's URL."""
    app = app_on(sqs_server, visibility_timeout=LONG)
    app.send_task("shop.work")
    with app.connection_for_read() as connection, lease_on(sqs_server) as lease:
        message = Queue("celery")(connection.default_channel).get()
        assert message is not None
        hold = Hold(message.delivery_tag, queue=message.delivery_info["sqs_queue"])
        assert lease.renew([hold]).held == (Held.HELD,)
        message.ack()
        assert lease.renew([hold]).held == (Held.GONE,)
    app.pool.force_close_all()


@pytest.mark.parametrize(
    ("options", "timeout"), [({}, 90.0), ({"visibility_timeout": LONG}, 90.0), ({"visibility_timeout": 7}, 7.0)]
)
def test_the_timeout_to_keep_is_known_before_the_first_renewal(
    sqs_server: SqsServer, sqs_client: Any, options: dict[str, Any], timeout: float
) -> None:
    """D10: the queue of Celery's default was made with 90 s by somebody else."""
    Shop(sqs_client, 90)
    with lease_on(sqs_server, **options) as lease:
        assert lease.visibility_timeout == timeout


def test_the_lease_waits_for_seconds_and_leaves_the_rest_of_the_config_alone(sqs_server: SqsServer) -> None:
    """D10: botocore's own minutes would hold up all reports of the process; the app's options stay what they were."""
    app = app_on(sqs_server, **{"client-config": {"read_timeout": 70, "user_agent_extra": "shop"}})
    lease: Any = lease_for(app)
    config = lease._queues.client(None).meta.config
    lease.close()
    assert (config.connect_timeout, config.read_timeout, config.retries["total_max_attempts"]) == (5, 5, 2)
    assert config.user_agent_extra == "shop"
    assert app.conf.broker_transport_options["client-config"]["read_timeout"] == 70


def test_consumers_of_the_process_keep_their_long_polls(sqs_server: SqsServer, sqs_client: Any) -> None:
    """D10: kombu before 5.7 shares the clients of predefined queues between all channels."""
    options = {"predefined_queues": {"celery": {"url": Shop(sqs_client, LONG).url}}}
    with lease_on(sqs_server, **options), app_on(sqs_server, **options).connection_for_read() as connection:
        assert connection.default_channel.sqs(queue="celery").meta.config.read_timeout == 60


def test_an_outage_is_a_connection_error_and_the_next_lease_is_not_waited_for(sqs_server: SqsServer, tmp_path: Path) -> None:
    """D1, D10: the keeper tells it once and tries again."""
    with SqsServer(tmp_path) as server:
        client = server.client()
        shop = Shop(client, LONG)
        with lease_on(server) as lease:
            handle = shop.take("order")["order"]
            assert lease.renew([shop.hold(handle)]).held == (Held.HELD,)
            server.kill()
            with pytest.raises(ConnectionError, match="Could not connect"):
                lease.renew([shop.hold(handle)])
            with pytest.raises(ConnectionError, match="Could not connect"):
                lease.put_back(handle, shop.url)
        started = time.monotonic()
        with pytest.raises(Exception, match="Could not connect"):
            lease_for(app_on(server))
        assert time.monotonic() - started < 10
        client.close()
