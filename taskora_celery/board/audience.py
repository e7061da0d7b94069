"""Who looks at a board, and the feeds that they share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any, TypeVar

from taskora_celery.board.feeds import Feed, OnEnd, PageFeed
from taskora_celery.board.hub import Hub
from taskora_celery.board.jobfeed import JobFeed
from taskora_celery.board.listfeed import ListFeed, RowFeed
from taskora_celery.board.outbox import Outbox
from taskora_celery.board.pages import Page

__all__ = ["Audience"]

F = TypeVar("F", bound=Feed)


class Audience:
    """The viewers of one board, and one feed for all who look at the same thing. Used in one event loop."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._feeds: dict[Hashable, Any] = {}
        self._viewers: set[Outbox] = set()
        self._closing = False

    # --- feeds ------------------------------------------------------------------------------------------------------------

    def list_feed(self, search: str, limit: int, root: str) -> ListFeed:
        """Return the feed of a search."""
        rows = partial(self.row_feed, root=root)
        return self._feed(("list", search, limit, root), lambda on_end: ListFeed(self._hub, on_end, search, limit, root, rows))

    def row_feed(self, job_id: str, root: str) -> RowFeed:
        """Return the feed of a job's row."""
        return self._feed(("row", job_id, root), lambda on_end: RowFeed(self._hub, on_end, job_id, root))

    def job_feed(self, job_id: str, root: str, after: int) -> JobFeed:
        """Return the feed of a job's page; where it is made now, it begins after ``after``."""
        return self._feed(("job", job_id, root), lambda on_end: JobFeed(self._hub, on_end, job_id, root, after))

    def page_feed(self, page: Page, filters: Mapping[str, str], root: str) -> PageFeed:
        """Return the feed of a page of the table."""
        key = "page", page.name, tuple(sorted(filters.items())), root
        return self._feed(key, lambda on_end: PageFeed(self._hub, on_end, page, dict(filters), root))

    def _feed(self, key: Hashable, make: Callable[[OnEnd], F]) -> F:
        feed: F | None = self._feeds.get(key)
        if feed is None:
            feed = self._feeds[key] = make(partial(self._forget, key))
        return feed

    def _forget(self, key: Hashable, feed: Feed) -> None:
        if self._feeds.get(key) is feed:  # and not one that was made since
            del self._feeds[key]

    # --- viewers ----------------------------------------------------------------------------------------------------------

    @property
    def viewers(self) -> int:
        """How many look."""
        return len(self._viewers)

    def enter(self, outbox: Outbox) -> None:
        """Note a viewer."""
        self._viewers.add(outbox)
        if self._closing:
            outbox.close()

    def leave(self, outbox: Outbox) -> None:
        """Let a viewer go."""
        self._viewers.discard(outbox)

    def close(self) -> None:
        """End all streams: a server that waits for its connections would wait for ever."""
        self._closing = True
        for outbox in self._viewers:
            outbox.close()
