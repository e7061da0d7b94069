"""Server-Sent Events: what a job says, as a browser's ``EventSource`` reads it, from any ASGI framework."""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from typing import Any

from celery.result import AsyncResult

from taskora_celery.aio import AsyncJobReader
from taskora_celery.awaiting import is_over, state_of
from taskora_celery.clock import seconds
from taskora_celery.encoding import as_json
from taskora_celery.handle import JobHandle
from taskora_celery.reading import checked_timeout
from taskora_celery.records import Event, Outcome

__all__ = ["EVENT_STREAM", "server_sent_events"]

#: Headers of the response: its type, and that neither a cache nor nginx holds it back.
EVENT_STREAM = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

#: A comment: it keeps proxies from closing a connection on which nothing is said.
_HEARTBEAT = b":\n\n"
#: They break no line of this format; but many a client takes its lines from Unicode's idea of them.
_BREAKS_ELSEWHERE = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))
_POSITION = re.compile(r"(-?\d{1,18})(?:_(\d{1,9})\.(\d{1,9})_(\d{1,10}))?")


def server_sent_events(
    handle: JobHandle,
    after: str | int | None = None,
    *,
    heartbeat: float | timedelta = 15.0,
    timeout: float | timedelta | None = 300.0,
) -> AsyncGenerator[bytes, None]:
    """Return the job's events as frames for a streaming response, until the job ends; the last is called ``outcome``.

    Each frame has an ``id``, the event's kind as its ``event`` (``log``, ``progress``, ``state``, ``cancel``, ``gap``, see
    :class:`~taskora_celery.Event`) and its data as one line of JSON. ``after`` is the ``Last-Event-ID`` header of a client that
    comes back, or an event's ``seq``: it goes on after that, with no entry missing or doubled, and what it cannot read counts
    as none. ``outcome`` holds the state in which the job ended; a client closes its ``EventSource`` there, which would come back
    otherwise, and be told the outcome again.

    A comment is sent when nothing was for ``heartbeat`` seconds, a few seconds later at most, and at once where there is nothing
    to tell yet. After ``timeout`` seconds without a word of the job (one that nobody knows has none) the stream ends without an
    outcome, and the client comes back; None: never. Waiting takes no thread, and no connection of its own.

    :raises StoreNotConfiguredError: no Redis is known to keep job records in.
    :raises RuntimeError: no event loop runs in this thread.
    :raises TypeError: ``handle`` is no handle, or ``heartbeat`` or ``timeout`` no duration.
    :raises ValueError: one of them is negative or not finite.
    """
    if not isinstance(handle, AsyncResult):
        raise TypeError(f"{handle!r} is no handle: give JobHandle(id, app=app)")
    silence, patience = seconds(heartbeat, "heartbeat"), checked_timeout(timeout)
    position = _Position.read(after)
    reader = AsyncJobReader.of(handle.app, str(handle.id))
    looks = reader.looks(after=position.seq, timeout=patience, ready=lambda: is_over(handle))
    return _frames(handle, looks, position, silence)


async def _frames(
    handle: JobHandle, looks: AsyncGenerator[list[Event], None], position: _Position, heartbeat: float
) -> AsyncGenerator[bytes, None]:
    told, over = float("-inf"), False
    try:
        async with aclosing(looks):
            async for events in looks:
                frames = b""
                for event in events:
                    over = over or _is_outcome(event)
                    frames += position.told(event)
                if not frames and time.monotonic() - told >= heartbeat:
                    frames = _HEARTBEAT
                if frames:
                    yield frames
                    told = time.monotonic()
    except TimeoutError:
        return
    if not over:  # only the result backend knows how the job ended
        yield _frame(str(position), "outcome", _json({"state": await state_of(handle)}))


class _Position:
    """What a client has been told: up to which entry, of which delivery, and the last progress, by a checksum."""

    def __init__(self, seq: int | None = None, run: tuple[int, int] | None = None, progress: int | None = None) -> None:
        self.seq = seq
        self._run = run
        self._progress = progress

    @classmethod
    def read(cls, text: str | int | None) -> _Position:
        """Return the position that an id stands for; it comes from outside, and may be anything."""
        found = _POSITION.fullmatch(str(text).strip())
        if found is None:
            return cls()
        seq, attempt, delivery, progress = found.groups()
        return cls(int(seq)) if attempt is None else cls(int(seq), (int(attempt), int(delivery)), int(progress))

    def __str__(self) -> str:
        attempt, delivery = self._run or (0, 0)
        return f"{-1 if self.seq is None else self.seq}_{attempt}.{delivery}_{self._progress or 0}"

    def told(self, event: Event) -> bytes:
        """Return the event's frame, and go on after it; nothing where the client was told before it left."""
        data = _json(event.data)
        if event.kind == "progress":
            checksum = zlib.crc32(data)
            if checksum == self._progress:
                return b""
            self._progress = checksum
        elif event.kind == "state" and event.data["state"] == "STARTED":
            run = event.data["attempt"], event.data["delivery"]
            if run == self._run:
                return b""
            self._run = run
        self.seq = event.seq
        return _frame(str(self), "outcome" if _is_outcome(event) else event.kind, data)


def _is_outcome(event: Event) -> bool:
    return event.kind == "state" and event.data["state"] in Outcome.FINAL


def _json(data: Any) -> bytes:
    line = as_json(data)  # a line break within a text is escaped
    for character, escaped in _BREAKS_ELSEWHERE:
        line = line.replace(character, escaped)
    return line


def _frame(position: str, name: str, data: bytes) -> bytes:
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (position.encode(), name.encode(), data)
