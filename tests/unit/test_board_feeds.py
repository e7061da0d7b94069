"""Feeds: how often they look, what they forget, and that none stops without a word."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request

from taskora_celery.board.audience import Audience
from taskora_celery.board.feeds import Feed, ViewerFeed, pause_after
from taskora_celery.board.hub import Listing
from taskora_celery.board.jobpage import JobPage
from taskora_celery.board.listfeed import JOBS_WATCHED, ListFeed, RowFeed
from taskora_celery.board.outbox import Outbox
from taskora_celery.board.stream import stream
from taskora_celery.census import StateCounts
from taskora_celery.records import JobStatus, Outcome
from taskora_celery.views import STATES, JobView

#: A feed that reads nothing needs none.
NO_HUB: Any = None


def forgotten(_: Feed) -> None:
    """Nobody has kept it."""


def no_row(job_id: str) -> RowFeed:
    """Return a row that has nothing to say."""
    return IdleRow(NO_HUB, forgotten, job_id, "")


class Idle(Feed):
    """A feed that has nothing to say."""

    async def run(self) -> None:
        await asyncio.Event().wait()


class IdleRow(RowFeed):
    """A row that has nothing to say but what it is told to."""

    async def run(self) -> None:
        await asyncio.Event().wait()

    def says(self, html: str) -> None:
        """Have said this."""
        self._html = html


@pytest.mark.parametrize(("took", "pause"), [(0.0, 1.0), (0.1, 0.9), (0.25, 0.75), (0.5, 1.5), (4.0, 12.0)])
def test_a_look_that_takes_long_is_not_taken_often(took: float, pause: float) -> None:
    """K4: a search that reads all records takes a quarter of one processor at most."""
    assert pause_after(took, 1.0) == pytest.approx(pause)


def test_a_list_forgets_rows_that_have_gone_by() -> None:
    """K4: safe to leave running: those that are shown and those that go on are kept, of the others a few."""
    feed = ListFeed(NO_HUB, forgotten, "", 2, "", no_row)
    feed._rows = {f"job-{number}": "row" for number in range(100)}
    feed._watched = {"job-0": no_row("job-0")}
    feed._trim({"job-1", "job-99"})
    assert list(feed._rows) == ["job-0", "job-1", *(f"job-{number}" for number in range(94, 100))]


def test_a_feed_that_fails_begins_again(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """K4: whoever looks must not look at a page that has stopped without a word; the board's own log says why."""
    monkeypatch.setattr("taskora_celery.board.feeds.FAILED_SECONDS", 0.0)
    runs: list[Any] = []

    class Failing(ViewerFeed):
        async def run(self) -> None:
            runs.append(1)
            if len(runs) == 1:
                raise RuntimeError("of the first run")
            self.tell("a", b"told")

    async def story() -> bytes:
        outbox, feed = Outbox(), Failing(NO_HUB, forgotten)
        async with feed.viewed(outbox):
            return await outbox.take(5.0)

    assert asyncio.run(story()) == b"told"
    assert "of the first run" in caplog.text


def test_a_list_hears_of_a_bounded_number_of_jobs() -> None:
    """K4: safe to leave running: of thousands that wait for their next attempt, not all that were ever shown are followed."""

    async def story() -> None:
        feed, rows = ListFeed(NO_HUB, forgotten, "", 2, "", no_row), [no_row(f"job-{n}") for n in range(JOBS_WATCHED + 3)]
        for number, row in enumerate(rows):
            feed._watched[f"job-{number}"] = row
            row.hear(feed._told)
        feed._trim({"job-0", "job-1"})
        assert len(feed._watched) == JOBS_WATCHED
        assert [number for number, row in enumerate(rows) if row._task is None] == [2, 3, 4], "those that left the list first"
        feed.stop()
        assert [row for row in rows if row._task is not None] == []

    asyncio.run(story())


def test_a_list_that_comes_later_hears_what_a_row_is() -> None:
    """K4: the row of a job is read once for all lists, and told to each."""
    told: list[Any] = []

    async def story() -> None:
        row = IdleRow(NO_HUB, forgotten, "job-1", "")
        row.says("<tr>")
        row.hear(lambda *news: told.append(news))
        row.stop()

    asyncio.run(story())
    assert told == [("job-1", "<tr>", False)]


class ListHub:
    """A hub whose search finds these jobs, and that counts the rows that it renders."""

    def __init__(self, *views: JobView) -> None:
        self.views = list(views)
        self.renderer = self
        self.rendered: list[str] = []

    def render(self, *_: Any, **__: Any) -> str:
        """Nothing is asked for but the chips."""
        return "chips"

    def chips(self, *_: Any) -> dict[str, Any]:
        """There are none."""
        return {"title": ""}

    async def listing(self, search: str, limit: int) -> Listing:
        """All of them."""
        return Listing(self.views, StateCounts({}), 0, False)

    def row_html(self, view: JobView, root: str) -> str:
        """The state's word."""
        self.rendered.append(view.id)
        return view.state


def view(job_id: str, state: str = Outcome.SUCCESS, attempt: int = 1) -> JobView:
    """A job."""
    return JobView(JobStatus(job_id, "import.csv", state, attempt, 1, "w1@host", 0, 0, 0, 0), STATES[state])


def test_a_job_that_has_ended_is_rendered_once() -> None:
    """K4: a list of five hundred is looked at every second, and what has ended does not change; one that is sent anew does."""

    async def story() -> None:
        hub: Any = ListHub(view("a"), view("b"))
        feed, outbox = ListFeed(hub, forgotten, "", 2, "", no_row), Outbox()
        feed.viewers.add(outbox)
        await feed.look()
        await feed.look()
        assert hub.rendered == ["a", "b"]
        hub.views[1] = view("b", Outcome.FAILURE, attempt=2)
        await feed.look()
        assert hub.rendered == ["a", "b", "b"]
        assert b'"html":"failed"' in outbox.taken(1e9)

    asyncio.run(story())


class HangingHub:
    """A hub whose store never answers."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    def store_of_loop(self) -> HangingHub:
        """What never answers."""
        return self

    async def read(self, *_: Any, **__: Any) -> None:
        """Never answer."""
        self.asked.set()
        await asyncio.Event().wait()


class OneFeed(Audience):
    """An audience that looks at one job, which has nothing to say."""

    feed = None

    def job_feed(self, *_: Any) -> Any:
        """The one feed."""
        self.feed = _IdleViewerFeed(self._hub, forgotten)
        return self.feed


class _IdleViewerFeed(ViewerFeed, Idle):
    """Has nothing to say, and viewers."""


def test_a_viewer_that_goes_while_the_journal_is_read_is_let_go() -> None:
    """K4: safe to leave running: its feed ends with it, and nothing is kept for it."""

    async def story() -> None:
        hub: Any = HangingHub()
        audience: Any = OneFeed(hub)
        about = {"method": "GET", "path": "/job/events", "query_string": b"id=job-1", "headers": []}
        join = await JobPage(hub, audience).join(Request({"type": "http", "taskora.root": "", **about}))
        reading = asyncio.ensure_future(_all(stream(audience, join).body_iterator))
        await asyncio.wait_for(hub.asked.wait(), 5)
        assert (len(audience.feed.viewers), audience.viewers) == (1, 1)
        reading.cancel()
        await asyncio.wait({reading})
        assert (audience.feed.viewers, audience.viewers, audience.feed._task) == (set(), 0, None)

    asyncio.run(story())


async def _all(pieces: Any) -> None:
    async for _ in pieces:
        pass
