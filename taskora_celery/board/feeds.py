"""What viewers look at, each read once for all of them. Here: what a feed is, and the feed of a page.

A feed's task runs while somebody listens. All of this happens in one event loop; only what may block runs in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from taskora_celery.backoff import outage_pause
from taskora_celery.board.hub import Hub
from taskora_celery.board.outbox import Outbox, frame
from taskora_celery.board.pages import FilterError, Page, titled
from taskora_celery.errors import StoreUnavailableError

__all__ = ["Feed", "OnEnd", "PageFeed", "PolledFeed", "ViewerFeed"]

logger = logging.getLogger("taskora_celery.board")

#: A feed that is asked again and again rests so many times as long as a look has taken, at least.
IDLE_SHARE = 3
#: Seconds after the failure of a feed.
FAILED_SECONDS = 5.0

#: Hears of a feed to which nobody listens any more.
OnEnd = Callable[["Feed"], None]


class Feed(ABC):
    """One thing that is looked at, by a task that is started for the first who wants to hear, and ended with the last."""

    def __init__(self, hub: Hub, on_end: OnEnd) -> None:
        self.hub = hub
        self._on_end = on_end
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look, if that has not begun."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"taskora-board-{type(self).__name__}")

    def stop(self) -> None:
        """End the task."""
        self._on_end(self)
        if self._task is not None:
            self._task.cancel()
            self._task = None

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


class ViewerFeed(Feed):
    """A feed that viewers hear of: what a stream tells."""

    def __init__(self, hub: Hub, on_end: OnEnd) -> None:
        super().__init__(hub, on_end)
        self.viewers: set[Outbox] = set()
        #: What is said of the outage that there is.
        self._away: str | None = None

    @asynccontextmanager
    async def viewed(self, outbox: Outbox) -> AsyncGenerator[None, None]:
        """Let a viewer hear, from now on until the block ends."""
        self.viewers.add(outbox)
        try:
            if self._away is not None:
                outbox.latest("outage", frame("outage", {"text": self._away}), at_once=True)
            self.greet(outbox)
            self.start()
            yield
        finally:
            self.viewers.discard(outbox)
            if not self.viewers:
                self.stop()

    def greet(self, outbox: Outbox) -> None:
        """Tell a new viewer what is known already: the page may be older."""

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


def pause_after(took: float, every: float) -> float:
    """Return the seconds to the next look after one that took so long.

    A search that has to read thousands of records is not to be all that a board does.
    """
    return max(every - took, IDLE_SHARE * took)


class PolledFeed(ViewerFeed):
    """One that is asked again and again, ``every`` so many seconds, and less often where a look takes long."""

    every: float

    async def run(self) -> None:
        """Look until nobody listens, or the filters turn out to mean nothing; an outage of the store is waited for."""
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
            await asyncio.sleep(pause_after(time.monotonic() - began, self.every))

    @abstractmethod
    async def look(self) -> None:
        """Ask once, and tell what is new.

        :raises StoreUnavailableError: the store does not answer.
        :raises FilterError: what is asked for means nothing.
        """


class PageFeed(PolledFeed):
    """The live part of a page of the table, under one mount path and with one set of filters."""

    def __init__(self, hub: Hub, on_end: OnEnd, page: Page, filters: dict[str, str], root: str) -> None:
        super().__init__(hub, on_end)
        self.every = page.every
        self._page = page
        self._filters = filters
        self._root = root
        self._html = ""
        self._frame = b""

    async def look(self) -> None:
        """Render the live part; tell it where it is another one."""
        context = await self.hub.asked(self._page.context, self._filters)
        html = self.hub.renderer.render(self._page.fragment, self._root, **context)
        if html != self._html:
            self._html = html
            self._frame = frame("fragment", {"html": html, "title": titled(self._page, context)})
            self.tell("fragment", self._frame)

    def greet(self, outbox: Outbox) -> None:
        """Tell the live part."""
        if self._frame:
            outbox.latest("fragment", self._frame)
