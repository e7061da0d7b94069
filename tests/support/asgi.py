"""Requests to an ASGI application in this very process, streams included."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Answer", "asked"]


class Answer(NamedTuple):
    """What an application answered; of a stream what it had told until it was left."""

    status: int
    body: bytes


async def asked(
    app: Any, path: str, query: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None,
    *, patience: float = 5.0,
) -> Answer:  # fmt: skip
    """GET a page; one that is not over after ``patience`` seconds is left, as a browser leaves a stream.

    :raises Exception: whatever the application raises.
    """
    status, pieces = 0, list[bytes]()
    asked_once, left = False, asyncio.Event()

    async def receive() -> dict[str, Any]:
        nonlocal asked_once
        if not asked_once:
            asked_once = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            pieces.append(message.get("body", b""))

    named = {"host": "localhost", **(headers or {})}
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http", "path": path,
        "raw_path": path.encode(), "root_path": "", "query_string": urlencode(query or {}).encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in named.items()],
        "client": ("127.0.0.1", 1), "server": ("localhost", 80), "extensions": {}, "state": {},
    }  # fmt: skip
    answering = asyncio.create_task(app(scope, receive, send))
    await asyncio.wait({answering}, timeout=patience)
    left.set()
    if not answering.done():
        await asyncio.wait({answering}, timeout=5)
    if not answering.done():
        answering.cancel()
        await asyncio.wait({answering})
        raise AssertionError(f"{path} does not end when its viewer has left")
    answering.result()
    return Answer(status, b"".join(pieces))
