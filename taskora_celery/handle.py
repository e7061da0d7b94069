"""``JobHandle``: an ``AsyncResult`` that can also read what the job says while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celery import Celery

from taskora_celery import waiting
from taskora_celery.aio import AsyncJobReader
from taskora_celery.awaiting import has_ended, is_over, result_of
from taskora_celery.cancelling import acancel_job, cancel_job
from taskora_celery.reading import JobReader, check_whole, checked_id, checked_timeout
from taskora_celery.records import AttemptRecord, CancelReceipt, Event, JobStatus, LogEntry
from taskora_celery.runtime import Runtime
from taskora_celery.typed import R_co, TypedResult

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CallableState", "JobHandle"]


class CallableState(str):  # noqa: SLOT000 - it carries what it is called for
    """A state's name that, called, returns the job's record: ``AsyncResult.status`` was a property before ``status()`` came."""

    _record: Callable[[], JobStatus]

    def __new__(cls, state: str, record: Callable[[], JobStatus]) -> Self:
        """Wrap a state's name."""
        self = super().__new__(cls, state)
        self._record = record
        return self

    def __call__(self) -> JobStatus:
        """Return the job's record, or raise ``JobNotFoundError``."""
        return self._record()

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


class JobHandle(TypedResult[R_co]):
    """A job, seen from outside. ``JobHandle(id, app=app)`` attaches to a job that somebody else sent.

    For type checkers, ``JobHandle[int]`` is the handle of a job that returns an ``int``.

    All that ``AsyncResult`` does works as in Celery. The methods added here read the job's record with a connection of their own,
    never with the result backend's shared consumer, and may be called from several threads at once. A job that nobody knows
    (not started, expired, wrong id) reads as None or ``[]``. All of them raise
    :class:`~taskora_celery.StoreNotConfiguredError` where no Redis is configured for records, and
    :class:`~taskora_celery.StoreUnavailableError` where it does not answer.
    """

    #: Whether the job may be on its way, so that following it waits for its start.
    sent = False
    #: Whether this handle comes from the call that sent the job, and its worker will ask whether it was cancelled.
    queued = False

    def __init__(
        self,
        id: str,  # noqa: A002 - Celery's name
        backend: Any = None,
        task_name: str | None = None,
        app: Any = None,
        parent: Any = None,
    ) -> None:
        """Take the arguments of ``AsyncResult``; ``app`` is the current one where it is left out.

        :raises TypeError: ``id`` is no text (nor a ``UUID``), or the app was given where the backend is expected.
        """
        if id is not None:  # Celery's own error says more of that
            checked_id(id)
        if isinstance(backend, Celery):
            raise TypeError(f"{backend!r} is an app, not a result backend: pass it by its name, JobHandle(id, app=app)")
        super().__init__(id, backend, task_name, app, parent)

    def get_progress(self) -> Any:
        """Return the last value that the job reported, as plain JSON types; None where there is none."""
        return self._reader.progress()

    def get_logs(
        self,
        *,
        level: str | None = None,
        attempt: int | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> list[LogEntry]:
        """Return the job's log entries of all attempts, in call order.

        ``level`` is the lowest wanted; ``attempt`` picks one; ``after`` is the ``seq`` of an entry; ``limit`` keeps the newest.

        :raises TypeError: ``attempt``, ``after`` or ``limit`` is no whole number.
        :raises ValueError: ``level`` is no level, or ``limit`` is negative.
        """
        return self._reader.logs(level=level, attempt=attempt, after=after, limit=limit)

    def follow_logs(self, *, after: int | None = None, timeout: float | timedelta | None = None) -> Iterator[LogEntry]:
        """Yield past entries, then new ones as they come, over retries and lost connections, until the job ends.

        A job that this handle has sent may still be waiting in its queue; of one that it was attached to, a record is wanted,
        unless a ``timeout`` is given.

        :raises TimeoutError: nothing was heard of the job for ``timeout`` seconds; it goes on.
        :raises JobNotFoundError: there is no record.
        :raises TypeError: ``timeout`` is no duration, or ``after`` no whole number.
        :raises ValueError: ``timeout`` is negative or not finite.
        """
        return (event.data for event in self.events(after=after, timeout=timeout) if event.kind == "log")

    def events(self, *, after: int | None = None, timeout: float | timedelta | None = None) -> Iterator[Event]:
        """Yield progress, log entries and changes of state in one order, until the job ends; ``after`` is an event's ``seq``.

        The first event says in which attempt the job is. Waiting, and errors, are those of :meth:`follow_logs`.
        """
        check_whole(after=after)
        expected, timeout = self.sent or timeout is not None, checked_timeout(timeout)
        return self._reader.follow(after=after, timeout=timeout, ready=self._is_over, expected=expected)

    def history(self) -> Sequence[AttemptRecord]:
        """Return one record for each attempt, and each delivery that was lost or given back; the last is that of now."""
        return self._reader.history()

    @property
    def status(self) -> CallableState:
        """Celery's ``status`` (the state's name); called, ``handle.status()``, the job's record: a :class:`JobStatus`.

        Celery has the name for a property, so it stays one, and asks the result backend: where that is away, its own error is
        raised. ``record()`` is the same record without that question.

        :raises JobNotFoundError: (when called) there is no record.
        """
        try:
            state = self.state
        except (AttributeError, NotImplementedError):  # no result backend: only the record knows
            state = "PENDING"
        return CallableState(state, self.record)

    def record(self) -> JobStatus:
        """Return the job's record, from one round trip: state, progress, attempt, last sign of life, worker.

        :raises JobNotFoundError: there is none.
        """
        return self._reader.status()

    def cancel(
        self, reason: str | None = None, *, grace: float | timedelta | None = None, wait: bool | float | timedelta = False
    ) -> CancelReceipt:
        """Cancel the job, and say what happened.

        A job that has not begun (queued, scheduled, waiting for a retry) never runs: ``"cancelled"``, and its state is REVOKED at
        once. One that runs is asked to stop: ``"requested"``. Its signal fires; within ``grace`` seconds (default: the task's
        ``cancel_grace``) its handler should end, else it is interrupted by ``JobCancelledError`` where the pool can, and after
        another grace prefork ends its process. It ends as REVOKED in any case, and is not retried. ``"too_late"``: it had ended
        otherwise; one that had ended as cancelled is ``"cancelled"``, with the reason that is stored.
        ``"unknown"``: there is no record of it, and this handle did not send it; nothing was changed.

        With ``wait`` (True, or seconds without a word of the job) it waits for the end of a job that runs, and the outcome is
        what came of it; ``"requested"`` where it had not ended by then. ``reason`` is stored and shown. The request is stored
        before it is announced: it survives restarts of workers, and reaches workers that start later. Blocks for one round trip,
        or for the end. May be called from any thread, and again: the first request counts.

        ``reason`` is redacted and cut to 500 characters; the receipt has it as it is stored.

        :raises TypeError: ``reason`` is no text, ``grace`` or ``wait`` no duration; nothing was stored.
        :raises ValueError: ``grace`` or ``wait`` is negative or not finite; nothing was stored.
        """
        return cancel_job(self.app, str(self.id), reason, grace=grace, wait=wait, queued=self.queued)

    async def acancel(
        self, reason: str | None = None, *, grace: float | timedelta | None = None, wait: bool | float | timedelta = False
    ) -> CancelReceipt:
        """Cancel the job, without blocking the event loop; see :meth:`cancel`.

        Takes two round trips, and three where the job had begun. Waiting for the end takes no thread. Where the job is cancelled
        before it began, one short call in the loop's executor says so in the result backend.
        """
        return await acancel_job(self, reason, grace=grace, wait=wait, queued=self.queued)

    if not TYPE_CHECKING:  # its types are in `TypedResult`

        def get(self, *args: Any, **options: Any) -> Any:
            """Wait for the end of the job; return its result, or raise its exception: Celery's own, with its options.

            In addition, with a result backend on Redis: a result is found within three seconds also where nobody heard that it is
            there, since the connection was replaced at that moment.
            """
            if waiting.for_announcement(self):
                return waiting.get(self, *args, **options)
            return super().get(*args, **options)

        wait = get

    @property
    def _reader(self) -> JobReader:
        runtime = Runtime.of(self.app)
        return JobReader(runtime.readable(), str(self.id), runtime.settings.log_limit)

    def _is_over(self) -> bool:
        """Ask the result backend whether the job has ended: some ends (a killed process) are known only there."""
        return has_ended(self, self.id)

    # --- without blocking an event loop --------------------------------------------------------------------------------

    async def aget(self, timeout: float | timedelta | None = None, **options: Any) -> R_co:
        """Return the result, or raise, as :meth:`get` does; ``options`` are its, too.

        Where the result backend is Redis, no thread takes part, and all waits of an event loop share two connections. Any other
        backend is asked by short calls in the loop's executor once the job's record has ended, and twice a second where no
        store of records is configured. An outage of Redis is waited for. A result of more than 200 kB is decoded in the executor.

        :raises celery.exceptions.TimeoutError: it is not there within ``timeout`` seconds; the job goes on.
        :raises TypeError: ``timeout`` is no duration.
        """
        result: R_co = await result_of(self, timeout, **options)
        return result

    async def aget_progress(self) -> Any:
        """Return what :meth:`get_progress` returns."""
        return await self._areader.progress()

    async def aget_logs(
        self,
        *,
        level: str | None = None,
        attempt: int | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> list[LogEntry]:
        """Return what :meth:`get_logs` returns."""
        return await self._areader.logs(level=level, attempt=attempt, after=after, limit=limit)

    async def astatus(self) -> JobStatus:
        """Return what :meth:`status` returns."""
        return await self._areader.status()

    async def ahistory(self) -> Sequence[AttemptRecord]:
        """Return what :meth:`history` returns."""
        return await self._areader.history()

    def aevents(self, *, after: int | None = None, timeout: float | timedelta | None = None) -> AsyncGenerator[Event, None]:
        """Yield what :meth:`events` yields."""
        check_whole(after=after)
        expected, timeout = self.sent or timeout is not None, checked_timeout(timeout)
        return self._areader.follow(after=after, timeout=timeout, ready=lambda: is_over(self), expected=expected)

    async def afollow_logs(
        self, *, after: int | None = None, timeout: float | timedelta | None = None
    ) -> AsyncGenerator[LogEntry, None]:
        """Yield what :meth:`follow_logs` yields."""
        async with contextlib.aclosing(self.aevents(after=after, timeout=timeout)) as events:
            async for event in events:
                if event.kind == "log":
                    yield event.data

    @property
    def _areader(self) -> AsyncJobReader:
        return AsyncJobReader.of(self.app, str(self.id))
