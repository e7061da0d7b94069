"""Changes that Redis announces, for all who wait for them in one event loop: one connection, however many they are."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from contextvars import Context as Variables
from typing import Any

from redis.exceptions import RedisClusterException, RedisError

from taskora_celery.errors import StoreUnavailableError
from taskora_celery.store.connect import Endpoint, async_client, close, pubsub_of

__all__ = ["AsyncWatch", "Channels", "own_task"]

logger = logging.getLogger("taskora_celery.store")

_OUTAGES = (RedisError, RedisClusterException, OSError)


def own_task(coro: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """Start a task of the loop's connections: in no variables of whoever needs them first, whose job would end it with itself."""
    return Variables().run(lambda: asyncio.create_task(coro, name=name))


class AsyncWatch:
    """What one waiter hears of one channel."""

    __slots__ = ("_changed", "_failure", "_waiter")

    def __init__(self) -> None:
        self._changed = False
        self._failure: str | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self, timeout: float) -> bool:
        """Wait until something was announced since the last call, or for ``timeout`` seconds; say which.

        :raises StoreUnavailableError: the connection was lost; announcements may have been missed.
        """
        if not self._changed and self._failure is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._waiter}, timeout=timeout)
            self._waiter = None
        if self._failure is not None:
            raise StoreUnavailableError(self._failure)
        changed, self._changed = self._changed, False
        return changed

    def tell(self, failure: str | None = None) -> None:
        """Note an announcement, or a failure; wake who waits."""
        self._changed, self._failure = True, failure
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Channels:
    """All watches of one event loop on one Redis; they share a connection, which is closed with the last.

    When the connection is lost, all watches fail; who still wants to hear enters anew, and reads what it missed: a channel is
    heard from the moment that :meth:`watch` is entered. Entering and leaving only note what is wanted. One task subscribes
    and unsubscribes, many channels in one command, so that no waiter that is cancelled can leave the connection in the middle
    of a command; leaving never waits.
    """

    def __init__(self, endpoint: Endpoint, timeout: float) -> None:
        """``timeout`` bounds the wait for a subscription, in seconds."""
        self._endpoint = endpoint
        self._timeout = timeout
        self.watches: dict[bytes, set[AsyncWatch]] = {}
        self._session: _Session | None = None
        #: All that may have a connection, those that are about to close it included.
        self.sessions: set[_Session] = set()

    @asynccontextmanager
    async def watch(self, channel: str | bytes) -> AsyncIterator[AsyncWatch]:
        """Watch a channel, from the moment that the context is entered.

        :raises StoreUnavailableError: Redis does not confirm the subscription in time.
        """
        name, watch = channel.encode() if isinstance(channel, str) else channel, AsyncWatch()
        self.watches.setdefault(name, set()).add(watch)
        try:
            session = self._session
            if session is None:
                session = self._session = _Session(self, async_client(self._endpoint, None))
            if name not in session.heard:
                session.wanted.set()
                await self._confirmed(watch, session)
            yield watch
        finally:
            self.watches[name].discard(watch)
            if not self.watches[name]:
                del self.watches[name]
                if self._session is not None:
                    self._session.wanted.set()

    async def _confirmed(self, watch: AsyncWatch, session: _Session) -> None:
        if not await watch.wait(self._timeout):
            self.fail(session, "a subscription is not confirmed")
            await watch.wait(0)

    def fail(self, session: _Session, reason: str) -> None:
        """Give a session up, and tell all watches; the next one gets another session."""
        if self._session is session:
            self._session = None
            if session.task is not asyncio.current_task():
                session.task.cancel()
            for watches in self.watches.values():
                for watch in watches:
                    watch.tell(f"{self._endpoint.shown()}: {reason}")

    def retire(self, session: _Session) -> None:
        """Note that a session ends, since nobody watches."""
        if self._session is session:
            self._session = None

    async def close(self) -> None:
        """Give up the connection; all watches fail."""
        if self._session is not None:
            self.fail(self._session, "closed")
        for session in list(self.sessions):
            await asyncio.wait({session.task})
            await session.close()  # it may have been cancelled while it did so itself


class _Session:
    """One connection, from its first subscription to its loss, or to the last watch's end."""

    def __init__(self, channels: Channels, client: Any) -> None:
        self._channels = channels
        self._client = client
        #: Something is to be subscribed or unsubscribed.
        self.wanted = asyncio.Event()
        #: Channels whose subscription is confirmed, and not taken back.
        self.heard: set[bytes] = set()
        self._pubsub: Any = None
        channels.sessions.add(self)
        self.task = own_task(self._run(), "taskora-channels")

    async def _run(self) -> None:
        listening = None
        try:
            pubsub, asked = await pubsub_of(self._client), set[bytes]()
            self._pubsub = pubsub
            while True:
                await self.wanted.wait()
                self.wanted.clear()
                wanted = set(self._channels.watches)
                if not wanted:
                    self._channels.retire(self)
                    return
                self.heard &= wanted
                if wanted - asked:
                    await pubsub.subscribe(*wanted - asked)
                if asked - wanted:
                    await pubsub.unsubscribe(*asked - wanted)
                asked = wanted
                if listening is None:
                    listening = asyncio.create_task(self._listen(pubsub), name="taskora-listen")
        except Exception as exc:  # noqa: BLE001 - the task's outer edge: whatever ends it, nobody may wait in vain
            self._fail(exc)
        finally:
            if listening is not None:
                listening.cancel()
                await asyncio.wait({listening})
            await self.close()

    async def _listen(self, pubsub: Any) -> None:
        try:
            while True:
                message = await pubsub.get_message(timeout=None)
                if message is None or message["type"] == "unsubscribe":
                    continue
                watches = self._channels.watches.get(message["channel"])
                if not watches:
                    continue
                if message["type"] == "subscribe":
                    # From here on nothing is missed; what was, where the channel had been taken back meanwhile, is to be read.
                    self.heard.add(message["channel"])
                for watch in watches:
                    watch.tell()
        except Exception as exc:  # noqa: BLE001 - as above
            self._fail(exc)

    def _fail(self, exc: Exception) -> None:
        if not isinstance(exc, _OUTAGES):
            logger.warning("a subscription to Redis ended unexpectedly", exc_info=exc)
        self._channels.fail(self, str(exc) or type(exc).__name__)

    async def close(self) -> None:
        """Close the connection; may be called again."""
        for resource in (self._pubsub, self._client):
            with contextlib.suppress(*_OUTAGES):
                if resource is not None:
                    await close(resource)
        self._channels.sessions.discard(self)
