"""The lease on SQS without an SQS: what a renewal asks for, and what its answers mean."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from kombu import Connection

from taskora_celery.lease.protocol import NO_LEASE, Held, Hold
from taskora_celery.lease.rabbitmq import unrenewable_warning
from taskora_celery.lease.resolve import lease_for
from taskora_celery.lease.visibility import LIMIT, MARGIN, batches, handle_is_stale, queue_is_gone, renewed_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = 1_790_000_000.0
URL = "http://sqs/1/shop"


def hold(tag: str = "handle", **fields: Any) -> Hold:
    return Hold(tag, **{"queue": URL, **fields})


def received(seconds_ago: float) -> int:
    return int((NOW - seconds_ago) * 1e6)


# --- for how long --------------------------------------------------------------------------------------------------------


def test_without_a_heartbeat_timeout_a_message_is_hidden_for_the_visibility_timeout() -> None:
    """D3: however old the last sign of life is, a live worker keeps what it holds."""
    assert renewed_seconds(hold(age=500.0), 30.0, NOW) == 30


def test_a_heartbeat_timeout_counts_from_the_last_sign_of_life() -> None:
    """D5: 12 of the 20 s have passed, so 8 are left, whatever the visibility timeout is."""
    assert renewed_seconds(hold(timeout=20.0, age=12.0), 1800.0, NOW) == 8


@pytest.mark.parametrize(("timeout", "age", "seconds"), [(20.0, 11.5, 9), (0.2, 0.0, 1), (20.0, 20.0, 1), (20.0, 99.0, 1)])
def test_seconds_are_whole_and_at_least_one(timeout: float, age: float, seconds: int) -> None:
    """D10: SQS takes no fractions, and 0 would put the message back."""
    assert renewed_seconds(hold(timeout=timeout, age=age), 30.0, NOW) == seconds


def test_near_the_limit_of_12_hours_only_the_rest_is_asked_for() -> None:
    """D10: SQS refuses what goes beyond, so that asking for the whole timeout would renew nothing."""
    assert renewed_seconds(hold(token=received(LIMIT - 100)), 1800.0, NOW) == 100 - MARGIN
    assert renewed_seconds(hold(token=received(LIMIT - MARGIN - 1)), 1800.0, NOW) == 1


@pytest.mark.parametrize("past", [-MARGIN, 0, 1, 90_000])
def test_at_the_limit_of_12_hours_nothing_is_asked_for(past: int) -> None:
    """D10: the message cannot be held any longer."""
    assert renewed_seconds(hold(token=received(LIMIT + past)), 1800.0, NOW) is None


def test_a_message_of_unknown_reception_counts_as_just_received() -> None:
    """D10: no request is beyond the limit from the start."""
    assert renewed_seconds(hold(), 30.0, NOW) == 30
    assert renewed_seconds(hold(timeout=90_000.0), 30.0, NOW) == LIMIT - MARGIN


# --- how many at once ----------------------------------------------------------------------------------------------------


def test_ten_messages_at_most_go_into_one_request() -> None:
    """D10: SQS takes no more."""
    assert [(queue, list(numbers)) for queue, numbers in batches([URL] * 25)] == [
        (URL, list(range(10))),
        (URL, list(range(10, 20))),
        (URL, list(range(20, 25))),
    ]


def test_a_request_is_about_one_queue() -> None:
    """D10: each queue has its own URL; the messages keep their numbers."""
    assert [(queue, list(numbers)) for queue, numbers in batches(["a", "b", "a"])] == [("a", [0, 2]), ("b", [1])]
    assert list(batches([])) == []


# --- what the answers mean -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["InvalidParameterValue", "ReceiptHandleIsInvalid", "MessageNotInflight"])
def test_a_refused_handle_is_one_that_is_no_longer_held(code: str) -> None:
    """D10: in both of SQS's protocols."""
    assert handle_is_stale(code)
    assert handle_is_stale(f"AWS.SimpleQueueService.{code}")
    assert not queue_is_gone(code)


def test_other_errors_say_nothing_about_a_message() -> None:
    """D10: it may be held, so nobody must give it up."""
    codes = ["InternalError", "AccessDenied", "RequestThrottled", "ServiceUnavailable", ""]
    assert not any(handle_is_stale(code) or queue_is_gone(code) for code in codes)
    assert queue_is_gone("AWS.SimpleQueueService.NonExistentQueue")
    assert queue_is_gone("QueueDoesNotExist")


class ScriptedClient:
    """Answers each request as it was told to, and keeps the requests."""

    def __init__(self, answer: Callable[[list[dict[str, Any]]], dict[str, Any]] | None = None) -> None:
        self.answer = answer or (lambda entries: {"Successful": [{"Id": entry["Id"]} for entry in entries]})
        self.requests: list[tuple[str, list[dict[str, Any]]]] = []
        self.attributes = {"VisibilityTimeout": "120"}

    def change_message_visibility_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        self.requests.append((QueueUrl, Entries))
        return self.answer(Entries)

    def get_queue_attributes(self, *, QueueUrl: str, AttributeNames: list[str]) -> dict[str, Any]:  # noqa: N803
        assert AttributeNames == ["VisibilityTimeout"]
        return {"Attributes": self.attributes}


class ScriptedChannel:
    """As much of kombu's channel as the lease asks for."""

    visibility_timeout = 1800

    def __init__(self, client: ScriptedClient, predefined: dict[str, str] | None = None, **options: Any) -> None:
        self.client = client
        self.predefined_queues = {name: {"url": url} for name, url in (predefined or {}).items()}
        self.transport_options = options

    def canonical_queue_name(self, name: str) -> str:
        return name

    def sqs(self, queue: str | None = None) -> ScriptedClient:
        return self.client


def lease_on(channel: ScriptedChannel, *consumed: str) -> Any:
    pytest.importorskip("botocore", reason="the lease on SQS needs boto3: install the extra `sqs`")
    from taskora_celery.lease.sqs import SqsLease, holds

    assert holds(channel)
    return SqsLease(None, channel, consumed)


def failing(*codes: str | None) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """An answer with one code for each entry, None where it went well."""

    def answer(entries: list[dict[str, Any]]) -> dict[str, Any]:
        return {"Failed": [{"Id": e["Id"], "Code": code} for e, code in zip(entries, codes, strict=True) if code]}

    return answer


def client_error(code: str) -> Callable[[Any], Any]:
    """An answer that is an error as a whole."""
    exceptions = pytest.importorskip("botocore.exceptions", reason="the lease on SQS needs boto3: install the extra `sqs`")

    def answer(_entries: Any) -> Any:
        raise exceptions.ClientError({"Error": {"Code": code, "Message": "no"}}, "ChangeMessageVisibilityBatch")

    return answer


def test_a_stale_handle_among_good_ones_is_gone_and_no_error() -> None:
    """D7, D10: the answers stand in the order of the question."""
    client = ScriptedClient(failing(None, "ReceiptHandleIsInvalid", None))
    answer = lease_on(ScriptedChannel(client)).renew([hold("a"), hold("w", watched=True), hold("b"), hold("c")])
    assert answer.held == (Held.HELD, Held.HELD, Held.GONE, Held.HELD)
    assert [entry["ReceiptHandle"] for entry in client.requests[0][1]] == ["a", "b", "c"]


def test_watched_messages_and_those_of_no_queue_cost_no_request() -> None:
    """D10: SQS cannot tell how a message stands, and kombu deletes at once what it reads from a queue without acks."""
    client = ScriptedClient()
    answer = lease_on(ScriptedChannel(client)).renew([hold(watched=True), hold(queue=None)])
    assert (answer.held, answer.due, answer.next_due, client.requests) == ((Held.HELD, Held.HELD), (), None, [])


def test_an_error_of_one_message_is_an_outage_after_all_others_were_renewed() -> None:
    """D10: SQS was busy for one of the first ten; the second ten are renewed all the same."""
    answers = [failing("InternalError", *[None] * 9)]
    client = ScriptedClient(lambda entries: answers.pop(0)(entries) if answers else {})
    with pytest.raises(ConnectionError, match="InternalError"):
        lease_on(ScriptedChannel(client)).renew([hold(str(n)) for n in range(20)])
    assert [len(entries) for _, entries in client.requests] == [10, 10]


def test_an_endpoint_that_is_away_is_not_asked_again_for_each_queue() -> None:
    """D10: unless the queues are predefined, they share one, and each attempt takes seconds."""
    exceptions = pytest.importorskip("botocore.exceptions", reason="the lease on SQS needs boto3: install the extra `sqs`")

    def away(_entries: Any) -> Any:
        raise exceptions.ConnectTimeoutError(endpoint_url=URL)

    holds = [*[hold(str(n)) for n in range(20)], hold("o", queue="http://sqs/1/other")]
    client, apart = ScriptedClient(away), ScriptedClient(away)
    with pytest.raises(ConnectionError, match="timeout"):
        lease_on(ScriptedChannel(client)).renew(holds)
    with pytest.raises(ConnectionError, match="timeout"):
        lease_on(ScriptedChannel(apart, {"shop": URL, "other": "http://sqs/1/other"})).renew(holds)
    assert [url for url, _ in client.requests] == [URL]
    assert [url for url, _ in apart.requests] == [URL, "http://sqs/1/other"]


def test_a_forbidden_queue_does_not_keep_others_from_being_renewed() -> None:
    """D10: permissions are given by queue."""
    client = ScriptedClient()
    client.answer = lambda entries: client_error("AccessDenied")(entries) if client.requests[-1][0] == URL else {}
    with pytest.raises(ConnectionError, match="AccessDenied"):
        lease_on(ScriptedChannel(client)).renew([hold("a"), hold("b", queue="http://sqs/1/other")])
    assert [url for url, _ in client.requests] == [URL, "http://sqs/1/other"]


def test_messages_of_a_deleted_queue_are_gone() -> None:
    """D10: they went with it."""
    lease = lease_on(ScriptedChannel(ScriptedClient(client_error("AWS.SimpleQueueService.NonExistentQueue"))))
    assert lease.renew([hold("a"), hold("b")]).held == (Held.GONE, Held.GONE)


def test_a_message_past_the_limit_is_gone_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """D10: no request is made for it."""
    client = ScriptedClient()
    lease = lease_on(ScriptedChannel(client))
    old = hold(token=int((time.time() - LIMIT) * 1e6))
    with caplog.at_level(logging.WARNING, "taskora_celery.lease"):
        assert lease.renew([old]).held == lease.renew([old]).held == (Held.GONE,)
    assert [record.getMessage() for record in caplog.records] == [
        f"a message on {URL} is delivered again: SQS hides none for longer than 12 hours"
    ]
    assert client.requests == []


# --- which visibility timeout --------------------------------------------------------------------------------------------


def seconds_asked(client: ScriptedClient) -> list[int]:
    return [entry["VisibilityTimeout"] for _, entries in client.requests for entry in entries]


def test_the_transports_option_is_asked_for_and_the_shorter_of_both_must_be_kept() -> None:
    """D5, D10: kombu gives the option only to queues that it creates, so a message may come with the queue's own timeout."""
    client = ScriptedClient()
    lease = lease_on(ScriptedChannel(client, {"shop": URL}, visibility_timeout=600), "shop")
    assert lease.visibility_timeout == 120.0
    lease.renew([hold()])
    assert seconds_asked(client) == [600]


def test_without_the_option_the_queues_own_timeout_counts() -> None:
    """D10: it is read when a message of the queue is first renewed, unless the queue was named before."""
    client = ScriptedClient()
    lease = lease_on(ScriptedChannel(client))
    assert lease.visibility_timeout == 1800.0
    lease.renew([hold()])
    assert (seconds_asked(client), lease.visibility_timeout) == ([120], 120.0)


def test_a_queue_that_kombu_will_create_has_the_timeout_that_it_is_created_with() -> None:
    """D10: the attributes of creation win over the option, as they do in kombu."""
    options: dict[str, Any] = {"visibility_timeout": 600, "sqs-creation-attributes": {"VisibilityTimeout": "45"}}
    assert lease_on(ScriptedChannel(ScriptedClient(), **options)).visibility_timeout == 45.0


def test_a_queue_that_does_not_tell_is_renewed_as_one_with_the_default_of_sqs() -> None:
    """D10: too often is safe, too late is not."""
    client = ScriptedClient()
    client.attributes = {}
    lease = lease_on(ScriptedChannel(client))
    lease.renew([hold()])
    assert (seconds_asked(client), lease.visibility_timeout) == ([30], 30.0)


# --- other transports ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["memory://", "filesystem://", "amqp://guest@127.0.0.1:1//"])
def test_transports_that_cannot_be_renewed_get_the_lease_that_does_nothing(url: str) -> None:
    """D10: RabbitMQ is not even connected to; nobody listens there."""
    assert lease_for(Celery("shop", broker=url, set_as_current=False)) is NO_LEASE


def test_boto3_is_loaded_only_for_a_broker_on_sqs() -> None:
    """D10: importing it takes time and memory, and it need not be installed."""
    code = (
        "import sys, celery, taskora_celery; from taskora_celery.lease import resolve, visibility, rabbitmq;"
        "resolve.lease_for(celery.Celery('shop', broker='memory://'));"
        "assert not {'boto3', 'botocore'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("url", ["amqp://", "pyamqp://guest@broker//", "amqps://broker"])
def test_rabbitmq_is_warned_about_with_the_name_of_what_to_set(url: str) -> None:
    """D10: nothing a worker does extends its limit."""
    text = unrenewable_warning(Connection(url))
    assert text
    assert "consumer_timeout" in text
    assert "30 minutes" in text


@pytest.mark.parametrize("url", ["memory://", "redis://broker/0", "filesystem://"])
def test_no_other_broker_is_warned_about(url: str) -> None:
    """D10: their leases are renewed, or need not be."""
    assert unrenewable_warning(Connection(url)) is None
