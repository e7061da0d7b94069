"""Feeds: how often they look, what they forget, and that none stops without a word."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from taskora_celery.board.feeds import Feed, ListFeed, RowFeed, _pause
from taskora_celery.board.outbox import Outbox

if TYPE_CHECKING:
    from taskora_celery.board.hub import Hub


class NoHub:
    """As much of a hub as a feed needs that reads nothing."""

    def forget(self, feed: Feed) -> None:
        """Nothing is kept."""


@pytest.fixture
def hub() -> Hub:
    """A hub without an app."""
    return NoHub()  # type: ignore[return-value]


@pytest.mark.parametrize(("took", "pause"), [(0.0, 1.0), (0.1, 0.9), (0.25, 0.75), (0.5, 1.5), (4.0, 12.0)])
def test_a_look_that_takes_long_is_not_taken_often(took: float, pause: float) -> None:
    """K4: a search that reads all records takes a quarter of one processor at most."""
    assert _pause(took, 1.0) == pytest.approx(pause)


def test_a_list_forgets_rows_that_have_gone_by(hub: Hub) -> None:
    """K4: safe to leave running: those that are shown and those that go on are kept, of the others a few."""
    feed = ListFeed(hub, "key", "", 2, "")
    feed._rows = {f"job-{number}": "row" for number in range(100)}
    feed._watched = {"job-0": RowFeed(hub, "row", "job-0", "")}
    feed._trim(["job-1", "job-99"])
    assert list(feed._rows) == ["job-0", "job-1", *(f"job-{number}" for number in range(94, 100))]


def test_a_feed_that_fails_begins_again(hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """K4: whoever looks must not look at a page that has stopped without a word; the board's own log says why."""
    monkeypatch.setattr("taskora_celery.board.feeds.FAILED_SECONDS", 0.0)
    runs: list[Any] = []

    class Failing(Feed):
        async def run(self) -> None:
            runs.append(1)
            if len(runs) == 1:
                raise RuntimeError("of the first run")
            self.tell("a", b"told")

    async def story() -> bytes:
        outbox, feed = Outbox(), Failing(hub, "key")
        feed.join(outbox)
        told = await outbox.take(5.0)
        feed.leave(outbox)
        return told

    assert asyncio.run(story()) == b"told"
    assert "of the first run" in caplog.text
