"""One look at a time, for all who ask."""

from __future__ import annotations

import threading

import pytest

from taskora_celery.looks import Looks
from tests.support.manual_clock import ManualClock
from tests.support.waiting import wait_until


def test_a_look_serves_all_who_ask_while_it_is_fresh() -> None:
    """K4: however many viewers there are, the broker is asked once in a while; and before the first there is nothing to see."""
    clock, looks = ManualClock(), list[int]()

    def look() -> int:
        looks.append(len(looks))
        return looks[-1]

    seen = Looks(look, 5.0, clock)
    assert seen.last is None
    assert [seen.get(), seen.get()] == [0, 0]
    clock.advance(4.9)
    assert seen.get() == 0
    clock.advance(0.2)
    assert seen.get() == 1
    assert seen.last == looks[-1] == 1


def test_who_asks_meanwhile_has_the_last_look_at_once() -> None:
    """K4: only where there is none yet does somebody wait, and then for the look that is under way."""
    clock, gate, results, looks = ManualClock(), threading.Event(), list[int](), list[int]()

    def look() -> int:
        looks.append(0)
        assert gate.wait(30)
        return len(looks)

    seen = Looks(look, 5.0, clock)
    first = [threading.Thread(target=lambda: results.append(seen.get())) for _ in range(3)]
    for thread in first:
        thread.start()
    wait_until(lambda: looks, "one that looks")
    assert seen.last is None
    gate.set()
    for thread in first:
        thread.join(30)
    assert (results, looks) == ([1, 1, 1], [0])

    gate.clear()
    clock.advance(6.0)
    second = threading.Thread(target=lambda: results.append(seen.get()))
    second.start()
    wait_until(lambda: len(looks) == 2, "the second look")
    assert seen.get() == 1, "not blocked by who looks"
    gate.set()
    second.join(30)
    assert results[-1] == seen.get() == 2


def test_a_look_that_fails_is_tried_again_by_the_next() -> None:
    """K4: and what was seen before is still there."""
    clock, failing = ManualClock(), [True, False, True]

    def look() -> str:
        if failing.pop(0):
            raise OSError("away")
        return "seen"

    seen = Looks(look, 5.0, clock)
    with pytest.raises(OSError, match="away"):
        seen.get()
    assert seen.get() == "seen"
    clock.advance(6.0)
    with pytest.raises(OSError, match="away"):
        seen.get()
    assert seen.last == "seen"
