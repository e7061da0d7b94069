"""The feed of one job's page."""

from __future__ import annotations

from contextlib import aclosing

from taskora_celery.board.feeds import OnEnd, ViewerFeed
from taskora_celery.board.hub import Hub
from taskora_celery.board.outbox import FRAME_SECONDS, Outbox, frame
from taskora_celery.board.rows import lines_of
from taskora_celery.errors import StoreUnavailableError
from taskora_celery.following import Change

__all__ = ["JobFeed"]


class JobFeed(ViewerFeed):
    """One job's page: its head, its attempts, and the lines of its log."""

    def __init__(self, hub: Hub, on_end: OnEnd, job_id: str, root: str, after: int) -> None:
        super().__init__(hub, on_end)
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

        Else the first line after it would look like the first of another run, and all would be told to everybody again.
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
        """Tell the head and the attempts."""
        for name, data in self._frames.items():
            outbox.latest(name, data)
