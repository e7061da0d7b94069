"""What viewers look at, each read once for all of them: a job, a list of jobs, a page.

A feed's task runs while somebody listens. All of this happens in one event loop; only what may block runs in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from taskora_celery.backoff import outage_pause
from taskora_celery.board.outbox import FRAME_SECONDS, Outbox, frame
from taskora_celery.board.pages import FilterError, Page, titled
from taskora_celery.board.rows import lines_of
from taskora_celery.errors import StoreUnavailableError
from taskora_celery.following import Change

if TYPE_CHECKING:
    from taskora_celery.board.hub import Hub

__all__ = ["Feed", "JobFeed", "ListFeed", "PageFeed", "RowFeed"]

logger = logging.getLogger("taskora_celery.board")

#: Seconds between two looks at which jobs there are.
LIST_SECONDS = 1.0
#: A feed that is asked again and again rests so many times as long as a look has taken, at least.
IDLE_SHARE = 3
#: Seconds behind the failure of a feed.
FAILED_SECONDS = 5.0


class Feed(ABC):
    """One thing that is looked at. ``join`` and ``leave`` are the viewers'; the task ends with the last of them."""

    def __init__(self, hub: Hub, key: Any) -> None:
        self.hub = hub
        self.key = key
        self.viewers: set[Outbox] = set()
        self._task: asyncio.Task[None] | None = None
        self._away: str | None = None

    def join(self, outbox: Outbox) -> None:
        """Let a viewer hear from now on."""
        self.viewers.add(outbox)
        if self._away is not None:
            outbox.latest("outage", frame("outage", {"text": self._away}), at_once=True)
        self.greet(outbox)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"taskora-board-{type(self).__name__}")

    def leave(self, outbox: Outbox) -> None:
        """Let a viewer go."""
        self.viewers.discard(outbox)
        if not self.viewers:
            self.stop()

    def stop(self) -> None:
        """End the task."""
        self.hub.forget(self)
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def greet(self, outbox: Outbox) -> None:  # noqa: B027 - there may be nothing to tell
        """Tell a new viewer what is known already."""

    def tell(self, about: Any, data: bytes, *, at_once: bool = False) -> None:
        """Tell all viewers."""
        for outbox in self.viewers:
            outbox.latest(about, data, at_once=at_once)

    def outage(self, exc: StoreUnavailableError | None) -> None:
        """Tell all viewers, once, that the store is away, or back."""
        text = None if exc is None else f"Redis cannot be reached; trying again. {exc}"
        if text != self._away and (text is None or self._away is None):
            self._away = text
            self.tell("outage", frame("outage", {"text": text}), at_once=True)

    async def _run(self) -> None:
        while True:
            try:
                await self.run()
            except asyncio.CancelledError:
                raise
            except Exception:
                # The task's outer edge: whatever ends it, who looks must not look at a page that has stopped without a word.
                logger.exception("the board's %s ended unexpectedly; it begins again", type(self).__name__)
                await asyncio.sleep(FAILED_SECONDS)
            else:
                return

    @abstractmethod
    async def run(self) -> None:
        """Look, and tell, until there is nothing more to tell."""


def _pause(took: float, every: float) -> float:
    """Return the seconds to the next look: a search that has to read thousands of records is not to be all that a board does."""
    return max(every - took, IDLE_SHARE * took)


class _Polled(Feed):
    """One that is asked again and again."""

    every = LIST_SECONDS

    async def run(self) -> None:
        failures = 0
        while True:
            began = time.monotonic()
            try:
                await self.look()
            except StoreUnavailableError as exc:
                failures += 1
                self.outage(exc)
                await asyncio.sleep(outage_pause(failures))
                continue
            except FilterError:  # its page says so, and has no stream
                return
            failures = 0
            self.outage(None)
            await asyncio.sleep(_pause(time.monotonic() - began, self.every))

    @abstractmethod
    async def look(self) -> None:
        """Ask once."""


class PageFeed(_Polled):
    """The live part of a page of the table, under one mount path and with one set of filters."""

    def __init__(self, hub: Hub, key: Any, page: Page, filters: dict[str, str], root: str) -> None:
        super().__init__(hub, key)
        self.every = page.every
        self._page = page
        self._filters = filters
        self._root = root
        self._html = self._title = ""

    async def look(self) -> None:
        """Render the live part; tell it where it is another one."""
        context = await self.hub.asked(self._page.context, self._filters)
        html = self.hub.renderer.render(self._page.fragment, self._root, **context)
        if html != self._html:
            self._html = html
            self._title = titled(self._page, context)
            self.tell("fragment", frame("fragment", {"html": html, "title": self._title}))

    def greet(self, outbox: Outbox) -> None:
        """Tell the live part: the page may be older."""
        if self._html:
            outbox.latest("fragment", frame("fragment", {"html": self._html, "title": self._title}))


class RowFeed(Feed):
    """The row of one job, for the lists in which it stands."""

    def __init__(self, hub: Hub, key: Any, job_id: str, root: str) -> None:
        super().__init__(hub, key)
        self._id = job_id
        self._root = root
        self.listeners: set[Callable[[str, str, bool], None]] = set()

    async def run(self) -> None:
        """Tell the row whenever it has changed."""
        html = ""
        async with aclosing(self.hub.reader_of(self._id).changes(logs=False, least=FRAME_SECONDS)) as changes:
            async for change in changes:
                new = html if change.snapshot is None else self.hub.row_html(self.hub.seen(change), self._root)
                if new != html or change.over:
                    html = new
                    for listener in list(self.listeners):
                        listener(self._id, html, change.over)

    def hear(self, listener: Callable[[str, str, bool], None]) -> None:
        """Let a list hear of it."""
        self.listeners.add(listener)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="taskora-board-row")

    def mute(self, listener: Callable[[str, str, bool], None]) -> None:
        """Let a list go."""
        self.listeners.discard(listener)
        if not self.listeners:
            self.stop()


class ListFeed(_Polled):
    """The jobs that a search finds: which, how many in each state, and the rows of those that were shown."""

    def __init__(self, hub: Hub, key: Any, search: str, limit: int, root: str) -> None:
        super().__init__(hub, key)
        self._search = search
        self._limit = limit
        self._root = root
        self._rows: dict[str, str] = {}
        self._watched: dict[str, RowFeed] = {}
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
            self._told(view.id, self.hub.row_html(view, self._root), view.over)
            if not view.over and view.id not in self._watched:
                self._watched[view.id] = self.hub.row(view.id, self._root)
                self._watched[view.id].hear(self._told)
        self._trim(ids)

    def _trim(self, ids: list[str]) -> None:
        """Forget rows that have not been in the list for long; those that still go on are kept, since somebody may see them."""
        shown = set(ids)
        for job_id in [job_id for job_id in self._rows if job_id not in shown and job_id not in self._watched]:
            if len(self._rows) <= 4 * self._limit:
                return
            del self._rows[job_id]

    def _told(self, job_id: str, html: str, over: bool) -> None:
        if html and self._rows.get(job_id) != html:
            self._rows[job_id] = html
            self.tell(("row", job_id), frame("row", {"id": job_id, "html": html}), at_once=over)
        if over and job_id in self._watched:
            self._watched.pop(job_id).mute(self._told)

    def greet(self, outbox: Outbox) -> None:
        """Tell all: the page may be older than what was told last."""
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


class JobFeed(Feed):
    """One job's page: its head, its attempts, and the lines of its log."""

    def __init__(self, hub: Hub, key: Any, job_id: str, root: str, after: int) -> None:
        super().__init__(hub, key)
        self._id = job_id
        self._root = root
        #: Where the first viewer was; each reads by itself what came before this feed.
        self._position = after
        self._frames: dict[str, bytes] = {}

    async def run(self) -> None:
        """Tell what is new, until the job is over."""
        await self.hub.prepared()
        await self._begin_within()
        reader = self.hub.reader_of(self._id)
        async with aclosing(reader.changes(after=self._position, least=FRAME_SECONDS / 2, on_outage=self.outage)) as changes:
            async for change in changes:
                self._told_lines(change)
                if change.snapshot is not None:
                    self._told_parts(change)
                elif change.over:
                    self._frames["gone"] = frame("gone", {})
                    self.tell("gone", self._frames["gone"], at_once=True)

    async def _begin_within(self) -> None:
        """Begin no later than where the journal ends: the position came from outside, or is that of an earlier job of this id.

        Else the first line behind it would look like the first of another run, and all would be told to everybody again.
        """
        try:
            found = await self.hub.store_of_loop().read(self._id)
        except (StoreUnavailableError, UnicodeError):  # what reads the changes waits for the store, and tells of it
            return
        if found is not None:
            self._position = min(self._position, found.fields.get("q", 0) - 1)

    def _told_lines(self, change: Change) -> None:
        for line in lines_of(change.events):
            if line.seq < self._position:
                for outbox in self.viewers:
                    outbox.started_anew()
            self._position = line.seq
            data = self.hub.line_frame(line, self._root)
            for outbox in self.viewers:
                outbox.line(line.seq, data)

    def _told_parts(self, change: Change) -> None:
        for name, html, title in self.hub.job_parts(change, self._root):
            data = frame(name, {"html": html, "title": title, "over": change.over})
            if self._frames.get(name) != data:
                self._frames[name] = data
                self.tell(name, data, at_once=change.over)

    def greet(self, outbox: Outbox) -> None:
        """Tell the head and the attempts: the page may be older."""
        for name, data in self._frames.items():
            outbox.latest(name, data)
