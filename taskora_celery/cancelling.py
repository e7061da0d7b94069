"""Asking a job to stop, from outside: decided by the store, then announced."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import socket
import time
from datetime import timedelta
from typing import Any

from celery import states
from celery.result import AsyncResult

from taskora_celery.aio import AsyncJobReader
from taskora_celery.awaiting import has_ended, is_over
from taskora_celery.clock import seconds
from taskora_celery.errors import JobCancelledError, JobNotFoundError, StoreUnavailableError
from taskora_celery.reading import JobReader, checked_id
from taskora_celery.records import CancelReceipt, Outcome
from taskora_celery.redaction import Redactor
from taskora_celery.runtime import Runtime
from taskora_celery.scheduling import REASON_CHARS
from taskora_celery.store.announcements import unpacked
from taskora_celery.store.protocol import CancelOutcome, CancelRequest
from taskora_celery.store.redis import RedisStore

__all__ = ["acancel_job", "cancel_job", "mend_revoked", "receipt_after_end", "request_of"]

logger = logging.getLogger("taskora_celery")

#: Behind the record of a job that has ended, the result backend has so many seconds to say so, too.
BACKEND_GRACE = 2.0


def request_of(
    app: Any, job_id: str, reason: str | None, grace: float | timedelta | None, *, gently: bool = False, by: str | None = None
) -> CancelRequest:
    """Return a request with checked and redacted values.

    :raises TypeError: ``reason`` is no text, or ``grace`` no duration.
    :raises ValueError: ``grace`` is negative or not finite.
    """
    runtime = Runtime.of(app)
    reason, wait = _checked(runtime.redactor, reason, grace)
    return CancelRequest(
        str(job_id), int(runtime.clock.time() * 1000), reason, wait, gently, by or f"{socket.gethostname()}:{os.getpid()}"
    )


def _checked(
    redactor: Redactor, reason: str | None, grace: float | timedelta | None
) -> tuple[str | None, float | None]:  # fmt: skip
    if reason is not None and not isinstance(reason, str):
        raise TypeError(f"reason={reason!r} is not a text")
    if reason is not None:
        reason = redactor.text(reason, "reason")[:REASON_CHARS]
    return reason, None if grace is None else seconds(grace, "grace")


def receipt_after_end(
    job_id: str, state: str, reason: str | None, *, grace: float | timedelta | None, wait: bool | float | timedelta
) -> CancelReceipt:
    """Return the receipt of a job that had ended in ``state`` in this very process; errors are those of :func:`cancel_job`."""
    _patience(wait)
    reason, _ = _checked(Redactor(), reason, grace)
    outcome = CancelOutcome.CANCELLED if state == Outcome.REVOKED else CancelOutcome.TOO_LATE
    return CancelReceipt(job_id, outcome.name.lower(), int(time.time() * 1000), reason)


def cancel_job(
    app: Any,
    job_id: str,
    reason: str | None = None,
    *,
    grace: float | timedelta | None = None,
    wait: bool | float | timedelta = False,
    queued: bool = False,
    by: str | None = None,
) -> CancelReceipt:
    """Cancel a job by its id; see :meth:`taskora_celery.JobHandle.cancel`.

    ``queued`` says that the job is known to have been sent: a job that waits in its queue has no record yet, and without this it
    reads as unknown.

    :raises TypeError: ``job_id`` is no text (nor a ``UUID``), or as there.
    """
    job_id = checked_id(job_id)  # first: who gives it in place of the app is told so
    runtime = Runtime.of(app)
    patience = _patience(wait)
    request = request_of(app, job_id, reason, grace, by=by)
    outcome = runtime.readable().cancel(request, queued=queued)
    if outcome is CancelOutcome.CANCELLED:
        _store_revoked(app, request)
    if wait and outcome is CancelOutcome.REQUESTED:
        outcome = _outcome_of(_wait(app, request.id, patience))
    if outcome is CancelOutcome.ALREADY:
        return _receipt(_of_before(request, runtime.cancel_request(request.id)), CancelOutcome.CANCELLED)
    return _receipt(request, outcome)


async def acancel_job(
    handle: AsyncResult,
    reason: str | None = None,
    *,
    grace: float | timedelta | None = None,
    wait: bool | float | timedelta = False,
    queued: bool = False,
    by: str | None = None,
) -> CancelReceipt:
    """Cancel a job from an event loop; see :meth:`taskora_celery.JobHandle.acancel`. ``by`` says who wants it."""
    app, job_id = handle.app, str(handle.id)
    runtime = Runtime.of(app)
    if not isinstance(runtime.readable(), RedisStore):  # the twin in memory: nothing to wait for but its end
        cancel = functools.partial(cancel_job, app, job_id, reason, grace=grace, wait=wait, queued=queued, by=by)
        return await asyncio.to_thread(cancel)
    patience = _patience(wait)
    request = request_of(app, job_id, reason, grace, by=by)
    outcome = await runtime.async_reader().cancel(request, queued=queued)
    if outcome is CancelOutcome.CANCELLED:
        # Celery has only a blocking way to store a state. It is short, and happens once in a job's life at most.
        await asyncio.to_thread(_store_revoked, app, request)
    if wait and outcome is CancelOutcome.REQUESTED:
        outcome = _outcome_of(await _await_end(handle, patience))
    if outcome is CancelOutcome.ALREADY:
        before = await runtime.async_reader().read(request.id)
        stored = None if before is None else unpacked(before.fields.get("j", b""))
        return _receipt(_of_before(request, stored), CancelOutcome.CANCELLED)
    return _receipt(request, outcome)


def _patience(wait: bool | float | timedelta) -> float | None:
    """Return the seconds to wait without a word of the job, None for any number of them.

    :raises TypeError: ``wait`` is neither a truth value nor a duration.
    :raises ValueError: it is negative or not finite.
    """
    return None if isinstance(wait, bool) else seconds(wait, "wait")


def _outcome_of(state: str | None) -> CancelOutcome:
    """Return what came of a request, by the state in which the job ended; None: it has not."""
    if state is None:
        return CancelOutcome.REQUESTED
    return CancelOutcome.ALREADY if state == Outcome.REVOKED else CancelOutcome.TOO_LATE


def _of_before(request: CancelRequest, stored: object) -> CancelRequest:
    """Return the request that has ended the job, as far as it is known."""
    return stored if isinstance(stored, CancelRequest) else request


def _receipt(request: CancelRequest, outcome: CancelOutcome) -> CancelReceipt:
    return CancelReceipt(request.id, outcome.name.lower(), request.now_ms, request.reason)


def _store_revoked(app: Any, request: CancelRequest) -> None:
    """Say at once in the result backend what the worker says again when it drops the message, with chord and callbacks."""
    backend = app.backend
    try:
        if backend.get_state(request.id) not in states.READY_STATES:
            backend.store_result(request.id, JobCancelledError(request.id, request.reason), states.REVOKED)
    except Exception as exc:  # noqa: BLE001 - any backend's, or none: the worker that drops the message stores it, too
        logger.debug("job %s: REVOKED cannot be stored here: %s", request.id, exc)


def mend_revoked(app: Any, job_id: str) -> None:
    """Say REVOKED in the result backend where the record does, and something else was written over it; never raises."""
    store = Runtime.of(app).store
    try:
        found = None if store is None else store.read(job_id)
    except StoreUnavailableError:
        return
    if found is None or found.fields.get("s") != Outcome.REVOKED:
        return
    request = unpacked(found.fields.get("j", b""))
    if isinstance(request, CancelRequest):
        _store_revoked(app, request)


def _wait(app: Any, job_id: str, timeout: float | None) -> str | None:
    """Wait for the end of a job; return the state, or None where it did not end in time, or its record tells of no end.

    Nobody tells the record where a worker without this library ended the job, say. What the result backend has then may be of an
    earlier job under the same id: nothing is concluded from it, but that there is nothing more to wait for.
    """
    runtime = Runtime.of(app)
    reader = JobReader(runtime.readable(), job_id, runtime.settings.log_limit)
    try:
        for _ in reader.follow(after=None, timeout=timeout, ready=lambda: has_ended(app, job_id), expected=False):
            pass
        state = reader.status().state
    except (TimeoutError, JobNotFoundError):
        return None
    if state not in Outcome.FINAL:
        return None
    # The record is written first: who asks the result backend next is to find the same.
    until = time.monotonic() + BACKEND_GRACE
    while state == Outcome.REVOKED and time.monotonic() < until and not has_ended(app, job_id, unknown=True):
        time.sleep(0.01)
    return state


async def _await_end(handle: AsyncResult, timeout: float | None) -> str | None:
    """Wait for the end of a job as :func:`_wait` does, without a thread."""
    reader = AsyncJobReader.of(handle.app, str(handle.id))
    try:
        async for _ in reader.follow(after=None, timeout=timeout, ready=functools.partial(is_over, handle), expected=False):
            pass
        state = (await reader.status()).state
    except (TimeoutError, JobNotFoundError):
        return None
    if state not in Outcome.FINAL:
        return None
    until = time.monotonic() + BACKEND_GRACE
    while state == Outcome.REVOKED and time.monotonic() < until and not await is_over(handle):  # noqa: ASYNC110 - see _wait
        await asyncio.sleep(0.02)
    return state
