"""The thread that shows progress: the latest value of each job, however long a place hangs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from taskora_celery.reporter.showing import Showing
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


class HangingSink:
    """Hangs in its first write until it is let go."""

    def __init__(self) -> None:
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.written: list[Any] = []

    def write(self, value: Any) -> None:
        self.written.append(value)
        self.inside.set()
        self.go_on.wait(10)

    def close(self) -> None:
        """Do nothing."""


@pytest.fixture
def showing() -> Iterator[Showing]:
    made = Showing()
    yield made
    made.close()


def test_who_shows_something_does_not_wait_for_it(showing: Showing) -> None:
    """Fault 16, E1: a result backend that hangs holds up nobody; meanwhile the latest value of each sink waits."""
    hanging, other = HangingSink(), HangingSink()
    other.go_on.set()
    showing.show(hanging, 0)
    assert hanging.inside.wait(10)
    for value in (1, 2, 3):
        showing.show(hanging, value)
        showing.show(other, value)
    assert (hanging.written, other.written) == ([0], [])
    hanging.go_on.set()
    wait_until(lambda: (hanging.written, other.written) == ([0, 3], [3]), "the latest of each")


def test_what_is_forgotten_is_not_written(showing: Showing) -> None:
    """E5: a job that has ended shows nothing more, and is not kept alive."""
    hanging, ended = HangingSink(), HangingSink()
    showing.show(hanging, 0)
    assert hanging.inside.wait(10)
    showing.show(ended, 1)
    showing.forget(ended)
    hanging.go_on.set()
    showing.show(hanging, 2)
    wait_until(lambda: hanging.written == [0, 2], "the next value")
    assert ended.written == []
