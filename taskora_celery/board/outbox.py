"""What waits for one viewer: lines in their order, and of everything else the latest. Decisions, which take the time."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Hashable
from typing import Any

import msgspec

__all__ = ["FRAME_SECONDS", "Outbox", "frame"]

#: Of one thing (a job's row, say) a viewer is told so often at most, in seconds.
FRAME_SECONDS = 0.1
#: So many new lines wait for a viewer whose connection is slow; then they are left out, and counted.
LINES_WAITING = 2_000
#: So many other things wait for a viewer, more than any feed tells at once; then its stream ends, and its browser comes back.
THINGS_WAITING = 10_000
#: Of so many things it is remembered when they were told, before those that may be told again are forgotten.
MOMENTS_KEPT = 1_000
#: What is sent in one piece is about so large, in bytes: who is slow is seen to be slow.
PIECE_BYTES = 65_536


def frame(event: str, data: Any, position: int | None = None) -> bytes:
    """Return an event of the stream; with the ``id`` that a browser sends when it comes back, where it has a position."""
    head = b"" if position is None else b"id: %d\n" % position
    return head + b"event: %b\ndata: %b\n\n" % (event.encode(), msgspec.json.encode(data))


class Outbox:
    """One viewer's. Used in one event loop."""

    def __init__(self) -> None:
        #: Lines that the viewer has read in the journal; those that have come since; and how many of these were left out.
        self._past: deque[bytes] = deque()
        self._lines: deque[tuple[int, bytes]] = deque()
        self._missing = 0
        #: What is to be told, by what it is about; and when something was told of it last, in monotonic seconds.
        self._latest: dict[Hashable, bytes] = {}
        self._told: dict[Hashable, float] = {}
        self._changed = asyncio.Event()
        #: Up to here the viewer has read the journal by itself; lines until there are no news.
        self._floor: int | None = None
        self.closed = False

    def line(self, position: int, data: bytes) -> None:
        """Add a line of a log, whose place in the journal this is. None is lost but where too many wait."""
        if self._floor is not None and position <= self._floor:
            return
        if len(self._lines) >= LINES_WAITING:
            self._missing += len(self._lines)
            self._lines.clear()
        self._lines.append((position, data))
        self._changed.set()

    def latest(self, about: Hashable, data: bytes, *, at_once: bool = False) -> None:
        """Tell something that takes the place of what was said about the same before. ``at_once``: it is the last word.

        Where too much waits the outbox is closed: who takes nothing must not be waited for with ever more. Who comes back is told
        everything anew.
        """
        if self.closed:
            return
        if len(self._latest) >= THINGS_WAITING and about not in self._latest:
            self._latest.clear()
            self.close()
            return
        self._latest[about] = data
        if at_once:
            self._told.pop(about, None)
        self._changed.set()

    def caught_up(self, lines: list[tuple[int, bytes]], position: int) -> None:
        """Put lines before those that wait: the viewer has read the journal up to ``position``, where it may be overtaken.

        They are what it asked for, as many as a journal has, and none is left out: it is no slow viewer who was away for long.
        """
        self._past.extend(data for _, data in lines)
        self._lines = deque(line for line in self._lines if line[0] > position)
        self._floor = position
        self._changed.set()

    def started_anew(self) -> None:
        """Let lines in from the first position on: the same id was sent anew."""
        self._floor = None

    def close(self) -> None:
        """End the stream when what waits has been taken."""
        self.closed = True
        self._changed.set()

    def taken(self, now: float) -> bytes:
        """Return what may be told at ``now``, in monotonic seconds; empty where nothing is."""
        pieces = self._taken_lines()
        if not (self._past or self._lines):  # what is told of the job's end comes after all of its lines
            for about in [about for about in self._latest if now - self._told.get(about, -math.inf) >= FRAME_SECONDS]:
                pieces.append(self._latest.pop(about))
                self._told[about] = now
        if len(self._told) > MOMENTS_KEPT:  # a page that is open for weeks sees millions of jobs go by
            self._told = {about: told for about, told in self._told.items() if now - told < FRAME_SECONDS}
        return b"".join(pieces)

    def _taken_lines(self) -> list[bytes]:
        pieces, size = list[bytes](), 0
        while self._past and size < PIECE_BYTES:
            pieces.append(self._past.popleft())
            size += len(pieces[-1])
        if self._missing and not self._past:
            pieces.append(frame("gap", {"count": self._missing}))
            self._missing = 0
        while self._lines and not self._past and size < PIECE_BYTES:
            pieces.append(self._lines.popleft()[1])
            size += len(pieces[-1])
        return pieces

    def pause(self, now: float) -> float | None:
        """Return the seconds until something may be told; None where nothing waits."""
        if self._past or self._lines or self._missing:
            return 0.0
        waits = [self._told.get(about, -math.inf) + FRAME_SECONDS - now for about in self._latest]
        return max(min(waits), 0.0) if waits else None

    async def take(self, timeout: float) -> bytes:
        """Wait until something may be told, and return it; empty after ``timeout`` seconds, and when it is closed."""
        until = time.monotonic() + timeout
        while True:
            now = time.monotonic()
            found = self.taken(now)
            if found or self.closed or now >= until:
                return found
            self._changed.clear()
            pause = self.pause(now)
            left = until - now if pause is None else min(pause, until - now)
            waiting = asyncio.ensure_future(self._changed.wait())
            try:
                await asyncio.wait({waiting}, timeout=left)
            finally:
                waiting.cancel()
