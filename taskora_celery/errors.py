"""Every exception that this library raises, under one root.

A result backend stores an exception as its class and its ``args`` and rebuilds it as ``cls(*args)``.
Each class here therefore passes its constructor's positional arguments to ``super().__init__``, and they are plain
JSON values, so that the exception which ``handle.get()`` raises is the one that the worker raised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery.exceptions import MaxRetriesExceededError as _CeleryMaxRetriesExceededError
from celery.exceptions import TaskRevokedError

if TYPE_CHECKING:
    from datetime import datetime

__all__ = [
    "HandlerCancelledError",
    "JobAbortedError",
    "JobCancelledError",
    "JobNotFoundError",
    "JobStalledError",
    "MaxRetriesExceededError",
    "NoActiveJobError",
    "NotSupportedError",
    "RequeueError",
    "RetryError",
    "SettingsError",
    "StoreNotConfiguredError",
    "StoreUnavailableError",
    "TaskoraError",
]


class TaskoraError(Exception):
    """The root of all errors of this library."""


class NoActiveJobError(TaskoraError, RuntimeError):
    """``current_context()`` was called where no job is running in this thread, greenlet or coroutine."""


class JobNotFoundError(TaskoraError, LookupError):
    """There is no record of this job: it has not started yet, its record expired, or the id is wrong."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id

    def __str__(self) -> str:
        return f"no record of job {self.job_id!r}: it has not started, its record expired, or the id is wrong"


class JobCancelledError(TaskoraError, TaskRevokedError):  # type: ignore[misc]
    """The job was cancelled; Celery's own class for a revoked task is a base.

    ``handle.get()`` raises it with the ``reason`` that was given, None where none was. It is also what is raised *inside* a
    handler that does not stop by itself within its grace, with the same reason.
    """

    def __init__(self, job_id: str = "", reason: str | None = None) -> None:
        super().__init__(job_id, reason)
        self.job_id = job_id
        self.reason = reason

    def __str__(self) -> str:
        text = f"job {self.job_id} was cancelled" if self.job_id else "the job was cancelled"
        return f"{text}: {self.reason}" if self.reason else text


def cancelled_as(job_id: str, reason: str | None) -> type[JobCancelledError]:
    """Return a class of :class:`JobCancelledError` whose instances are made without arguments: what interrupts takes a class."""

    class ReasonedError(JobCancelledError):
        def __init__(self) -> None:
            super().__init__(job_id, reason)

        def __reduce__(self) -> tuple[type[JobCancelledError], tuple[str, str | None]]:
            return JobCancelledError, (job_id, reason)

    for name in ("__module__", "__name__", "__qualname__"):
        setattr(ReasonedError, name, getattr(JobCancelledError, name))
    return ReasonedError


class NotSupportedError(TaskoraError, NotImplementedError):
    """What was asked for cannot be had here (in this pool, with this broker); nothing was changed."""


class RequeueError(TaskoraError):
    """What ``ctx.requeue()`` builds: let it leave the handler, and the message goes back into its queue, no attempt used."""

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or "requeued"


class JobStalledError(TaskoraError):
    """The job was lost with its process or worker, or showed no sign of life, more often than ``max_stalls`` allows.

    It has ended as FAILURE and its message is gone. ``count`` says how often, ``progress`` is the last that it reported (plain
    JSON, or None), ``worker`` the last that had it, ``reason`` what became of it there, ``logs`` its last log lines.
    """

    def __init__(
        self,
        job_id: str,
        count: int,
        limit: int | None = None,
        worker: str = "",
        reason: str | None = None,
        progress: object = None,
        logs: tuple[str, ...] | list[str] = (),
    ) -> None:
        super().__init__(job_id, count, limit, worker, reason, progress, list(logs))
        self.job_id = job_id
        self.count = count
        self.limit = limit
        self.worker = worker
        self.reason = reason
        self.progress = progress
        self.logs = list(logs)

    def __str__(self) -> str:
        times = "once" if self.count == 1 else f"{self.count} times"
        text = f"job {self.job_id} was lost or stalled {times} (max_stalls={self.limit})"
        if self.worker:
            text += f", last on {self.worker}"
        if self.reason:
            text += f": {self.reason}"
        if self.progress is not None:
            text += f"; last progress: {self.progress}"
        return text + (f"; last log entries: {' | '.join(self.logs)}" if self.logs else "")


class StoreNotConfiguredError(TaskoraError, RuntimeError):
    """No Redis is known to keep job records in; ``taskora_redis_url`` is the way out."""

    def __init__(self, message: str = "no Redis for job records: set taskora_redis_url in the app's configuration") -> None:
        super().__init__(message)


class StoreUnavailableError(TaskoraError, ConnectionError):
    """The Redis that keeps job records did not answer, or refused; nothing is known to have been written."""


class SettingsError(TaskoraError, ValueError):
    """A ``taskora_*`` setting, or an option of the broker or of the Redis for job records, is wrong; no worker starts with it."""


class JobAbortedError(TaskoraError):
    """The job was told to stop, and ``ctx.signal.raise_if_aborted()`` or ``ctx.sleep()`` noticed.

    ``reason`` is one of ``"cancelled"``, ``"timeout"``, ``"shutdown"``, ``"superseded"``; ``message`` is free text or None.
    """

    def __init__(self, reason: str, message: str | None = None) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}" if self.message else self.reason


class HandlerCancelledError(TaskoraError):
    """An ``async def`` handler ended with ``asyncio.CancelledError`` although nobody wanted the job to stop.

    It awaited something that was cancelled elsewhere, or raised it itself. Celery has no outcome for that; this is a failure.
    """

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id

    def __str__(self) -> str:
        return f"the handler of job {self.job_id} let asyncio.CancelledError out, but nobody had cancelled the job"


class RetryError(TaskoraError):
    """A retry that was asked for by ``raise ctx.retry(…)``; it is scheduled when it leaves the handler.

    ``delay`` is in seconds, or None for the task's own backoff. ``cause`` is the text of the exception that
    led to the retry. Once it is scheduled, ``attempt`` is the number of the attempt that ended with it, and ``next_ms`` the
    instant of the next, in milliseconds since the epoch; that is how the RETRY state's metadata shows it. ``eta`` and ``exc``
    stay in this process: a result backend does not carry them.
    """

    def __init__(
        self,
        reason: str | None = None,
        delay: float | None = None,
        cause: str | None = None,
        attempt: int | None = None,
        next_ms: int | None = None,
        *,
        eta: datetime | None = None,
        exc: BaseException | None = None,
    ) -> None:
        super().__init__(reason, delay, cause, attempt, next_ms)
        self.reason = reason
        self.delay = delay
        self.cause = cause
        self.attempt = attempt
        self.next_ms = next_ms
        self.eta = eta
        self.exc = exc

    def __str__(self) -> str:
        text = self.reason or self.cause or "retry"
        return f"{text} (retry in {self.delay:g} s)" if self.delay is not None else text

    def __repr__(self) -> str:
        """Return what Celery's log line and event of a retry show after the delay; the numbers are in the record."""
        return f"RetryError({self.reason or self.cause or ''!r})"


class MaxRetriesExceededError(TaskoraError, _CeleryMaxRetriesExceededError):  # type: ignore[misc]
    """``ctx.retry`` was raised and ``max_retries`` is used up; Celery's own class is a base.

    ``reason`` is that of the last retry that was asked for.
    """

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message, reason)
        self.message = message
        self.reason = reason

    def __str__(self) -> str:
        return self.message
