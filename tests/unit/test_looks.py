"""One look at a time, for all who ask."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import pytest

from taskora_celery.looks import OUTDATED, Looks
from tests.support.manual_clock import ManualClock
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

FRESH_FOR = 5.0


class Sight:
    """Something that is looked at: each look waits for the test to let it go."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.begun = 0
        self.gate = threading.Semaphore(0)
        self.failing = False
        self.threads = set[str]()
        self.looks = Looks("taskora-sight", self.look, FRESH_FOR, self.clock)

    def look(self) -> int:
        self.begun += 1
        self.threads.add(threading.current_thread().name)
        number = self.begun
        assert self.gate.acquire(timeout=30)
        if self.failing:
            raise OSError("away")
        return number

    def seen(self, number: int) -> None:
        """Let the look that is under way end, and wait until it is to be seen."""
        self.gate.release()
        wait_until(lambda: self.looks.get(0) == number, f"look {number}")


@pytest.fixture
def sight() -> Iterator[Sight]:
    sight = Sight()
    yield sight
    sight.gate.release(10)


def test_nobody_waits_longer_than_he_wants(sight: Sight) -> None:
    """K4: a broker that does not answer holds up no page."""
    assert sight.looks.get(0.0) is None
    assert sight.looks.get(0.01) is None
    sight.seen(1)
    assert sight.begun == 1
    assert sight.threads == {"taskora-sight"}


def test_the_first_who_asks_is_answered_by_his_own_look(sight: Sight) -> None:
    """K4: the first paint already shows what there is, where it comes in time."""
    sight.gate.release()
    assert sight.looks.get(30.0) == 1


def test_a_look_serves_all_who_ask_while_it_is_fresh(sight: Sight) -> None:
    """K4: however many viewers there are, the broker is asked once in a while."""
    sight.looks.get(0.0)
    sight.seen(1)
    sight.clock.advance(FRESH_FOR - 0.1)
    assert [sight.looks.get(30.0) for _ in range(3)] == [1, 1, 1]
    assert sight.begun == 1


def test_who_asks_while_another_look_is_under_way_has_the_last_one(sight: Sight) -> None:
    """K4: at once, and no second look begins."""
    sight.looks.get(0.0)
    sight.seen(1)
    sight.clock.advance(FRESH_FOR)
    assert [sight.looks.get(30.0) for _ in range(3)] == [1, 1, 1]
    wait_until(lambda: sight.begun == 2, "the second look")
    sight.seen(2)
    assert sight.begun == 2


def test_an_old_look_is_not_shown_while_a_new_one_comes(sight: Sight) -> None:
    """K4: who opens a page that nobody has seen for an hour is not shown the hour before."""
    sight.looks.get(0.0)
    sight.seen(1)
    sight.clock.advance(FRESH_FOR * OUTDATED)
    sight.gate.release()
    assert sight.looks.get(30.0) == 2


def test_a_look_that_fails_is_told_and_made_again(sight: Sight, caplog: pytest.LogCaptureFixture) -> None:
    """K4: whoever waits for it goes on, and the last one is still there."""
    sight.looks.get(0.0)
    sight.seen(1)
    sight.failing = True
    sight.clock.advance(FRESH_FOR * OUTDATED)
    sight.gate.release()
    with caplog.at_level(logging.ERROR, "taskora_celery"):
        assert sight.looks.get(30.0) == 1
        wait_until(lambda: "taskora-sight failed" in caplog.text, "a line in the log")
    sight.failing = False
    sight.gate.release()
    assert sight.looks.get(30.0) == 3
