"""``EagerJobHandle``: the handle of a job that has run in the call that would have sent it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from datetime import timedelta
from itertools import islice
from typing import Any

import msgspec
from celery.result import EagerResult

from taskora_celery.cancelling import receipt_after_end
from taskora_celery.errors import JobNotFoundError
from taskora_celery.handle import CallableState
from taskora_celery.local import LocalContext
from taskora_celery.reading import check_whole, checked_timeout, chosen
from taskora_celery.records import AttemptRecord, CancelReceipt, Event, JobStatus, LogEntry
from taskora_celery.redaction import Redactor
from taskora_celery.scheduling import reason_of
from taskora_celery.typed import R_co, TypedEagerResult

__all__ = ["EagerJobHandle"]


class EagerJobHandle(TypedEagerResult[R_co]):
    """What ``task.apply()`` and ``task_always_eager`` return: the result, with what the handler reported in memory.

    It has all that a :class:`~taskora_celery.JobHandle` has, as of a job that has ended: nothing here waits, or asks a store.
    """

    _contexts: tuple[LocalContext, ...] = ()
    _ended_ms = 0

    @classmethod
    def of(cls, result: EagerResult[R_co], contexts: list[LocalContext]) -> EagerJobHandle[R_co]:
        """Return a handle for a result; that of a retried run has the contexts of all its attempts."""
        if isinstance(result, cls):  # of the last attempt: it has all contexts
            return result
        handle = cls(result.id, result.result, result.state, traceback=result.traceback, name=result.name)
        handle._contexts = tuple(contexts)
        handle._ended_ms = int(time.time() * 1000)
        return handle

    def get_progress(self) -> Any:
        """Return the last value that the handler reported, None where there is none."""
        return self._progress()[0]

    def get_logs(
        self,
        *,
        level: str | None = None,
        attempt: int | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> list[LogEntry]:
        """Return the log entries of all attempts, in call order; the filters are those of :meth:`JobHandle.get_logs`."""
        logs = (entry for ctx in self._contexts for entry in ctx.get_logs())
        numbered = [msgspec.structs.replace(entry, seq=seq) for seq, entry in enumerate(logs)]
        return chosen(numbered, level=level, attempt=attempt, after=after, limit=limit)

    def follow_logs(self, *, after: int | None = None, timeout: float | timedelta | None = None) -> Iterator[LogEntry]:
        """Yield the log entries after ``after``; errors are those of :meth:`JobHandle.follow_logs`."""
        checked_timeout(timeout)
        return iter(self.get_logs(after=after))

    def events(self, *, after: int | None = None, timeout: float | timedelta | None = None) -> Iterator[Event]:
        """Yield what :meth:`JobHandle.events` yields of a job that has ended; a retry has the ``seq`` of the entry before it."""
        check_whole(after=after)
        checked_timeout(timeout)
        if not self._contexts:
            return iter(())
        record, seq = self.record(), -1 if after is None else after
        delivery = {"attempt": record.attempt, "delivery": record.delivery, "worker": record.worker}
        events = [Event("state", seq, record.started_ms, {"state": "STARTED", **delivery}), *self._journal(seq)]
        seq = max(seq, record.logs - 1)
        if record.progress is not None:
            events.append(Event("progress", seq, record.progress_ms or 0, record.progress))
        why = {name: value for name, value in (("reason", record.reason), ("error", record.error)) if value is not None}
        return iter([*events, Event("state", seq, self._ended_ms, {"state": record.state, **delivery, **why})])

    def history(self) -> Sequence[AttemptRecord]:
        """Return one record for each attempt that ended in a retry, oldest first."""
        return self._contexts[-1].retries if self._contexts else ()

    @property
    def status(self) -> CallableState:
        """Celery's ``status`` (the state's name); called, ``handle.status()``, the job's record: see :attr:`JobHandle.status`."""
        return CallableState(self.state, self.record)

    def record(self) -> JobStatus:
        """Return the job's record.

        :raises JobNotFoundError: no handler has run, or it was not tracked.
        """
        if not self._contexts:
            raise JobNotFoundError(str(self.id))
        ctx, (progress, progress_ms) = self._contexts[-1], self._progress()
        failed = isinstance(self.result, BaseException) and not self.successful()
        reason, error = reason_of(self.result if failed else None, Redactor())
        return JobStatus(
            str(self.id), ctx.name, self.state, ctx.attempt, ctx.delivery, "", ctx.timestamp, int(ctx.started * 1000),
            self._ended_ms, self._ended_ms, progress, progress_ms, reason=reason, error=error, logs=len(self.get_logs()),
        )  # fmt: skip

    def cancel(
        self, reason: str | None = None, *, grace: float | timedelta | None = None, wait: bool | float | timedelta = False
    ) -> CancelReceipt:
        """Change nothing, since the job has ended: ``"too_late"``. Errors are those of :meth:`JobHandle.cancel`."""
        return receipt_after_end(str(self.id), self.state, reason, grace=grace, wait=wait)

    async def acancel(
        self, reason: str | None = None, *, grace: float | timedelta | None = None, wait: bool | float | timedelta = False
    ) -> CancelReceipt:
        """Return what :meth:`cancel` returns."""
        return self.cancel(reason, grace=grace, wait=wait)

    async def aget(self, timeout: float | timedelta | None = None, **options: Any) -> R_co:  # noqa: ARG002 - it is here
        """Return the result, or raise, as :meth:`get` does."""
        return self.get(**options)

    async def aget_progress(self) -> Any:
        """Return what :meth:`get_progress` returns."""
        return self.get_progress()

    async def aget_logs(
        self,
        *,
        level: str | None = None,
        attempt: int | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> list[LogEntry]:
        """Return what :meth:`get_logs` returns."""
        return self.get_logs(level=level, attempt=attempt, after=after, limit=limit)

    async def astatus(self) -> JobStatus:
        """Return what :meth:`record` returns."""
        return self.record()

    async def ahistory(self) -> Sequence[AttemptRecord]:
        """Return what :meth:`history` returns."""
        return self.history()

    async def aevents(self, *, after: int | None = None, timeout: float | timedelta | None = None) -> AsyncGenerator[Event, None]:
        """Yield what :meth:`events` yields."""
        for event in self.events(after=after, timeout=timeout):
            yield event

    async def afollow_logs(
        self, *, after: int | None = None, timeout: float | timedelta | None = None
    ) -> AsyncGenerator[LogEntry, None]:
        """Yield what :meth:`follow_logs` yields."""
        for entry in self.follow_logs(after=after, timeout=timeout):
            yield entry

    def _progress(self) -> tuple[Any, int | None]:
        """Return the last progress value, and its instant in milliseconds; None where there is none."""
        for ctx in reversed(self._contexts):
            if (value := ctx.get_progress()) is not None:
                return value, int(ctx.progressed * 1000)
        return None, None

    def _journal(self, after: int) -> Iterator[Event]:
        """Yield log entries and retries after ``after``, in their order; a retry at ``after`` may have been told or not."""
        logs, retries, seq = iter(self.get_logs()), {record.number: record for record in self.history()}, -1
        for ctx in self._contexts:
            for entry in islice(logs, len(ctx.entries())):
                seq = entry.seq
                if seq > after:
                    yield Event("log", seq, entry.timestamp, entry)
            retry = retries.get(ctx.attempt)
            if retry is not None and seq >= after:
                yield Event("state", seq, int(ctx.started * 1000 + 1000 * (retry.duration or 0)), _data_of(retry))


def _data_of(retry: AttemptRecord) -> dict[str, Any]:
    return {
        "attempt": retry.number, "state": retry.outcome, "reason": retry.reason, "error": retry.error, "delay": retry.delay,
        "next_ms": retry.next_ms,
    }  # fmt: skip
