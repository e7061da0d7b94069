"""What one delivery may do to its message, when the same channel has a later delivery of it."""

from __future__ import annotations

from typing import Any

import pytest

from taskora_celery.lease.protocol import Held, Hold
from taskora_celery.lease.redis import FencedChannel


class Channel:
    """A channel that notes which tags kombu is told to forget, and which messages it is told to put back."""

    def __init__(self) -> None:
        self.qos = self
        self.forgotten: list[str] = []
        self.requeued: list[str] = []
        self._quick_ack = self.forgotten.append

    def basic_reject(self, tag: str, requeue: bool) -> None:
        """Note it."""
        self.requeued.append(tag)


class Fence:
    """A fence that gives one answer."""

    def __init__(self, held: Held) -> None:
        self.held = held

    def acknowledge(self, hold: Hold) -> Held:
        """Give it."""
        return self.held

    def is_taken(self, hold: Hold) -> bool:
        """Give it as a yes or a no."""
        return self.held is Held.TAKEN


def made(held: Held = Held.HELD) -> tuple[FencedChannel, Channel]:
    channel, fence = Channel(), Fence(held)
    return FencedChannel(channel, fence, Hold("t", 1)), channel  # type: ignore[arg-type]


@pytest.mark.parametrize("late", ["basic_ack", "basic_reject", "give_up"])
def test_what_was_given_up_is_not_touched_again(late: str) -> None:
    """D7: the tag may be that of a later delivery on the same channel by then, which kombu would forget, and nobody renew."""
    fenced, channel = made()
    fenced.give_up()
    assert channel.forgotten == ["t"]
    arguments: tuple[Any, ...] = {"basic_ack": ("t",), "basic_reject": ("t", True), "give_up": ()}[late]
    getattr(fenced, late)(*arguments)
    assert (channel.forgotten, channel.requeued) == (["t"], [])


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
    assert (channel.forgotten, channel.requeued) == ([], ["t"])


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
