"""The list of jobs."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from taskora_celery.board.audience import Audience
from taskora_celery.board.guard import root_of
from taskora_celery.board.hub import Hub
from taskora_celery.board.pages import FilterError
from taskora_celery.board.rendering import address
from taskora_celery.board.rows import job_row
from taskora_celery.board.search import filter_of, whole_number
from taskora_celery.board.stream import Join
from taskora_celery.queues import worker_command

__all__ = ["ListPage", "limit_of", "search_of"]

LIMIT, MOST = 100, 500


def search_of(request: Request) -> str:
    """Return what a request searches for."""
    return str(request.query_params.get("q", "")).strip()


def limit_of(request: Request) -> int:
    """Return how many jobs a request wants, at most."""
    found = whole_number(request.query_params.get("limit", ""))
    return LIMIT if found is None else min(max(found, 1), MOST)


class ListPage:
    """Answers for the list."""

    def __init__(self, hub: Hub, audience: Audience) -> None:
        self._hub = hub
        self._audience = audience

    async def page(self, request: Request) -> Response:
        """Return the page."""
        search, limit, root, problem = search_of(request), limit_of(request), root_of(request), None
        try:
            listing = await self._hub.listing(search, limit)
        except FilterError as exc:
            problem = str(exc)
            listing = await self._hub.listing("", limit)
        shown = "" if problem else search
        context: dict[str, Any] = {
            "here": "", "search": search, "problem": problem, "limit": limit,
            "now_ms": listing.now_ms, "rows": [job_row(view, listing.now_ms) for view in listing.views] if not problem else [],
            "more": min(limit * 2, MOST) if listing.more and limit < MOST and not problem else None,
            "indexed": self._hub.indexed, "stream": None if problem else address(root, "events", q=shown, limit=limit),
            "command": worker_command(self._hub.called), **self._hub.chips(listing, shown),
        }  # fmt: skip
        return HTMLResponse(self._hub.renderer.render("jobs.html", root, **context), 400 if problem else 200)

    async def join(self, request: Request) -> Join:
        """Return what lets a viewer hear of the list.

        :raises FilterError: the search cannot be read.
        """
        search, limit, root = search_of(request), limit_of(request), root_of(request)
        filter_of(search)
        return lambda outbox: self._audience.list_feed(search, limit, root).viewed(outbox)
