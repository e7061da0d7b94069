"""A bad network between a client and a server of this machine: slow, cut off, or silent."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING

from tests.support.redis_server import HOST

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

#: The two ways of the data.
TO_SERVER, TO_CLIENT = "to the server", "to the client"
_CHUNK = 65_536  # bytes


class TcpProxy:
    """Forwards connections to a port; a context manager. Its faults are switched by the test's thread, at any time.

    One daemon thread named ``tcp-proxy`` runs an event loop; it ends with the context.
    """

    def __init__(self, target_port: int) -> None:
        self.port = 0
        #: Seconds for which each piece of data is under way, in either direction.
        self.delay = 0.0
        #: When connections were accepted, in monotonic seconds.
        self.accepted: list[float] = []
        #: When data passed last, in monotonic seconds.
        self.passed_at = 0.0
        #: How many connections were cut in the middle of what they carried.
        self.cuts = 0
        self._target_port = target_port
        self._refuses = False
        #: How many bytes still pass, by direction, before the connection that carries the next one is cut.
        self._room: dict[str, int] = {}
        self._passes = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tcp-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10), "the proxy did not start"
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._call(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def url(self, db: int = 0) -> str:
        """The URL of one database of a Redis behind it."""
        return f"redis://{HOST}:{self.port}/{db}"

    def cut_after(self, count: int, direction: str) -> None:
        """Let ``count`` more bytes pass in a direction, over all connections, then cut the one that has more to carry, once."""
        self._call(lambda: self._room.update({direction: count}))

    def hold(self) -> None:
        """Become a black hole: connections are accepted and stay open, and nothing comes out of them, not even a reset."""
        self._call(self._passes.clear)

    def heal(self) -> None:
        """Forward again, what was held first: TCP would send it again, too. Refuse nobody."""
        self._call(self._passes.set)
        self._refuses = False

    def refuse(self) -> None:
        """Cut all connections, and each new one at once, until :meth:`heal`."""
        self._refuses = True
        self._call(self._cut_all)

    def _call(self, do: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(do)

    # --- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._end())

    async def _listen(self) -> None:
        self._passes.set()
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        assert self._server is not None
        self._server.close()
        self._cut_all()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _cut_all(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted.append(time.monotonic())
        if self._refuses:
            writer.transport.abort()
            return
        with contextlib.suppress(OSError, asyncio.CancelledError):  # the server is down: so is this; or the context has ended
            far_reader, far_writer = await asyncio.open_connection(HOST, self._target_port)
            pair = {writer, far_writer}
            self._writers |= pair
            try:
                await asyncio.gather(
                    self._forward(reader, far_writer, TO_SERVER, pair), self._forward(far_reader, writer, TO_CLIENT, pair)
                )
            finally:
                self._writers -= pair
                far_writer.close()
        writer.close()

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str, pair: set[asyncio.StreamWriter]
    ) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        arriving = asyncio.ensure_future(self._arrive(under_way, writer, direction, pair))
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(_CHUNK):
                    under_way.put_nowait((self._loop.time() + self.delay, data))
            under_way.put_nowait((self._loop.time() + self.delay, b""))
            await arriving
        finally:
            arriving.cancel()

    async def _arrive(
        self, under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, direction: str,
        pair: set[asyncio.StreamWriter],
    ) -> None:  # fmt: skip
        with contextlib.suppress(OSError):
            while True:
                at, data = await under_way.get()
                await asyncio.sleep(at - self._loop.time())
                await self._passes.wait()
                if not data:
                    writer.close()
                    return
                passing = self._passing(direction, data)
                writer.write(passing)
                await writer.drain()
                if len(passing) < len(data):
                    self.cuts += 1
                    for end in pair:
                        end.close()  # what has passed arrives, then the connection ends
                    return

    def _passing(self, direction: str, data: bytes) -> bytes:
        self.passed_at = time.monotonic()
        room = self._room.get(direction)
        if room is None:
            return data
        if room >= len(data):
            self._room[direction] = room - len(data)
            return data
        del self._room[direction]
        return data[:room]
