"""One Redis, as one event loop talks to it: a connection for all commands, and one for all announcements."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError

from taskora_celery.errors import StoreUnavailableError
from taskora_celery.store.channels import AsyncWatch, Channels, own_task
from taskora_celery.store.connect import Endpoint, async_client, close
from taskora_celery.store.wire import ELSEWHERE, Script

__all__ = ["AsyncRedis"]

logger = logging.getLogger("taskora_celery.store")

#: So many commands in one pipeline at most: the loop has its turn between two of them.
PIPELINE_COMMANDS = 100

_Command = Sequence[bytes | str | int]
_Waiting = tuple[_Command, "asyncio.Future[Any]"]


class AsyncRedis:
    """A Redis for the coroutines of one event loop. Who waits, shares: what is asked in one turn goes out in one pipeline.

    So a thousand readers take one connection, and in an outage all of them learn of it within one ``timeout``.
    """

    def __init__(self, endpoint: Endpoint, timeout: float = 5.0) -> None:
        """``timeout`` bounds each wait for Redis, in seconds. Nothing is connected yet."""
        self.endpoint = endpoint
        self._client = async_client(endpoint, timeout)
        self._channels = Channels(endpoint, timeout)
        self._waiting: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None
        self._waiters = 0
        #: Given up in the middle of an exchange; its connection is not to be used before it has closed it.
        self._ending: set[asyncio.Task[None]] = set()

    def watch(self, channel: str | bytes) -> AbstractAsyncContextManager[AsyncWatch]:
        """Watch a channel; see :meth:`Channels.watch`."""
        return self._channels.watch(channel)

    async def get(self, key: str | bytes) -> bytes | None:
        """Return a key's value, None where there is none.

        :raises StoreUnavailableError: Redis does not answer, or refuses.
        """
        value: bytes | None = await self._ask("GET", key)
        return value

    async def run(self, script: Script, arguments: _Command) -> Any:
        """Run a script, and return its answer; errors are those of :meth:`get`."""
        try:
            return await self._ask("EVALSHA", script.digest, script.keys, *arguments)
        except NoScriptError:
            return await self._ask("EVAL", script.source, script.keys, *arguments)

    async def close(self) -> None:
        """Give up all connections; who waits is told that Redis is unavailable."""
        if self._task is not None:
            self._task.cancel()
            self._ending.add(self._task)
        if self._ending:
            await asyncio.wait(self._ending)
        await self._channels.close()
        await close(self._client)

    async def _ask(self, *command: bytes | str | int) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(([command[0], *map(_encoded, command[1:])], answer))
        self._waiters += 1
        if self._task is None:
            self._task = own_task(self._talk(), "taskora-redis")
        try:
            return await answer
        except NoScriptError:
            raise
        except RedisError as exc:
            raise StoreUnavailableError(f"{self.endpoint.shown()}: {exc}") from exc
        finally:
            self._waiters -= 1
            if not self._waiters and self._task is not None:  # all who asked were cancelled: nobody wants the answers
                self._task.cancel()
                self._ending.add(self._task)
                self._task.add_done_callback(self._ending.discard)
                self._task = None
                self._waiting.clear()

    async def _talk(self) -> None:
        """Send what is waiting until nothing is; no waiter that is cancelled can leave a command half sent."""
        batch: list[_Waiting] = []
        try:
            while self._ending:
                await asyncio.wait(self._ending)
            while self._waiting:
                batch, self._waiting = self._waiting[:PIPELINE_COMMANDS], self._waiting[PIPELINE_COMMANDS:]
                answers = await self._exchange([command for command, _ in batch])
                for (_, future), answer in zip(batch, answers, strict=True):
                    _resolve(future, answer)
        except asyncio.CancelledError:
            self._fail(batch, "closed")
            raise
        except Exception as exc:  # the task's outer edge: whatever ends it, nobody may wait in vain
            if not isinstance(exc, RedisError | RedisClusterException | OSError):
                logger.warning("commands to Redis ended unexpectedly", exc_info=exc)
            self._fail(batch, str(exc) or type(exc).__name__)
        finally:
            if self._task is asyncio.current_task():
                self._task = None

    def _fail(self, batch: list[_Waiting], reason: str) -> None:
        if self._task is asyncio.current_task():
            # Those later in the queue learn of it, too: each timeout of its own would add to theirs.
            waiting, self._waiting = self._waiting, []
            batch = batch + waiting
        for _, future in batch:
            _resolve(future, StoreUnavailableError(f"{self.endpoint.shown()}: {reason}"))

    async def _exchange(self, commands: Sequence[_Command]) -> list[Any]:
        if self.endpoint.is_cluster:
            return [await self._single(command) for command in commands]
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
        except BaseException:
            # It may be in the middle of a handshake or of an answer, and redis-py would use it again. It is idle by now.
            await self._client.connection_pool.disconnect(inuse_connections=False)
            raise
        if any(isinstance(answer, ResponseError) and str(answer).startswith(ELSEWHERE) for answer in answers):
            await self._client.connection_pool.disconnect()  # the primary is another by now: its address is asked for anew
        return answers

    async def _single(self, command: _Command) -> Any:
        try:
            return await self._client.execute_command(*command)
        except RedisError as exc:
            return exc


def _encoded(value: bytes | str | int) -> bytes | int:
    # As the synchronous store does it: an id is the user's, and may not be text that can be encoded.
    return value.encode("utf-8", "backslashreplace") if isinstance(value, str) else value


def _resolve(future: asyncio.Future[Any], answer: Any) -> None:
    if future.done():  # its waiter was cancelled
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
        future.exception()  # its waiter may be cancelled before it looks: no complaint that nobody did
    else:
        future.set_result(answer)
