"""Who may see the board, and who may act: decisions about one request, without I/O."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

from taskora_celery.metrics.access import Access

__all__ = [
    "HEADERS", "SAFE_METHODS", "Asked", "Auth", "SecretAuth", "comes_from_here", "is_led_here", "new_secret", "open_auth",
    "own_auth",
]  # fmt: skip

#: Methods that change nothing.
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
#: On every response, errors and files included: only our own files may run, be shown or be asked, and only in a page of our own.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_COOKIE = "taskora_board_"


def new_secret() -> str:
    """Return a secret that nobody guesses."""
    return secrets.token_urlsafe(32)


def comes_from_here(headers: Mapping[str, str]) -> bool:
    """Say whether a request that changes something was made by a page of this very origin.

    Browsers say so in ``Sec-Fetch-Site``; where that is missing, the ``Origin`` is to be the ``Host`` that is asked.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin, host = headers.get("origin", ""), headers.get("host", "")
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(host) and parts.netloc.lower() == host.lower()


def is_led_here(headers: Mapping[str, str]) -> bool:
    """Say whether a link on another site has led a person here, by a browser that keeps back its ``SameSite=Strict`` cookie then.

    It sends the cookie when the page that it was given asks again; that one comes from here, and so there is no third.
    """
    site, mode, dest = (headers.get(f"sec-fetch-{name}") for name in ("site", "mode", "dest"))
    return site in {"cross-site", "same-site"} and (mode, dest) == ("navigate", "document")


class Asked(Protocol):
    """A request, as an ``auth=`` function sees it: a :class:`starlette.requests.Request`."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, by name; any case will do."""

    @property
    def query_params(self) -> Mapping[str, str]:
        """The query."""


#: Returns the name of who asks, for the logs of the jobs that they stop; None for somebody who may not see the board.
Auth = Callable[[Any], Awaitable[str | None]]


def own_auth(decide: Callable[[Any], Any]) -> Auth:
    """Return an ``auth=`` function, of either kind, as one; what it returns is a name, or says by its truth whether to let in."""

    async def who(request: Any) -> str | None:
        found = decide(request)
        if hasattr(found, "__await__"):
            found = await found
        return (found if isinstance(found, str) else "somebody") if found else None

    return who


async def open_auth(_: Any) -> str | None:
    """Let everybody see: for a board that nobody can act on."""
    return "somebody"


class SecretAuth:
    """The rules of a board of its own: a secret, and the cookie of who has shown it.

    ``secret`` is ``user:password`` (HTTP Basic), or a token: it is taken from the address once, as ``?token=…``, or from an
    ``Authorization: Bearer`` header. The cookie's value follows from the secret, and does not tell it.
    """

    def __init__(self, secret: str) -> None:
        self._user, _, password = secret.partition(":")
        self._token = None if password else secret
        self._header = Access(secret)
        key = hashlib.sha256(secret.encode("utf-8", "replace")).digest()
        self._value = hmac.new(key, b"taskora board cookie", "sha256").hexdigest()
        # Cookies know no ports: two boards of one machine must not overwrite each other's.
        self.cookie = _COOKIE + hmac.new(key, b"taskora board name", "sha256").hexdigest()[:8]

    @property
    def challenge(self) -> str:
        """What ``WWW-Authenticate`` says."""
        return self._header.scheme

    async def __call__(self, request: Asked) -> str | None:
        """Return who asks; of a token nobody knows whose it is."""
        return self.who(request.headers)

    def who(self, headers: Mapping[str, str]) -> str | None:
        """Return the name of who sends these headers, None where they may not see the board."""
        sent = headers.get("authorization")
        if sent is not None and self._header.admits(sent):
            return _basic_user(sent) or "the board"
        if self._token is not None and _same(_cookie_in(headers.get("cookie", ""), self.cookie), self._value):
            return "the board"
        return None

    def opens(self, token: str | None) -> bool:
        """Say whether this is the token of the address that was printed."""
        return self._token is not None and token is not None and _same(token, self._token)

    def set_cookie(self, path: str, *, secure: bool) -> str:
        """Return the ``Set-Cookie`` header that lets in who has shown the token."""
        return f"{self.cookie}={self._value}; Path={path or '/'}; HttpOnly; SameSite=Strict" + ("; Secure" if secure else "")


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))


def _cookie_in(header: str, name: str) -> str:
    """Return a cookie's value; not by ``http.cookies``, which gives up at the first odd cookie of somebody else's."""
    parts = (part.strip().partition("=") for part in header.split(";"))
    return next((value for key, _, value in parts if key == name), "")


def _basic_user(authorization: str) -> str | None:
    kind, _, packed = authorization.partition(" ")
    if kind != "Basic":
        return None
    try:
        return base64.b64decode(packed).decode("utf-8", "replace").partition(":")[0] or None
    except (binascii.Error, ValueError):
        return None
