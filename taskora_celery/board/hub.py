"""The one reader of a board's process, and what pages are made of."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from taskora_celery.aio import AsyncJobReader
from taskora_celery.board.backend import BackendDesk
from taskora_celery.board.outbox import frame
from taskora_celery.board.pages import Ask
from taskora_celery.board.rendering import Renderer
from taskora_celery.board.rows import Line, attempt_row, job_row
from taskora_celery.board.search import filter_of, with_states
from taskora_celery.census import Census, StateCounts
from taskora_celery.following import Change
from taskora_celery.listing import JobsReader
from taskora_celery.reading import history_of
from taskora_celery.runtime import Runtime
from taskora_celery.store.aio import AsyncRedisReader
from taskora_celery.store.protocol import JobStore
from taskora_celery.texts import cut_line
from taskora_celery.views import GOING, JobView

__all__ = ["CHIPS", "Hub", "Listing"]

#: The states that are always shown as chips; others only where there is one.
CHIPS = ("running", "retrying", "stalled", "queued", "failed", "cancelled", "done")
#: Counts are so old at most, in seconds.
COUNTS_FRESH = 1.0
#: Of a task's name so many characters stand in the title of its job's page.
TITLE_CHARS = 120
T = TypeVar("T")


class Listing(msgspec.Struct, frozen=True):
    """The jobs that a search finds, and how many there are in each state."""

    views: list[JobView]
    counts: StateCounts
    now_ms: int
    #: There are more than were wanted.
    more: bool


class Hub:
    """What one board reads with. Everything but :meth:`asked`'s function runs in the event loop that uses it."""

    def __init__(self, app: Any, renderer: Renderer, called: str) -> None:
        """Nothing is read yet. ``called`` is what the app is called in ``celery -A``.

        :raises StoreNotConfiguredError: no Redis is known to keep job records in.
        """
        self.app = app
        self.renderer = renderer
        self.called = called
        #: For threads, one at a time.
        self._reader = JobsReader.of(app)
        self.indexed = self._reader.indexed
        #: For the loop: from records that were read already.
        self._seer = JobsReader(self._reader.store, self._reader.keep, self._reader.facts, indexed=self.indexed)
        self._prepared = False
        self._census = Census(self._reader.store, self._reader.facts)
        self._counts: tuple[float, StateCounts] = float("-inf"), StateCounts({})
        self._asking = asyncio.Lock()
        #: What the result backend knows.
        self.desk = BackendDesk(app)

    @staticmethod
    def now_ms() -> int:
        """Return the time, in milliseconds since the epoch."""
        return int(time.time() * 1000)

    # --- reading --------------------------------------------------------------------------------------------------------

    async def asked(self, context: Callable[[Ask], T], filters: Mapping[str, str]) -> T:
        """Return what a function says that may block; one is asked at a time."""

        async def alone() -> T:
            async with self._asking:
                return await asyncio.to_thread(context, Ask(self.app, self._reader, filters, self.now_ms(), self.called))

        # Who asks may be cancelled; the thread goes on, and the next one is to wait for it.
        return await asyncio.shield(asyncio.ensure_future(alone()))

    async def listing(self, search: str, limit: int) -> Listing:
        """Return the jobs that a search finds.

        :raises FilterError: the search cannot be read.
        :raises StoreUnavailableError: Redis does not answer.
        """
        wanted = filter_of(search)

        def look(ask: Ask) -> Listing:
            if time.monotonic() - self._counts[0] > COUNTS_FRESH:
                self._counts = time.monotonic(), self._census.look(ask.now_ms)
            found = ask.reader.views(wanted, limit + 1, ask.now_ms)
            return Listing(found[:limit], self._counts[1], ask.now_ms, len(found) > limit)

        return await self.asked(look, {})

    def reader_of(self, job_id: str) -> AsyncJobReader:
        """Return a reader of one job for the running loop; all of a loop share their connections."""
        return AsyncJobReader.of(self.app, job_id)

    def store_of_loop(self) -> AsyncRedisReader:
        """Return what reads records in the running loop."""
        return Runtime.of(self.app).async_reader()

    @property
    def store(self) -> JobStore:
        """The store, for threads."""
        return self._reader.store

    def seen(self, change: Change) -> JobView:
        """Return a job whose record was read, as it is seen now."""
        assert change.snapshot is not None
        last = change.snapshot.attempts[-1:]
        return self._seer.seen(change.id, msgspec.structs.replace(change.snapshot, attempts=last), self.now_ms())

    async def prepared(self) -> None:
        """Let what the app's tasks say be known: they are imported at the first question, which must not hold up the loop."""
        if not self._prepared:
            await self.asked(lambda ask: ask.reader.facts(""), {})
            self._prepared = True

    # --- what is rendered more than once ----------------------------------------------------------------------------------

    def row_html(self, view: JobView, root: str) -> str:
        """Return a job's row."""
        return self.renderer.render("row.html", root, row=job_row(view, self.now_ms()), now_ms=None)

    def line_frame(self, line: Line, root: str) -> bytes:
        """Return a line of a log as an event of a stream."""
        return frame("line", {"html": self.renderer.render("line.html", root, line=line)}, line.seq)

    def chips(self, listing: Listing, search: str) -> dict[str, Any]:
        """Return the context of the chips: each leads to the list with its state alone, and a chosen one back to all."""
        chosen, counts = filter_of(search).states, listing.counts.counts
        words = (*CHIPS, *sorted(word for word in counts if word not in CHIPS))
        chips = [
            (
                word,
                counts.get(word, 0),
                word in chosen,
                with_states(search, frozenset() if chosen == {word} else frozenset({word})),
            )
            for word in words
        ]
        loud = [f"{counts[word]} {word}" for word in ("running", "stalled") if counts.get(word)]
        title = ", ".join(loud) + " · Jobs" if loud else "Jobs"
        return {
            "title": title,
            "chips": chips,
            "unread": listing.counts.unread,
            "chosen": chosen,
            "everything": with_states(search, frozenset()),
        }

    def job_parts(self, change: Change, root: str) -> Iterator[tuple[str, str, str]]:
        """Yield the parts of a job's page that change: their name, HTML, and the page's title."""
        assert change.snapshot is not None
        context = self.job_context(change)
        for name in ("head", "attempts"):
            yield name, self.renderer.render(f"{name}.html", root, now_ms=None, **context), context["title"]

    def job_context(self, change: Change) -> dict[str, Any]:
        """Return what the parts of a job's page are made of."""
        view = self.seen(change)
        row = job_row(view, self.now_ms())
        records = history_of(change.snapshot)
        attempts = [attempt_row(record, last=record is records[-1], view=view) for record in records]
        share = f"{row.share} " if row.going and row.share else ""
        # A stream tells the title as it is, and a tab obeys control characters as a page does.
        title = f"{share}{row.state} · {cut_line(row.task, TITLE_CHARS)}"
        return {"row": row, "attempts": attempts, "title": title, "can_cancel": row.state in GOING}

    def close(self) -> None:
        """Let go of what is asked in threads."""
        self.desk.close()
