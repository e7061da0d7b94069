"""How an execution ends, in Celery's terms: what its tracer is to see, and what is stored where the tracer has no word for it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

from celery import states
from celery.exceptions import Ignore, Reject
from kombu.exceptions import EncodeError, OperationalError

from taskora_celery.context import Context
from taskora_celery.errors import JobAbortedError, JobCancelledError, JobStalledError, RequeueError, StoreUnavailableError
from taskora_celery.lease.protocol import Hold
from taskora_celery.reading import last_words
from taskora_celery.records import Outcome
from taskora_celery.redaction import Redactor
from taskora_celery.scheduling import REASON_CHARS, text_of
from taskora_celery.store.announcements import unpacked
from taskora_celery.store.protocol import Begun, CancelRequest, Ended, JobStore, Reply, Report
from taskora_celery.tally import Count, pack_count

__all__ = [
    "Cancelled", "GivenBack", "as_hook", "check_stalls", "clean_up", "fail_unstored", "is_unstored", "log_once",
    "outcome_is_stored", "reason_in", "refused", "requeues", "revoke", "stalled", "stored_state",
]  # fmt: skip

logger = logging.getLogger("taskora_celery.execution")


class Cancelled(Ignore):  # type: ignore[misc]
    """The job has ended as cancelled, and all is stored. Celery's tracer ignores it, and the worker's parent knows it."""

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason


class GivenBack(Reject):  # type: ignore[misc]
    """The message goes back into its queue, as far as it is still this delivery's. Not to be retried by ``autoretry_for``."""


class _SaidAlready(logging.Filter):
    """Leaves out what Celery's tracer logs of a job that is given back, a warning with a traceback: a line of ours says why."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], GivenBack))


_said_already = _SaidAlready()


def log_once() -> None:
    """Let the log have one line of a job that is given back; called when Celery has set up logging in this process."""
    logging.getLogger("celery.app.trace").addFilter(_said_already)


def reason_in(cancel: bytes | None) -> str | None:
    """Return the reason of a request to cancel, packed as the store has it."""
    request = unpacked(cancel or b"")
    return request.reason if isinstance(request, CancelRequest) else None


def refused(why: str, hold: Hold | None, record: Mapping[str, Any] | None) -> Ignore | GivenBack:
    """Return what Celery is to see of an execution that counts no more; where it ran, the reporter has said so in the log.

    Its message is rejected, not acknowledged: where another delivery has it, the fence refuses that; where nobody has it yet
    (it was given up a moment ago), it goes back into its queue. Where the job is another message's, as its ``record`` says (the
    same id was sent twice), this one is acknowledged: the two would push each other out for ever.
    """
    tag = str((record or {}).get("l", ""))
    if tag and hold is not None and tag != hold.tag:
        return Ignore(why)
    return GivenBack(why, requeue=True)


def revoke(task: Any, request: Any, reason: str | None, how: str = "was cancelled, and is ended") -> Cancelled:
    """Store a job's end as REVOKED, so that chords and ``link_error`` see a failure; return what the tracer is to see of it.

    ``mark_as_revoked`` would call no ``link_error``. The log says ``how``.
    """
    logger.info("job %s (%s) %s%s", request.id, task.name, how, f": {reason}" if reason else "")
    exc = JobCancelledError(str(request.id), reason)
    ignored = vars(request).get("ignore_result")
    ignored = task.ignore_result if ignored is None else ignored
    try:
        task.backend.mark_as_failure(
            request.id, exc, request=request, state=states.REVOKED,
            store_result=not ignored or task.store_errors_even_if_ignored,
        )  # fmt: skip
    except Exception:  # any backend's error: the record says it, and the message must be acknowledged
        logger.exception("job %s was cancelled, but its result could not be stored", request.id)
    return Cancelled(reason)


def check_stalls(task: Any, job_id: str, begun: Begun, store: JobStore | None) -> None:
    """Do nothing while the job may run, however often it was lost.

    :raises JobStalledError: it was lost or stalled more often than ``max_stalls`` allows.
    """
    limit = task.max_stalls
    if limit is None or begun.stalls <= limit:
        return
    before = next((record for record in reversed(begun.attempts) if record.outcome == Outcome.LOST), None)
    worker, reason = (before.worker, before.reason) if before else ("", None)
    raise stalled(job_id, begun.stalls, limit, worker, reason, store)


def stalled(job_id: str, stalls: int, limit: int, worker: str, reason: str | None, store: JobStore | None) -> JobStalledError:
    """Return the error of a job that was lost too often, with its last words where the store has them."""
    progress: Any = None
    logs: tuple[str, ...] = ()
    with suppress(StoreUnavailableError):
        progress, logs = last_words(None if store is None else store.read(job_id, 0))
    return JobStalledError(job_id, stalls, limit, worker, reason, progress, logs)


def outcome_is_stored(task: Any, request: Any) -> bool:
    """Say whether the result backend has the outcome that a job's record has: then nothing is left to be done.

    A member of a chord runs again all the same: its worker may have died after the result and before the chord was told.
    """
    # Where the backend cannot be asked, to run once more is the safe answer.
    return not request.chord and not task.ignore_result and stored_state(task, request.id) in states.READY_STATES


def stored_state(task: Any, job_id: str) -> str | None:
    """Return a job's state as the result backend has it, None where it cannot be asked."""
    try:
        return str(task.backend.get_state(job_id))
    except Exception:  # noqa: BLE001 - any backend's error
        return None


def is_unstored(exc: BaseException, info: Any) -> bool:
    """Say whether a failure can be one of what Celery does with a result: encode it, store it, send the callbacks.

    ``info`` is what Celery's tracer made of the end: it marks what was raised outside of the handler (and what is no failure),
    except for two errors, which a handler may have raised as well.
    """
    if isinstance(exc, Ignore | Reject):
        return False
    return isinstance(exc, EncodeError | OperationalError) or getattr(info, "internal", False) is True


def fail_unstored(store: JobStore | None, redactor: Redactor, job_id: str, tag: str, exc: BaseException) -> None:
    """Write to a job's record that it has failed though its handler ended well: Celery cannot encode or store what it returned.

    Celery tries that behind the end of the handler, when the record says SUCCESS, and a caller may see the failure a moment
    earlier than the record has it. ``tag`` is that of the delivery. It is counted as a failure, too: the success was
    counted before, and counts never go back. Three round trips, each bounded; never raises.
    """
    try:
        found = None if store is None else store.read(job_id)
        if store is None or found is None or found.fields.get("s") != Outcome.SUCCESS:
            return
        if found.fields.get("l", "") not in {"", tag}:
            return  # another message's, sent under the same id
        reason = redactor.text(text_of(exc), "reason")[:REASON_CHARS]
        at_ms, name = found.fields["e"], found.fields.get("n", "")
        ended = Ended(Outcome.FAILURE, at_ms, reason, type(exc).__name__, stands=True)
        if store.report([Report(job_id, found.fields["f"], 0, ended=ended)])[0] in {Reply.ACCEPTED, Reply.STOPPING}:
            store.note([], [], at_ms, {pack_count(Count("attempts", (Outcome.FAILURE,), (name,))): 1})
    except StoreUnavailableError as failure:
        logger.warning("job %s: that its result could not be stored cannot be written to its record: %s", job_id, failure)


def requeues(exc: BaseException, ctx: Context) -> bool:
    """Say whether a handler that ended with this is to be delivered again: it was asked to, or stopped for a shutdown."""
    if isinstance(exc, RequeueError):
        return True
    return isinstance(exc, JobAbortedError) and exc.reason == "shutdown" and ctx.signal.reason == "shutdown"


def clean_up(
    task: Any, ctx: Context, args: tuple[Any, ...], kwargs: dict[str, Any], run: Callable[[Coroutine[Any, Any, Any]], object]
) -> None:
    """Call the task's ``on_cancel``; an error in it is logged, not raised. ``run`` runs it where it is a coroutine.

    It is a method of the task, called as ``task.on_cancel(ctx, *args, **kwargs)``, or a function given as the task's option.
    """
    hook = getattr(task, "on_cancel", None)
    if hook is None:
        return
    try:
        result = hook(ctx, *args, **kwargs)
        if inspect.iscoroutine(result):
            run(result)
    except Exception as exc:
        ctx.log.exception("on_cancel failed", error=f"{type(exc).__name__}: {exc}")


def as_hook(fun: Any) -> Any:
    """Return an ``on_cancel`` option as a class holds it: one that takes ``self`` first stays a method."""
    if not inspect.isfunction(fun):
        return fun
    first = next(iter(inspect.signature(fun).parameters), None)
    return fun if first == "self" else staticmethod(fun)
