"""The pages of the table, each answered for alike."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from taskora_celery.board.audience import Audience
from taskora_celery.board.guard import root_of
from taskora_celery.board.hub import Hub
from taskora_celery.board.pages import Page, titled
from taskora_celery.board.stream import Join

__all__ = ["TablePage"]


class TablePage:
    """Answers for one page of the table."""

    def __init__(self, hub: Hub, audience: Audience, page: Page) -> None:
        self._hub = hub
        self._audience = audience
        self._page = page

    async def page(self, request: Request) -> Response:
        """Return the page."""
        page, root = self._page, root_of(request)
        if page.ready is not None:
            await asyncio.to_thread(page.ready, self._hub.app)
        context = await self._hub.asked(page.context, dict(request.query_params))
        events = f"{root}/{page.name}/events" + (f"?{request.url.query}" if request.url.query else "")
        html = self._hub.renderer.render(
            page.template, root, here=page.name, title=page.title, fragment=page.fragment, stream=events,
            **{"now_ms": self._hub.now_ms(), "full_title": titled(page, context), **context},
        )  # fmt: skip
        return HTMLResponse(html)

    async def join(self, request: Request) -> Join:
        """Return what lets a viewer hear of the page's live part."""
        filters, root = dict(request.query_params), root_of(request)
        return lambda outbox: self._audience.page_feed(self._page, filters, root).viewed(outbox)
