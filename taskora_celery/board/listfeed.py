"""The feed of a list of jobs, and those of the rows in it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing

from taskora_celery.board.feeds import Feed, OnEnd, PolledFeed
from taskora_celery.board.hub import Hub
from taskora_celery.board.outbox import FRAME_SECONDS, Outbox, frame
from taskora_celery.views import JobView

__all__ = ["ListFeed", "Listener", "RowFeed"]

#: So many rows are kept for each that a list shows: a page that is open for long still shows some that have left the list.
ROWS_KEPT = 4
#: Of so many jobs that go on a list hears at once; each is looked at every two seconds at least.
JOBS_WATCHED = 1_000

#: Hears of a row: the job's id, the HTML (empty: there is no record any more), and whether that was the last word.
Listener = Callable[[str, str, bool], None]


class RowFeed(Feed):
    """The row of one job, for the lists in which it stands."""

    def __init__(self, hub: Hub, on_end: OnEnd, job_id: str, root: str) -> None:
        super().__init__(hub, on_end)
        self._id = job_id
        self._root = root
        self._html = ""
        self._listeners: set[Listener] = set()

    async def run(self) -> None:
        """Tell the row whenever it has changed."""
        async with aclosing(self.hub.reader_of(self._id).changes(logs=False, least=FRAME_SECONDS)) as changes:
            async for change in changes:
                html = self._html if change.snapshot is None else self.hub.row_html(self.hub.seen(change), self._root)
                if html != self._html or change.over:
                    self._html = html
                    for listener in list(self._listeners):
                        listener(self._id, html, change.over)

    def hear(self, listener: Listener) -> None:
        """Let a list hear of it, first of what is known already."""
        self._listeners.add(listener)
        if self._html:
            listener(self._id, self._html, False)
        self.start()

    def mute(self, listener: Listener) -> None:
        """Let a list go."""
        self._listeners.discard(listener)
        if not self._listeners:
            self.stop()


class ListFeed(PolledFeed):
    """The jobs that a search finds: which, how many in each state, and the rows of those that were shown."""

    every = 1.0

    def __init__(
        self, hub: Hub, on_end: OnEnd, search: str, limit: int, root: str, row_feed: Callable[[str], RowFeed]
    ) -> None:  # fmt: skip
        super().__init__(hub, on_end)
        self._search = search
        self._limit = limit
        self._root = root
        self._row_feed = row_feed
        self._rows: dict[str, str] = {}
        self._watched: dict[str, RowFeed] = {}
        #: Jobs in the list that have ended: nothing about them changes any more.
        self._ended: dict[str, JobView] = {}
        #: None until it was looked.
        self._ids: list[str] | None = None
        self._chips = b""

    async def look(self) -> None:
        """See which jobs there are now."""
        listing = await self.hub.listing(self._search, self._limit)
        context = self.hub.chips(listing, self._search)
        html = self.hub.renderer.render("chips.html", self._root, **context)
        chips = frame("chips", {"html": html, "title": context["title"]})
        if chips != self._chips:
            self._chips = chips
            self.tell("chips", chips)
        ids = [view.id for view in listing.views]
        if ids != self._ids:
            self._ids = ids
            self.tell("list", frame("list", {"ids": ids}))
        for view in listing.views:
            if not view.over:
                self._watch(view.id)
            elif self._ended.get(view.id) != view:
                self._told(view.id, self.hub.row_html(view, self._root), True)
        self._ended = {view.id: view for view in listing.views if view.over}
        self._trim(set(ids))

    def _watch(self, job_id: str) -> None:
        if job_id not in self._watched:
            self._watched[job_id] = self._row_feed(job_id)
            self._watched[job_id].hear(self._told)

    def _trim(self, shown: set[str]) -> None:
        """Forget what has left the list: of jobs that go on, whose rows somebody may still see, only where they are too many."""
        for job_id in [job_id for job_id in self._watched if job_id not in shown]:
            if len(self._watched) <= JOBS_WATCHED:
                break
            self._watched.pop(job_id).mute(self._told)
        for job_id in [job_id for job_id in self._rows if job_id not in shown and job_id not in self._watched]:
            if len(self._rows) <= ROWS_KEPT * self._limit:
                break
            del self._rows[job_id]

    def _told(self, job_id: str, html: str, over: bool) -> None:
        if html and self._rows.get(job_id) != html:
            self._rows[job_id] = html
            self.tell(("row", job_id), frame("row", {"id": job_id, "html": html}), at_once=over)
        if over and job_id in self._watched:
            self._watched.pop(job_id).mute(self._told)

    def greet(self, outbox: Outbox) -> None:
        """Tell all that is known."""
        if self._ids is not None:
            outbox.latest("chips", self._chips)
            outbox.latest("list", frame("list", {"ids": self._ids}))
        for job_id, html in self._rows.items():
            outbox.latest(("row", job_id), frame("row", {"id": job_id, "html": html}))

    def stop(self) -> None:
        """End the task, and let the rows go."""
        for row in self._watched.values():
            row.mute(self._told)
        self._watched.clear()
        super().stop()
