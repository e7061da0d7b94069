"""The page of one job."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse

from taskora_celery.board.audience import Audience
from taskora_celery.board.guard import root_of
from taskora_celery.board.hub import Hub
from taskora_celery.board.logfilter import LogFilter, log_filter
from taskora_celery.board.outbox import Outbox
from taskora_celery.board.rendering import address
from taskora_celery.board.rows import Line, entry_line, lines_of
from taskora_celery.board.stream import Join
from taskora_celery.documents import encoded, log_document
from taskora_celery.errors import JobNotFoundError, StoreUnavailableError
from taskora_celery.following import Change
from taskora_celery.reading import history_of
from taskora_celery.records import LEVELS
from taskora_celery.store.journal import decode, decode_logs
from taskora_celery.store.protocol import Snapshot
from taskora_celery.texts import one_line

__all__ = ["JobPage"]

#: So many lines of the log are shown at first, the newest.
LINES = 500
#: So many batches of a log are made into text at once, while it is sent.
BATCHES = 20
_RECEIPTS = {
    "cancelled": "The job is cancelled; it will not run.", "requested": "The job was asked to stop.",
    "too_late": "Too late: the job had ended.", "unknown": "There is no record of the job any more; nothing was changed.",
}  # fmt: skip


class JobPage:
    """Answers for one job; its id is in the query, since it may hold any character."""

    def __init__(self, hub: Hub, audience: Audience) -> None:
        self._hub = hub
        self._audience = audience

    async def page(self, request: Request) -> Response:
        """Return the page."""
        job_id, root, wanted = request.query_params.get("id", ""), root_of(request), log_filter(request.query_params)
        found = await self._read(job_id, 0)
        facts = await self._hub.desk.facts(job_id)
        await self._hub.prepared()
        context = self._hub.job_context(Change(job_id, found, []))
        lines = await asyncio.to_thread(_lines, found, wanted)  # ten thousand take a moment that others would feel
        position = found.fields.get("q", 0) - 1
        status = context["row"].view.status
        context.update(
            here=None, now_ms=self._hub.now_ms(), facts=facts, wanted=wanted, levels=tuple(LEVELS),
            lines=lines[-LINES:], earlier=max(len(lines) - LINES, 0), dropped=status.dropped_logs,
            receipt=_RECEIPTS.get(request.query_params.get("cancel", "")),
            stream=None if context["row"].view.over else address(root, "job/events", id=job_id, after=position),
            command=f"celery -A {shlex.quote(self._hub.called)} jobs", shell_id=shlex.quote(one_line(job_id)),
            numbers=sorted({record.number for record in history_of(found)}),
        )  # fmt: skip
        return HTMLResponse(self._hub.renderer.render("job.html", root, **context))

    async def _read(self, job_id: str, skip: int | None) -> Snapshot:
        try:
            found = await self._hub.store_of_loop().read(job_id, skip, attempts=True)
        except UnicodeError as exc:
            raise JobNotFoundError(job_id) from exc
        if found is None:
            raise JobNotFoundError(job_id)
        return found

    async def join(self, request: Request) -> Join:
        """Return what lets a viewer hear of the job, from the position on that its browser names."""
        job_id, root = request.query_params.get("id", ""), root_of(request)
        after = _position(request.headers.get("last-event-id") or request.query_params.get("after"))

        @asynccontextmanager
        async def join(outbox: Outbox) -> AsyncGenerator[None, None]:
            async with self._audience.job_feed(job_id, root, after).viewed(outbox):
                await self._catch_up(outbox, job_id, root, after)
                yield

        return join

    async def _catch_up(self, outbox: Outbox, job_id: str, root: str, after: int) -> None:
        """Tell a viewer what it has missed: each has a position of its own, and the feed is for all."""
        try:
            found = await self._read(job_id, 0)
        except (StoreUnavailableError, JobNotFoundError):  # the feed goes on asking, from where it was made
            return
        end = found.fields.get("q", 0) - 1
        # Behind the end there is nothing: the position is of an earlier job of this id, and this one's journal is all news.
        lines = lines_of(decode(found.journal, after if after <= end else -1))
        outbox.caught_up([(line.seq, self._hub.line_frame(line, root)) for line in lines], end)

    async def download(self, request: Request) -> Response:
        """Return the log as NDJSON, line by line."""
        job_id, wanted = request.query_params.get("id", ""), log_filter(request.query_params)
        found = await self._read(job_id, 0)
        name = re.sub(r"[^A-Za-z0-9._-]", "_", job_id)[:100] or "job"
        headers = {"Content-Disposition": f'attachment; filename="{name}.ndjson"'}
        return StreamingResponse(_documents(job_id, found, wanted), media_type="application/x-ndjson", headers=headers)


def _lines(snapshot: Snapshot, wanted: LogFilter) -> list[Line]:
    return [line for line in lines_of(decode(snapshot.journal)) if wanted.takes(line)]


async def _documents(job_id: str, snapshot: Snapshot, wanted: LogFilter) -> AsyncGenerator[str, None]:
    for at in range(0, len(snapshot.journal), BATCHES):
        entries = decode_logs(snapshot.journal[at : at + BATCHES])
        yield "".join(f"{encoded(log_document(job_id, entry))}\n" for entry in entries if wanted.takes(entry_line(entry)))
        await asyncio.sleep(0)


def _position(text: str | None) -> int:
    """Return the place in the journal that a browser names; it comes from outside, and what cannot be read is the beginning."""
    text = (text or "").strip()
    return int(text) if re.fullmatch(r"-?\d{1,15}", text, re.ASCII) else -1
