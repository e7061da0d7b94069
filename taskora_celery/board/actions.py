"""What a board changes: it stops jobs. Each request to stop one stands in that job's own log, with who and why."""

from __future__ import annotations

from collections import Counter
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from taskora_celery.board.guard import root_of, who
from taskora_celery.board.hub import Hub
from taskora_celery.board.listpage import search_of
from taskora_celery.board.rendering import address
from taskora_celery.board.search import filter_of
from taskora_celery.cancelling import acancel_job
from taskora_celery.handle import JobHandle
from taskora_celery.views import GOING, JobFilter, JobView

__all__ = ["BULK_MOST", "Actions"]

#: So many jobs are cancelled in one go.
BULK_MOST = 1_000
#: A form has so many bytes at most: that many ids, of any reasonable length, and a reason.
FORM_BYTES = 1_048_576


class Actions:
    """Answers for what changes something."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def cancel(self, request: Request) -> Response:
        """Cancel one job, and lead back to its page."""
        form = await _form(request)
        job_id = request.query_params.get("id", "")
        receipt = await self._cancelled(job_id, form.get("reason"), who(request))
        return RedirectResponse(address(root_of(request), "job", id=job_id, cancel=receipt), 303)

    async def ask(self, request: Request) -> Response:
        """Return the page that says which jobs would be cancelled, and asks for their number."""
        search = search_of(request)
        views = await self._going(filter_of(search))
        tasks = Counter(view.status.name for view in views).most_common()
        return self._page(
            request, "cancel.html", title="Cancel jobs", search=search, tasks=tasks, count=len(views), most=BULK_MOST,
            ids=[view.id for view in views], problem=None, reason="",
        )  # fmt: skip

    async def _going(self, wanted: JobFilter) -> list[JobView]:
        states = wanted.states & GOING if wanted.states else GOING
        wanted = msgspec.structs.replace(wanted, states=states)
        if not states:  # what has ended cannot be cancelled
            return []
        return await self._hub.asked(lambda ask: ask.reader.views(wanted, BULK_MOST, ask.now_ms), {})

    async def cancel_all(self, request: Request) -> Response:
        """Cancel the jobs that the form names, if it says how many they are; return what came of it."""
        form = await _form(request)
        ids = _ids(form.get("ids", ""))
        if form.get("count", "").strip() != str(len(ids)):
            again = "The number does not fit, so nothing was cancelled. Look again, and type how many there are."
            return self._page(
                request, "cancel.html", 400, title="Cancel jobs", search=form.get("q", ""), tasks=[], count=len(ids),
                most=BULK_MOST, ids=ids, problem=again, reason=form.get("reason", ""),
            )  # fmt: skip
        outcomes = Counter[str]()
        for job_id in ids:
            outcomes[await self._cancelled(job_id, form.get("reason"), who(request))] += 1
        return self._page(request, "cancelled.html", title="Cancelled jobs", outcomes=outcomes, search=form.get("q", ""))

    async def _cancelled(self, job_id: str, reason: str | None, by: str) -> str:
        handle: JobHandle[Any] = JobHandle(job_id, app=self._hub.app)
        receipt = await acancel_job(handle, (reason or "").strip() or None, by=by)
        return receipt.outcome

    def _page(self, request: Request, template: str, status: int = 200, **context: Any) -> Response:
        html = self._hub.renderer.render(template, root_of(request), here=None, now_ms=self._hub.now_ms(), stream=None, **context)
        return HTMLResponse(html, status)


async def _form(request: Request) -> dict[str, str]:
    """Return a form's fields.

    :raises HTTPException: it is too large, or none.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise HTTPException(415, "This takes the form of its page.")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_BYTES:
            raise HTTPException(413, "The form is too large: cancel fewer jobs at once, by a search that finds fewer.")
    try:
        return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=10))
    except ValueError as exc:
        raise HTTPException(400, "The form cannot be read.") from exc


def _ids(text: str) -> list[str]:
    try:
        ids: list[str] = msgspec.json.decode(text, type=list[str])
    except (msgspec.DecodeError, msgspec.ValidationError) as exc:
        raise HTTPException(400, "The form does not say which jobs.") from exc
    return list(dict.fromkeys(ids))[:BULK_MOST]
