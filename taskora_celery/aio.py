"""The handle's asynchronous side: no thread per wait, no blocking of the loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from taskora_celery.backoff import outage_pause
from taskora_celery.errors import JobNotFoundError, StoreUnavailableError
from taskora_celery.following import LOOK_LEAST, Absence, Change
from taskora_celery.reading import LOOK_EVERY, Follower, Patience, check_filters, history_of, logs_of, progress_of, status_of
from taskora_celery.records import AttemptRecord, Event, JobStatus, LogEntry
from taskora_celery.runtime import Runtime
from taskora_celery.store.aio import AsyncRedisReader

__all__ = ["AsyncJobReader", "Ready"]

#: Says whether the result backend knows that the job is over.
Ready = Callable[[], Awaitable[bool]]


class AsyncJobReader:
    """Reads one job from an event loop."""

    __slots__ = ("_id", "_keep", "_reader")

    def __init__(self, reader: AsyncRedisReader, job_id: str, keep: int) -> None:
        """``keep`` is the number of newest log entries that count as kept."""
        self._reader = reader
        self._id = job_id
        self._keep = keep

    @classmethod
    def of(cls, app: Any, job_id: str) -> AsyncJobReader:
        """Return a reader for the running event loop.

        :raises StoreNotConfiguredError: no Redis is known to keep job records in.
        """
        runtime = Runtime.of(app)
        return cls(runtime.async_reader(), job_id, runtime.settings.log_limit)

    async def progress(self) -> Any:
        """Return the last progress value, or None."""
        return progress_of(await self._reader.read(self._id))[0]

    async def logs(self, **filters: Any) -> list[LogEntry]:
        """Return log entries; the filters are those of :func:`taskora_celery.reading.logs_of`."""
        check_filters(**filters)
        return logs_of(await self._reader.read(self._id, 0), self._keep, **filters)

    async def status(self) -> JobStatus:
        """Return the record, or raise ``JobNotFoundError``."""
        return status_of(self._id, await self._reader.read(self._id), self._keep)

    async def history(self) -> list[AttemptRecord]:
        """Return the attempts."""
        return history_of(await self._reader.read(self._id, attempts=True))

    async def follow(
        self, *, after: int | None, timeout: float | None, ready: Ready, expected: bool = True
    ) -> AsyncGenerator[Event, None]:
        """Yield events until the job ends, as :meth:`taskora_celery.reading.JobReader.follow` does."""
        async with aclosing(self.looks(after=after, timeout=timeout, ready=ready, expected=expected)) as looks:
            async for events in looks:
                for event in events:
                    yield event

    async def looks(
        self, *, after: int | None, timeout: float | None, ready: Ready, expected: bool = True
    ) -> AsyncGenerator[list[Event], None]:
        """Yield what is new whenever something was announced; an empty list after a while without, at most 15 s."""
        follower, patience, failures = Follower(after), Patience(timeout), 0
        while not follower.over:
            try:
                async with aclosing(self._watched(follower, patience, ready, expected)) as watched:
                    async for events in watched:
                        failures = 0
                        yield events
            except StoreUnavailableError:
                failures += 1
                patience.check(self._id)
                if await _gave_up(patience, ready):
                    return
                await asyncio.sleep(outage_pause(failures))
                yield []
            else:
                return

    async def _watched(
        self, follower: Follower, patience: Patience, ready: Ready, expected: bool
    ) -> AsyncGenerator[list[Event], None]:
        async with self._reader.watch(self._id) as watch:
            while True:
                snapshot = await self._reader.read(self._id, follower.skip)
                if snapshot is None and not expected:
                    raise JobNotFoundError(self._id)
                events = follower.feed(snapshot)
                if events:
                    patience.renew()
                yield events
                if follower.over or await _gave_up(patience, ready):
                    return
                if not await watch.wait(patience.wait()):
                    patience.check(self._id)

    async def changes(
        self,
        *,
        after: int | None = None,
        logs: bool = True,
        least: float = LOOK_LEAST,
        on_outage: Callable[[StoreUnavailableError | None], None] = lambda _: None,
    ) -> AsyncGenerator[Change, None]:
        """Yield the job as it is now, and again after each announcement and every two seconds, until it is over.

        Between two looks pass ``least`` seconds. Without ``logs`` the journal is not read, so the events are those of the record
        alone. ``on_outage`` hears of a store that is away, and (None) that it is back; what was missed meanwhile comes then.
        """
        follower, absence, failures = Follower(after), Absence(), 0
        while True:
            try:
                async with self._reader.watch(self._id) as watch:
                    while True:
                        looked = time.monotonic()
                        snapshot = await self._reader.read(self._id, follower.skip if logs else None, attempts=True)
                        if failures:
                            failures = 0
                            on_outage(None)
                        events, gone = follower.feed(snapshot), absence.is_lasting(snapshot)
                        change = Change(self._id, snapshot, events, gone or (snapshot is not None and follower.over))
                        yield change
                        if change.over:
                            return
                        await watch.wait(LOOK_EVERY)
                        await asyncio.sleep(max(looked + least - time.monotonic(), 0.0))
            except StoreUnavailableError as exc:
                failures += 1
                on_outage(exc)
                await asyncio.sleep(outage_pause(failures))


async def _gave_up(patience: Patience, ready: Ready) -> bool:
    """Say what :meth:`Patience.gave_up` says."""
    if patience.asks() and await ready():
        patience.is_over()
    return patience.is_past_grace()
