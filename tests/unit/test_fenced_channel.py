"""What one delivery may do to its message, when the same channel has a later delivery of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from taskora_celery.lease.fence import FencedChannel
from taskora_celery.lease.protocol import Held, Hold


class Channel:
    """A channel that notes which tags kombu is told to forget, and which messages it is told to put back."""

    def __init__(self) -> None:
        self.qos = self
        self.closed = False
        #: The latest delivery of each message, as kombu counts them.
        self._delivered: dict[str, Any] = {}
        self.forgotten: list[str] = []
        self.requeued: list[str] = []
        self._quick_ack = self.forgotten.append

    def restore(self, tag: str) -> None:
        """Note it."""
        self.requeued.append(tag)

    def receives(self) -> Any:
        """The message is delivered (again); return it."""
        self._delivered["t"] = message = SimpleNamespace(delivery_tag="t", channel=self)
        return message


class Fence:
    """A fence that gives one answer."""

    def __init__(self, held: Held) -> None:
        self.held = held

    def acknowledge(self, hold: Hold) -> Held:
        """Give it."""
        return self.held

    def put_back(self, channel: Channel, hold: Hold, *, last: bool) -> None:
        """Do as it says."""
        if self.held is not Held.TAKEN:
            channel.restore(hold.tag)


def made(held: Held = Held.HELD) -> tuple[FencedChannel, Channel]:
    channel, fence = Channel(), Fence(held)
    message = channel.receives()
    message.channel = fenced = FencedChannel(channel, fence, Hold("t", 1))  # type: ignore[arg-type]
    return fenced, channel


@pytest.mark.parametrize("late", ["basic_ack", "basic_reject", "give_up"])
def test_what_was_given_up_is_not_touched_again(late: str) -> None:
    """D7: the tag may be that of a later delivery on the same channel by then, which kombu would forget, and nobody renew."""
    fenced, channel = made()
    fenced.give_up()
    assert channel.forgotten == ["t"]
    arguments: tuple[Any, ...] = {"basic_ack": ("t",), "basic_reject": ("t", True), "give_up": ()}[late]
    getattr(fenced, late)(*arguments)
    assert (channel.forgotten, channel.requeued) == (["t"], [])


@pytest.mark.parametrize("held", [Held.HELD, Held.GONE, Held.TAKEN])
@pytest.mark.parametrize("end", ["basic_ack", "basic_reject", "give_up"])
def test_a_later_delivery_on_the_same_channel_is_not_forgotten(end: str, held: Held) -> None:
    """D3, D7: forgotten by kombu, what waits here is neither renewed nor given back at the worker's end."""
    fenced, channel = made(held)
    channel.receives()
    arguments: tuple[Any, ...] = {"basic_ack": ("t",), "basic_reject": ("t", True), "give_up": ()}[end]
    getattr(fenced, end)(*arguments)
    assert (channel.forgotten, fenced.settled) == ([], True)


def test_a_message_that_comes_back_while_it_is_given_back_is_not_forgotten() -> None:
    """D3, I3: a thread of the pool gives it back, and the worker's main thread has it again before the call returns."""
    fenced, channel = made()
    channel.restore = lambda _: channel.receives()  # type: ignore[method-assign, assignment]
    fenced.basic_reject("t", requeue=True)
    assert channel.forgotten == []


@pytest.mark.parametrize("same", [True, False])
def test_the_message_under_which_a_job_goes_on_is_forgotten_at_its_end(same: bool) -> None:
    """D3: it came back on the same channel, or on that of another connection."""
    fenced, before = made()
    now = before if same else Channel()
    fenced.move(now.receives(), fenced._fence)
    fenced.basic_ack("t")
    assert now.forgotten == ["t"]


def test_a_job_that_ends_while_its_message_comes_back_forgets_that_too() -> None:
    """D3: a slot of the prefetch count would be lost for as long as the connection lives."""
    fenced, _ = made()
    fenced.basic_ack("t")
    now = Channel()
    fenced.move(now.receives(), fenced._fence)
    assert now.forgotten == ["t"]


def test_a_message_that_another_delivery_has_is_not_put_back() -> None:
    """D7: its rejection would pull the other's message into the queue."""
    fenced, channel = made(Held.TAKEN)
    fenced.basic_reject("t", requeue=True)
    assert (channel.forgotten, channel.requeued) == (["t"], [])


def test_a_message_of_its_own_is_acknowledged_or_put_back_once() -> None:
    """D7: by the fence, and by kombu."""
    fenced, channel = made()
    fenced.basic_ack("t")
    fenced.basic_ack("t")
    assert channel.forgotten == ["t"]
    fenced, channel = made()
    fenced.basic_reject("t", requeue=True)
    fenced.basic_reject("t", requeue=True)
    assert (channel.forgotten, channel.requeued) == (["t"], ["t"])


def test_a_message_is_settled_before_it_is_removed() -> None:
    """D7: who renews, in another thread, may find it gone in the middle of the round trip, and must know why."""
    fenced, _ = made()
    seen: list[bool] = []

    def acknowledge(_: Hold) -> Held:
        seen.append(fenced.settled)
        return Held.HELD

    fenced._fence.acknowledge = acknowledge  # type: ignore[method-assign, assignment]
    fenced.basic_ack("t")
    assert seen == [True]
