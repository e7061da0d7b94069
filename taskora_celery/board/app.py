"""The board's application: its routes, and what each answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, Router
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from taskora_celery.board import actions, jobpage, listpage, tablepage
from taskora_celery.board.access import SAFE_METHODS, Auth, SecretAuth, open_auth, own_auth
from taskora_celery.board.audience import Audience
from taskora_celery.board.guard import Guard, root_of
from taskora_celery.board.hub import Hub
from taskora_celery.board.pages import FilterError, pages
from taskora_celery.board.rendering import Renderer
from taskora_celery.board.stream import VIEWERS, Join, stream
from taskora_celery.errors import JobNotFoundError, StoreUnavailableError
from taskora_celery.metrics.access import host_names
from taskora_celery.metrics.collect import Collector
from taskora_celery.metrics.text import OPENMETRICS, PROMETHEUS, exposition, wants_openmetrics
from taskora_celery.sse import EVENT_STREAM

__all__ = ["Board", "board_app"]

Handler = Callable[[Request], Awaitable[Response]]
_TITLES = {404: "Nothing here", 405: "Not like that", 400: "That cannot be read", 503: "Too many viewers"}


def board_app(
    app: Any, *, auth: Callable[[Any], Any] | None, allow_hosts: Collection[str] = (), read_only: bool = False
) -> Board:
    """Return an app's board, for another ASGI application to mount.

    As in ``site.mount("/jobs", board_app(celery_app, auth=…))``.

    ``auth`` is called with each request (a :class:`starlette.requests.Request`), and may be a coroutine function. It returns
    the name of who asks, which is written into the log of a job that they stop; True lets in somebody without a name, and what
    is false nobody. None lets in everybody, but then the board is read-only, and answers under this machine's own names and
    ``allow_hosts`` alone. With ``auth`` any host is answered unless ``allow_hosts`` names some.

    :raises StoreNotConfiguredError: no Redis is known to keep job records in.
    :raises TypeError: ``auth`` can not be called, or ``allow_hosts`` is one text.
    :raises ValueError: one of ``allow_hosts`` is no name.
    """
    if auth is not None and not callable(auth):
        raise TypeError(f"auth={auth!r} cannot be called: give a function of the request, or None for a board that only shows")
    hosts = None if auth is not None and not allow_hosts else allow_hosts
    return Board(app, open_auth if auth is None else own_auth(auth), hosts, read_only=read_only or auth is None)


class Board:
    """An ASGI application. Its streams end with :meth:`close`, or when the uvicorn that runs them wants to end.

    ``auth`` returns the name of who asks, None for somebody who may not see it. ``hosts`` are the names under which it answers
    beside this machine's own, None for any. ``called`` is what the app is called in ``celery -A``, for the commands that
    pages show; without it the app's own name. Used in one event loop, that of its server.

    :raises StoreNotConfiguredError: no Redis is known to keep job records in.
    :raises TypeError: ``hosts`` is one text.
    :raises ValueError: one of ``hosts`` is no name.
    """

    def __init__(
        self, app: Any, auth: Auth | SecretAuth, hosts: Collection[str] | None, *, read_only: bool, called: str | None = None
    ) -> None:
        self._pages = pages()
        self._renderer = Renderer(str(app.main or called or "Celery"), self._pages, read_only=read_only)
        self.hub = Hub(app, self._renderer, called or app.main or "your_app")
        self.audience = Audience(self.hub)
        self._collector = Collector(self.hub.store)
        known = None if hosts is None else host_names(hosts)
        self._guard = Guard(self._routed(), auth, known, self._error_page, read_only=read_only)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._guard(scope, receive, send)

    def close(self) -> None:
        """End all streams; call it when the server begins to stop, in its event loop."""
        self.audience.close()
        self.hub.close()

    def _routed(self) -> ASGIApp:
        lists, job = listpage.ListPage(self.hub, self.audience), jobpage.JobPage(self.hub, self.audience)
        acts = actions.Actions(self.hub)
        routes: list[Any] = [
            Route("/", lists.page), Route("/events", self._streaming(lists.join)),
            Route("/job", job.page), Route("/job/events", self._streaming(job.join)), Route("/job/logs", job.download),
            Route("/metrics", self._metrics), Mount("/static", StaticFiles(packages=[("taskora_celery.board", "static")])),
        ]  # fmt: skip
        if not self._renderer.read_only:
            routes += [
                Route("/job/cancel", acts.cancel, methods=["POST"]),
                Route("/cancel", acts.ask, methods=["GET"]), Route("/cancel", acts.cancel_all, methods=["POST"]),
            ]  # fmt: skip
        for page in self._pages.values():
            shown = tablepage.TablePage(self.hub, self.audience, page)
            routes += [Route(f"/{page.name}", shown.page), Route(f"/{page.name}/events", self._streaming(shown.join))]
        handlers: Mapping[Any, Any] = {
            HTTPException: self._refused, StoreUnavailableError: self._away, FilterError: self._unread,
            JobNotFoundError: self._gone,
        }  # fmt: skip
        # Not `Starlette`: what fails unforeseen is the guard's, whose answer has our headers and tells nothing.
        return ExceptionMiddleware(Router(routes), handlers)

    def _streaming(self, joining: Callable[[Request], Awaitable[Join]]) -> Handler:
        async def streamed(request: Request) -> Response:
            if self.audience.viewers >= VIEWERS:
                return PlainTextResponse("too many streams are open; try again later\n", 503, {"Retry-After": "10"})
            join = await joining(request)
            if request.method == "HEAD":  # a stream would go on, and its connection take no other request
                return Response(headers=EVENT_STREAM)
            return stream(self.audience, join)

        return streamed

    async def _metrics(self, request: Request) -> Response:
        openmetrics = wants_openmetrics(request.headers.get("accept", ""))
        samples = await self.hub.asked(lambda _: self._collector.samples(), {})
        kind = OPENMETRICS if openmetrics else PROMETHEUS
        return Response(exposition(samples, openmetrics=openmetrics).encode("utf-8", "replace"), media_type=kind)

    # --- what goes wrong --------------------------------------------------------------------------------------------------

    def _error_page(self, status: int, title: str, text: str, root: str) -> str:
        return self._renderer.render("error.html", root, status=status, title=title, text=text)

    def _error(self, request: Request, status: int, title: str, text: str) -> Response:
        return HTMLResponse(self._error_page(status, title, text, root_of(request)), status)

    async def _refused(self, request: Request, exc: Any) -> Response:
        title = _TITLES.get(exc.status_code, "That does not work")
        answer = self._error(request, exc.status_code, title, _texts(exc))
        for name, value in (exc.headers or {}).items():
            answer.headers[name] = value
        return answer

    async def _away(self, request: Request, exc: Any) -> Response:
        if request.method not in SAFE_METHODS:  # a page that came again by itself would ask for something else
            text = f"So it is not known what of that was done. Look at the jobs before you do it again. {exc}"
            return self._error(request, 503, "Redis cannot be reached", text)
        html = self._renderer.render("away.html", root_of(request), title="Redis is away", text=str(exc))
        return HTMLResponse(html, 503, {"Retry-After": "5", "Refresh": "5"})

    async def _unread(self, request: Request, exc: Any) -> Response:
        return self._error(request, 400, _TITLES[400], str(exc))

    async def _gone(self, request: Request, exc: Any) -> Response:
        text = (
            f"There is no record of {exc.job_id!r}. Its id may be mistyped; it may still wait in its queue, where no worker has "
            "begun it; or its record has expired (taskora_record_ttl, else result_expires)."
        )
        return self._error(request, 404, "No such job", text)


def _texts(exc: Any) -> str:
    return "There is no page with this address." if exc.status_code == 404 else str(exc.detail)  # noqa: PLR2004 - HTTP's
