"""The stream of a page: Server-Sent Events from a viewer's outbox, until the viewer or the server goes."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager

from starlette.responses import StreamingResponse

from taskora_celery.board.audience import Audience
from taskora_celery.board.outbox import Outbox
from taskora_celery.sse import EVENT_STREAM

__all__ = ["VIEWERS", "Join", "server_ends", "stream"]

#: So many streams at once; who comes then is told to come back.
VIEWERS = 500
#: Nothing is said for so many seconds at most: proxies close what is silent, and a viewer that has gone is noticed.
HEARTBEAT = 15.0
#: A stream looks so often, in seconds, whether its server wants to end.
LOOK = 0.5
#: Seconds between two pieces: what comes meanwhile goes together.
PIECES = 0.02
_RETRY = b"retry: 1000\n\n"

#: Lets an outbox hear of a feed, from the beginning of the block to its end, however that comes about.
Join = Callable[[Outbox], AbstractAsyncContextManager[None]]


def server_ends() -> bool:
    """Say whether the server that runs us wants to end, as far as it can be known.

    uvicorn waits for its connections before it tells an application that it ends, so a stream has to look. Its signal handler is
    a method of the server, which says so; where another one is in charge, the server's own patience ends the streams.
    """
    owner = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return getattr(owner, "should_exit", False) is True


def stream(audience: Audience, join: Join) -> StreamingResponse:
    """Return the response that tells one viewer what a feed says; nothing is joined before the response begins."""
    return StreamingResponse(_pieces(audience, join), headers=EVENT_STREAM)


async def _pieces(audience: Audience, join: Join) -> AsyncGenerator[bytes, None]:
    outbox = Outbox()
    audience.enter(outbox)
    try:
        yield _RETRY
        async with join(outbox):
            told = time.monotonic()
            while not (outbox.closed or server_ends()):
                piece = await outbox.take(LOOK)
                if not piece and time.monotonic() - told >= HEARTBEAT:
                    piece = b":\n\n"
                if piece:
                    yield piece
                    told = time.monotonic()
                    await asyncio.sleep(PIECES)
    finally:
        audience.leave(outbox)
