"""Messages that are given back while the worker shuts down (rule I3)."""

from __future__ import annotations

from typing import Any

from taskora_celery.lease.protocol import Hold
from taskora_celery.worker.leftovers import Leftovers
from tests.support.manual_clock import ManualClock

TAG = "tag-1"


class Message:
    """A message as its delivery's fence sees it, and the lease that puts it back."""

    def __init__(self, *, settled: bool = False, taken: bool = False) -> None:
        self.settled = settled
        self.taken = taken
        self.given_back: list[str] = []
        self.hold = Hold(TAG, 7)

    @property
    def fenced(self) -> Message:
        return self

    def give_up(self) -> None:
        self.settled = True

    def put_back(self, tag: str, *, token: int) -> None:
        assert token == self.hold.token
        if not self.taken:
            self.given_back.append(tag)


def emptied(message: Any, now: float) -> Any:
    leftovers = Leftovers(lambda: None)
    leftovers.add(message)
    leftovers.consumer_stopped()
    return leftovers.turn(message, now)


def test_nothing_goes_back_while_the_worker_may_receive_it_again() -> None:
    """I3: kombu's last read waits for a message, and would take it into a worker that is going."""
    message: Any = Message()
    leftovers = Leftovers(lambda: None)
    leftovers.add(message)
    assert leftovers.turn(message, ManualClock().monotonic()) is None
    assert message.given_back == []
    pause = emptied(message, 0.0)
    assert pause is not None
    assert pause > 0
    assert message.given_back == []


def test_then_it_goes_back_once() -> None:
    """I3: and is no longer this worker's."""
    message: Any = Message()
    assert emptied(message, float("inf")) is None
    assert (message.given_back, message.settled) == ([TAG], True)


def test_what_another_delivery_has_is_left_to_it() -> None:
    """D7: an execution that counts no more is rejected, too; its message runs elsewhere."""
    taken: Any = Message(taken=True)
    emptied(taken, float("inf"))
    settled: Any = Message(settled=True)
    emptied(settled, float("inf"))
    assert (taken.given_back, taken.settled, settled.given_back) == ([], True, [])


def test_what_comes_late_asks_for_a_turn() -> None:
    """I3: the keeper sleeps meanwhile."""
    woken: list[bool] = []
    leftovers = Leftovers(lambda: woken.append(True))
    message: Any = Message()
    leftovers.add(message)
    assert woken == []
    leftovers.consumer_stopped()
    leftovers.add(message)
    assert woken == [True]


def test_what_comes_while_another_goes_back_goes_back_too() -> None:
    """I3: jobs end while the keeper waits for the broker; none of them is left to a worker that is gone."""

    class Slow(Message):
        def put_back(self, tag: str, *, token: int) -> None:
            if not self.given_back:
                leftovers.add(late)
            super().put_back(tag, token=token)

    leftovers = Leftovers(lambda: None)
    first: Any = Slow()
    late: Any = Message()
    leftovers.add(first)
    leftovers.consumer_stopped()
    leftovers.turn(first, float("inf"))
    assert (first.given_back, first.settled, late.settled) == ([TAG, TAG], True, True)
