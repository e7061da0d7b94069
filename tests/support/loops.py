"""For tests of event loops: a ticker that notices when its loop stands still, and a wait that lets the loop turn."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis
    from typing_extensions import Self


class Ticker:
    """Ticks every ten milliseconds on its loop; `longest` is the longest pause between two ticks, in seconds."""

    def __init__(self, every: float = 0.01) -> None:
        self.every = every
        self.longest = 0.0
        self.ticks = 0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(self.every)
            now = time.monotonic()
            self.longest, last = max(self.longest, now - last), now
            self.ticks += 1


async def turns_until(predicate: Callable[[], bool], description: str, timeout: float = 30.0) -> None:
    """Let the loop turn until the predicate is true.

    :raises AssertionError: with the description, after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not predicate():
        assert time.monotonic() < deadline, f"waited {timeout:g} s for {description}"
        await asyncio.sleep(0.005)


def clients_of(client: redis.Redis, **kind: Any) -> list[Any]:
    """The connections to this client's database: others have theirs on the same server."""
    db = str(client.connection_pool.connection_kwargs["db"])
    found: Any = client.client_list(**kind)
    return [entry for entry in found if entry["db"] == db]
