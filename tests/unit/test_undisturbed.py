"""The blocks in which the soft time limit is held back."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from taskora_celery.undisturbed import undisturbed

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there is no soft limit by a signal")


@pytest.fixture
def heard() -> Iterator[list[str]]:
    """Note each soft limit, as the handler of Celery's pool would raise it."""
    found: list[str] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: found.append("limit"))
    yield found
    signal.signal(signal.SIGUSR1, before)


def test_a_limit_that_comes_in_a_block_arrives_behind_it(heard: list[str]) -> None:
    """H1: it is late by the few lines that it would have torn, and not lost."""
    with undisturbed():
        signal.raise_signal(signal.SIGUSR1)
        assert heard == []
    assert heard == ["limit"]
    signal.raise_signal(signal.SIGUSR1)
    assert heard == ["limit", "limit"]


def test_of_blocks_in_one_another_the_outermost_counts(heard: list[str]) -> None:
    """H1: a job's end is one block, and letting go of the job, which is also done alone, is one inside it."""
    inside = undisturbed()
    with undisturbed():
        with inside:
            signal.raise_signal(signal.SIGUSR1)
        assert heard == []
    assert heard == ["limit"]


def test_a_block_that_raises_lets_the_limit_through(heard: list[str]) -> None:
    """H1: whatever ends it."""

    def fail() -> None:
        with undisturbed():
            signal.raise_signal(signal.SIGUSR1)
            raise OSError("no answer")

    with pytest.raises(OSError, match="no answer"):
        fail()
    assert heard == ["limit"]
