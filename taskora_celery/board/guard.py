"""What stands before the board: each request passes it, and each response leaves through it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taskora_celery.board.access import HEADERS, SAFE_METHODS, Auth, SecretAuth, comes_from_here, is_led_here
from taskora_celery.metrics.access import is_known_host

__all__ = ["Guard", "who"]

logger = logging.getLogger("taskora_celery.board")

_WHO = "taskora.who"
_ROOT = "taskora.root"

#: Renders the page of an error: status, title, text, root path.
ErrorPage = Callable[[int, str, str, str], str]


def who(request: Request) -> str:
    """Return the name of who asks, as the guard has found it."""
    return str(request.scope[_WHO])


class Guard:
    """An ASGI application around the board's. ``hosts`` None: any name will do, since the surrounding application decides."""

    def __init__(
        self, app: ASGIApp, auth: Auth | SecretAuth, hosts: Collection[str] | None, error_page: ErrorPage, *, read_only: bool
    ) -> None:
        self._app = app
        self._auth = auth
        self._hosts = hosts
        self._error_page = error_page
        self._read_only = read_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False
        # Under a mount of our own the path of the board is not what `root_path` says; and where it knows an application, a router
        # says by an error, for which there is a page, what it has not.
        scope = {"app": self, **scope, _ROOT: str(scope.get("root_path", "")).rstrip("/")}

        async def sent(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message = {**message, "headers": _with_ours(message.get("headers", ()))}
            await send(message)

        request = Request(scope, receive)
        try:
            refusal = await self._refusal(request)
            await (refusal or self._app)(scope, receive, sent)
        except ClientDisconnect:  # who asked has gone, in the middle of a form: nobody is left to be told
            logger.debug("who asked for %s has gone", request.url.path)
        except Exception:
            # The board's outer edge. Where an answer has begun, its server sees that it is not whole, and cuts it.
            logger.exception("the board failed at %s", request.url.path)
            if not begun:
                failed = self._error(request, 500, "Something went wrong", "The board's own log says what. The jobs go on.")
                await failed(scope, receive, sent)

    async def _refusal(self, request: Request) -> Response | None:
        """Return the answer to a request that goes no further; None for one that may pass."""
        if self._hosts is not None and not is_known_host(request.headers.get("host"), self._hosts):
            text = "This board is not known under that name. Where it should be, start it with --allow-host NAME."
            return self._error(request, 421, "Wrong host", text)
        secret = self._auth if isinstance(self._auth, SecretAuth) else None
        if secret is not None and request.method == "GET" and secret.opens(request.query_params.get("token")):
            return _let_in(request, secret)
        found = await self._auth(request)
        if found is None:
            return self._unknown(request, secret)
        request.scope[_WHO] = found
        if request.method in SAFE_METHODS:
            return None
        if not comes_from_here(request.headers):
            return self._error(request, 403, "Not from here", "Only a page of this board may do that.")
        if self._read_only:
            return self._error(request, 403, "Read-only", "This board shows jobs, and does not stop them.")
        return None

    def _unknown(self, request: Request, secret: SecretAuth | None) -> Response:
        if secret is None:
            return self._error(request, 403, "Not for you", "You may not see this board.")
        text = "Open the address that the command printed when it started: its token lets this browser in."
        answer = self._error(request, 401, "Who are you?", text)
        answer.headers["WWW-Authenticate"] = secret.challenge
        if request.method == "GET" and is_led_here(request.headers):
            answer.headers["Refresh"] = "0"  # reading changes nothing, and no frame and no script of theirs sees the answer
        return answer

    def _error(self, request: Request, status: int, title: str, text: str) -> Response:
        return HTMLResponse(self._error_page(status, title, text, root_of(request)), status)


def root_of(request: Request) -> str:
    """Return the path under which the board is mounted, without a slash at its end."""
    return str(request.scope[_ROOT])


def _let_in(request: Request, secret: SecretAuth) -> Response:
    """Return the way to the same address without the token, which stays in no history, and the cookie in its place."""
    kept = urlencode([(name, value) for name, value in parse_qsl(request.url.query) if name != "token"])
    # A path of two slashes at its beginning would lead to another host.
    answer = RedirectResponse("/" + request.url.path.lstrip("/") + (f"?{kept}" if kept else ""), 303)
    answer.headers["Set-Cookie"] = secret.set_cookie(root_of(request), secure=request.url.scheme == "https")
    return answer


def _with_ours(headers: Any) -> list[tuple[bytes, bytes]]:
    ours = {name.lower().encode(): value.encode() for name, value in HEADERS.items()}
    return [*((name, value) for name, value in headers if name.lower() not in ours), *ours.items()]


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
