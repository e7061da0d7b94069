"""Which delivery of a message a request belongs to, and whether it may be another's by now."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from celery.app.task import Context as Request

from taskora_celery.delivery import STAMP, Delivery, attempt_of, stamp_of
from taskora_celery.lease.protocol import Hold

TOKEN = 1_790_000_000_000_000  # microseconds
RECEIVED = TOKEN / 1_000_000  # seconds


def task(*, heartbeat_timeout: float | None = None, acks_late: bool = True) -> Any:
    return SimpleNamespace(heartbeat_timeout=heartbeat_timeout, acks_late=acks_late)


def request(tag: Any = "tag-1", stamp: Any = None, **properties: Any) -> Request:
    found = Request(id="job-1", properties={"delivery_tag": tag, **properties})
    if stamp is not None:
        found.update({STAMP: stamp})
    return found


def delivery(timeout: float | None = None, *, token: int = TOKEN, visibility: float | None = 60.0) -> Delivery:
    return Delivery(Hold("tag-1", token, timeout), 1, visibility, token=token)


def test_a_delivery_is_what_the_workers_parent_has_stamped() -> None:
    """D7: tag and token tell it from all others; the process that runs the job learns both."""
    found = Delivery.of(task(heartbeat_timeout=5.0), request(stamp=Delivery.stamp(TOKEN, 4711, 60.0)))
    assert found == Delivery(Hold("tag-1", TOKEN, 5.0), 4711, 60.0, early=False, token=TOKEN)


def test_a_stamp_survives_the_way_to_the_pools_process() -> None:
    """D7: it goes as plain values, and may arrive as a list."""
    stamp = list(Delivery.stamp(TOKEN, 4711, None))
    assert Delivery.of(task(), request(stamp=stamp)) == Delivery(Hold("tag-1", TOKEN), 4711, token=TOKEN)


def test_a_request_without_a_stamp_has_a_lease_and_no_token() -> None:
    """A6: a worker of somebody else's making; nothing is known of its parent, and its claim is not looked at."""
    assert Delivery.of(task(), request()) == Delivery(Hold("tag-1", 0), 0, None)


def test_a_stamp_is_no_header() -> None:
    """D7: what a publisher, or the attempt before, sent along is not taken for the parent's word."""
    found = Request(id="job-1", properties={"delivery_tag": "tag-1"}, headers={STAMP: (TOKEN, 1, 60.0)})
    assert Delivery.of(task(), found) == Delivery(Hold("tag-1", 0))


def test_a_stamp_does_not_travel_on() -> None:
    """D7: Celery sends on with a retry what it takes for headers; another worker's parent would be taken for its own."""
    found = Request(**{"id": "job-1", "properties": {"delivery_tag": "tag-1"}, STAMP: (TOKEN, 1, 60.0), "tenant": "a"})
    assert found.headers == {STAMP: (TOKEN, 1, 60.0), "tenant": "a"}
    assert Delivery.of(task(), found) == Delivery(Hold("tag-1", TOKEN), 1, 60.0, token=TOKEN)
    assert found.headers == {"tenant": "a"}


@pytest.mark.parametrize("properties", [None, {}, {"delivery_tag": None}, {"delivery_tag": 7}])
def test_a_message_of_no_broker_or_of_one_without_text_tags_has_no_lease(properties: Any) -> None:
    """A5, D10: eager runs, and RabbitMQ, which counts its tags in each channel; its record knows it by its token."""
    found = Request(id="job-1", properties=properties)
    found.update({STAMP: Delivery.stamp(TOKEN, 4711, 60.0)})
    assert Delivery.of(task(), found) == Delivery(None, 4711, token=TOKEN)
    # Nothing to renew; that it is silent is seen there, too.
    assert Delivery.of(task(heartbeat_timeout=5.0), found) == Delivery(Hold("", 0, 5.0), 4711, token=TOKEN)


def test_an_early_acknowledgement_is_marked() -> None:
    """D8: there may be nothing left to be renewed."""
    assert Delivery.of(task(acks_late=False), request()).early


def test_the_queues_url_goes_with_a_delivery_of_sqs() -> None:
    """D10: its lease needs more than the tag."""
    found = Delivery.of(task(), request(delivery_info={"sqs_queue": "https://sqs/q"}))
    assert found.hold == Hold("tag-1", queue="https://sqs/q")


@pytest.mark.parametrize(
    ("timeout", "visibility", "half"), [(None, 60.0, 30.0), (10.0, 60.0, 5.0), (600.0, 60.0, 30.0), (10.0, 8.0, 4.0)]
)
def test_a_delivery_is_doubtful_when_half_of_its_time_is_over(timeout: float | None, visibility: float, half: float) -> None:
    """D7: who should have renewed it may be dead; until then nobody has to be asked. Its time is the shorter of the two."""
    found = delivery(timeout, visibility=visibility)
    assert [found.is_doubtful(RECEIVED + seconds) for seconds in (0, half, half + 0.01)] == [False, False, True]


@pytest.mark.parametrize(
    "found", [Delivery(None, 1, 60.0), delivery(token=0), delivery(visibility=None), delivery(5.0, visibility=None)]
)
def test_what_cannot_become_another_deliverys_is_never_doubtful(found: Delivery) -> None:
    """P15: a job costs no round trip for a question that has one answer."""
    assert not found.is_doubtful(RECEIVED + 10**9)


def test_without_an_instant_it_is_now() -> None:
    """D7: the end of a job asks for the moment in which it ends."""
    now = int(time.time() * 1_000_000)
    assert not delivery(token=now).is_doubtful()
    assert delivery(token=now - 31_000_000).is_doubtful()


ODD: list[Any] = ["x", "5", -1, 10**30, -(10**30), 1.5, float("nan"), True, None, [], {"a": 1}]


@pytest.mark.parametrize("written", ODD)
def test_a_stamp_that_makes_no_sense_is_none(written: Any) -> None:
    """B4: a publisher of others' may write anything; then the first receipt counts."""
    assert stamp_of(written) == 0


@pytest.mark.parametrize("written", ODD)
def test_a_number_of_retries_that_makes_no_sense_is_none(written: Any) -> None:
    """B2: then it is the first attempt."""
    assert attempt_of(written) == 1
    assert attempt_of(3) == 4


@pytest.mark.parametrize("written", ODD)
def test_a_delivery_of_a_message_with_odd_headers_can_be_told_to_the_store(written: Any) -> None:
    """B4: whatever the message says of itself, its beginning is one that a store takes."""
    found = request()
    found.update(taskora_created=written, retries=written, delivery_info={"redelivered": written, "routing_key": "celery"})
    report: Any = SimpleNamespace(id="job-1", name="shop.work", attempt=attempt_of(written))
    begin = Delivery.of(task(), found).begin(report, found, "w1@host", RECEIVED, again=False)
    assert (begin.attempt, begin.created_ms) == (1, 0)
