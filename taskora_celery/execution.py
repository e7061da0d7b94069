"""One delivery of one job: begin, call the handler, finish, and nothing of it left behind."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from inspect import iscoroutine
from typing import Any, NoReturn
from weakref import finalize

import msgspec
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from taskora_celery.context import Context, JobInfo, activate, deactivate
from taskora_celery.coroutines import CoroutineInterrupt, check_result, run_coroutine, take_over
from taskora_celery.delivery import Delivery, attempt_of
from taskora_celery.errors import JobAbortedError, JobCancelledError, JobStalledError, RetryError
from taskora_celery.handler import Handler
from taskora_celery.lease.protocol import Held
from taskora_celery.outcomes import GivenBack, check_stalls, clean_up, outcome_is_stored, reason_in, refused, requeues, revoke
from taskora_celery.records import AttemptRecord, Outcome
from taskora_celery.results import sinks_opener
from taskora_celery.runtime import Runtime
from taskora_celery.scheduling import REASON_CHARS, delay_of, limits_of, max_attempts, reason_of, schedule, text_of
from taskora_celery.stopping import JobStop
from taskora_celery.store.protocol import Begun, CancelRequest, Ended, Reply, Verdict
from taskora_celery.tracing import JobSpan
from taskora_celery.undisturbed import at_soft_limit, undisturbed

__all__ = ["Execution", "execution_of"]

logger = logging.getLogger("taskora_celery.execution")

#: Where a running request keeps its execution; requests are Celery's place for what belongs to one delivery.
_ATTRIBUTE = "taskora_execution"
#: Marks a request whose body has run.
_RAN = "taskora_ran"


class Execution:
    """One delivery of a tracked job. Used by the thread that runs the handler."""

    __slots__ = (
        "_announced", "_arguments", "_coroutine", "_deadline", "_delivery", "_handler_ended", "_inside", "_own_lines",
        "_reporter", "_span", "_started", "_stop", "_task", "_too_late", "_unaware", "_worker", "ctx", "request", "runtime",
    )  # fmt: skip

    def __init__(self, task: Any, request: Any, runtime: Runtime) -> None:
        runtime.prepare()
        self.runtime = runtime
        self.request = request
        self._task = task
        self._reporter = runtime.reporter
        self._started = runtime.clock.time()
        self._worker = request.hostname or ""
        #: The handler takes no context, and does not see its signal: a plain revoke does not decide how it ends.
        self._unaware = False
        self._announced = False
        self._handler_ended = False
        #: The handler is being called just now.
        self._inside = False
        #: A soft limit that comes now comes too late: how the job ends is decided, and is being written down.
        self._too_late = False
        #: What is around the handler, and not to be torn by a soft limit.
        self._own_lines = undisturbed()
        self._arguments: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
        #: How the handler is interrupted where it is a coroutine, or its cleaning up is.
        self._coroutine: CoroutineInterrupt | None = None
        self._delivery = Delivery.of(task, request)
        self.ctx = self._new_context()
        self._span = JobSpan(runtime.tracing, self.ctx.attempt)
        soft, hard = limits_of(task, request)
        self._deadline = self._started + (soft or hard or 0) if soft or hard else None
        in_child = self._delivery.parent not in {0, os.getpid()}
        kept = in_child or runtime.stopper.environment == "gevent"  # the other pools know no hard limit
        self._stop = JobStop(
            runtime.stopper, self.ctx, worker=self._worker, grace=task.cancel_grace,
            in_child=in_child, deadline=self._started + soft if soft else None,
            limit=self._started + hard if hard and kept else None,
        )  # fmt: skip

    def run(self, handler: Handler, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the handler, and record how it ended before Celery does: who sees the outcome can read the whole record.

        :raises Ignore: this delivery is not the one that counts, or the job was cancelled: Celery's tracer stores nothing.
        :raises Reject: the message goes back into its queue.
        :raises JobStalledError: the job was lost or stalled too often.
        """
        self._unaware = handler.parameter is None
        with self._own_lines:
            begun = self._begin()
            setattr(self.request, _ATTRIBUTE, self)
            self.ctx.control = self._stop
            if handler.is_async:
                self._coroutine = self._stop.interrupt = CoroutineInterrupt(self.ctx.signal, self.runtime.loop)
            self.runtime.stopper.watch(self._stop)
            token = activate(self.ctx)
            try:
                at_soft_limit(self._is_held_off)
                check_stalls(self._task, self.ctx.id, begun, self.runtime.store)
                try:
                    self._stop.open()
                    self._inside = True
                    self._own_lines.let_through()
                    result = self._call(handler, args, kwargs)
                finally:
                    self._own_lines.hold()
                    self._inside = False
                    self._stop.close()
            except BaseException as exc:  # noqa: BLE001 - whatever a handler raises; it, or what it stands for, is raised again
                self._own_lines.hold()  # once more, both: an interruption may have come in the lines before
                self._stop.close()
                self._raised(exc, args, kwargs)
            else:
                return self._returned(result, args, kwargs)
            finally:
                self._stop.close_for_good()
                deactivate(token)
                self._own_lines.let_through()
                at_soft_limit(None)

    def _is_held_off(self) -> bool:
        """Say, in the soft limit's signal handler, whether it is not to be raised."""
        return self._too_late or self._stop.soft_limit()

    def _call(self, handler: Handler, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = handler.call(self._task, self.ctx, args, kwargs)
        if handler.may_await and iscoroutine(result):
            if self._coroutine is None:
                self._coroutine = take_over(self._stop, CoroutineInterrupt(self.ctx.signal, self.runtime.loop))
            return self._await(handler.awaited(result))
        return check_result(self._task, result)

    def _await(self, coro: Coroutine[Any, Any, Any], *, deaf: bool = False) -> Any:
        return run_coroutine(self.runtime.loop, coro, self._task, self.request, self.ctx, self._coroutine, deaf=deaf)

    def retrying(self, do: Callable[[], Any], max_retries: int | None, exc: Any, countdown: Any, eta: Any) -> Any:
        """Record a retry around Celery's own ``Task.retry``, whoever called it: ``ctx.retry``, the handler, or autoretry.

        Recorded before the message of the next attempt is sent: with no delay another worker may begin it at once, and finds
        this attempt's record complete.
        """
        limit = self._task.max_retries if max_retries is None else max_retries
        try:
            if limit is None or self.request.retries < limit:
                self._announce(exc, countdown, eta)
            return do()
        except Retry:
            if self._handler_ended:
                self._release()
            raise
        except BaseException as failure:
            if self._handler_ended and execution_of(self.request) is not None:
                self.finish(self._ended(Outcome.REJECTED) if isinstance(failure, Reject) else self._failure(failure))
            raise

    def finish(self, ended: Ended) -> None:
        """Write all that is left, and the outcome; afterwards nothing of this execution reaches the store.

        :raises Reject: this execution counts no more.
        :raises Ignore: the job is to end as cancelled: that is done.
        """
        with undisturbed():
            if execution_of(self.request) is None:
                return
            reply = self._reporter.flush(self.ctx, ended)
            if reply is not Reply.CANCELLED:
                self._release()
        if reply is Reply.CANCELLED:
            self._end_cancelled()
        if reply is Reply.SUPERSEDED:
            raise self._refused()

    def replaced(self) -> None:
        """Write all before another task takes over this job's id: it may begin at once."""
        self.finish(self._ended(Outcome.IGNORED))

    def _release(self) -> None:
        """Let go of the job; what is not stored yet is written."""
        with undisturbed():
            if vars(self.request).pop(_ATTRIBUTE, None) is not None:
                setattr(self.request, _RAN, True)
                self._reporter.flush(self.ctx)
                self._reporter.release(self.ctx)
                self.ctx.retire()

    @property
    def _is_cancelled(self) -> bool:
        """Whether it is to end as cancelled, as far as it has heard."""
        return self.ctx.signal.reason == "cancelled" and not (self._unaware and self._stop.is_gentle)

    def _returned(self, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._handler_ended = self._too_late = True
        self._arguments = args, kwargs
        if self._is_cancelled:
            self._end_cancelled()
        self.ctx.returned()
        self.finish(self._ended(Outcome.SUCCESS, own=True))
        return result

    def _raised(self, exc: BaseException, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
        """Record how the handler ended by raising, and raise what Celery is to see of it."""
        self._too_late = True
        self._arguments = args, kwargs
        if self._is_cancelled and isinstance(exc, Exception) and not isinstance(exc, Retry):
            self._handler_ended = True
            self._end_cancelled(exc)
        if isinstance(exc, RetryError):
            self._retry(exc)
        self._handler_ended = True
        if requeues(exc, self.ctx):
            self._requeue(exc)
        if isinstance(exc, JobAbortedError) and exc.reason == "timeout" and self.ctx.signal.reason == "timeout":
            # It stopped by itself when the limit came: for whoever looks at the outcome that is the same.
            limit = SoftTimeLimitExceeded()
            limit.__cause__ = exc
            exc = limit
        if isinstance(exc, Retry) or not isinstance(exc, Exception):
            self._release()  # of a process that is ending, what becomes of the job is not known here
        elif isinstance(exc, Ignore):
            self.finish(self._ended(Outcome.IGNORED, own=True))
        elif self._autoretries(exc):
            # Its `retry` ends this execution. Where a subclass's never calls ours, nothing outlives the request.
            finalize(self.request, self._reporter.release, self.ctx)
        elif isinstance(exc, Reject):
            self.finish(self._given_back(None) if exc.requeue else self._ended(Outcome.REJECTED))
        else:
            self.finish(self._failure(exc))
        raise exc

    def _end_cancelled(self, exc: BaseException | None = None) -> NoReturn:
        """Clean up, and end the job as cancelled.

        :raises Ignore: all is stored, or this execution counts no more.
        """
        task, ctx = self._task, self.ctx
        request = self.runtime.cancel_request(ctx.id)
        reason = request.reason if request is not None else ctx.signal.message
        try:
            # An interruption of `on_cancel` may come when it has just returned: that is no outcome of the job's.
            with suppress(JobCancelledError):
                self._stop.open_clean_up()
                # Its signal has fired, and is no reason to interrupt this: the grace that it has from now on is.
                clean_up(task, ctx, *self._arguments, partial(self._await, deaf=True))
        finally:
            self._stop.close()
        with undisturbed():
            reply = self._reporter.flush(ctx, self._ended(Outcome.REVOKED, reason or "", JobCancelledError.__name__))
            self._release()
        if request is not None:
            self._reporter.changes.cancelled(task.name, self.runtime.clock.time() - request.now_ms / 1000)
        if reply is Reply.SUPERSEDED:
            raise self._refused() from exc
        raise revoke(task, self.request, reason, "was cancelled, and has ended") from exc

    def _requeue(self, exc: BaseException) -> NoReturn:
        """Give the message back, no attempt used; where it was acknowledged early, send it anew."""
        reason = self.runtime.redactor.text(str(exc), "reason")[:REASON_CHARS]
        self.finish(self._given_back(reason))
        logger.info("job %s (%s) goes back into its queue, no attempt used: %s", self.ctx.id, self._task.name, reason)
        if not self._delivery.early:
            raise GivenBack(reason, requeue=True) from exc
        again = self._task.signature_from_request(self.request, retries=self.request.retries, countdown=0)
        again.apply_async()
        raise Ignore(reason) from exc

    def _retry(self, error: RetryError) -> NoReturn:
        # How it ends is known only after `schedule`: a message that cannot be made is a failure, not Celery's rejection.
        try:
            self._too_late = False
            self._own_lines.let_through()  # a broker may let us wait
            try:
                schedule(self._task, self.request, error, self.runtime.clock.time(), self.runtime.redactor)
            finally:
                self._own_lines.hold()
                self._too_late = True
        except (Retry, Ignore):
            self._release()
            raise
        except Reject:
            self.finish(self._ended(Outcome.REJECTED))
            raise
        except BaseException as failure:
            self.finish(self._failure(failure))
            raise
        raise AssertionError("a retry raises")

    def _autoretries(self, exc: Exception) -> bool:
        """Say whether Celery's autoretry, which is wrapped around this, will call ``retry`` for the exception."""
        task = self._task
        if not hasattr(task, "_orig_run") or isinstance(exc, JobStalledError):
            return False
        wanted, unwanted = tuple(task.autoretry_for), tuple(getattr(task, "dont_autoretry_for", ()))
        return isinstance(exc, wanted) and not isinstance(exc, unwanted)

    def _announce(self, exc: Any, countdown: Any, eta: Any) -> None:
        """Write down that this attempt ends in a retry.

        :raises Ignore: this execution counts no more, or the job is to end as cancelled: that is done.
        """
        if self._announced:
            return
        if self._inside and self._is_cancelled:  # it has heard; the store, which would refuse it, may be away
            raise JobCancelledError(self.ctx.id, self.ctx.signal.message)
        now = self.runtime.clock.time()
        delay = delay_of(self._task, countdown, eta, now)
        reason, error = reason_of(exc, self.runtime.redactor)
        keep = self._row(Outcome.RETRY, now, reason, error, delay, int((now + delay) * 1000))
        with self._stop.shield(), undisturbed():  # the handler may be at work: `self.retry`
            reply = self._reporter.flush(self.ctx, self._ended(Outcome.RETRY, reason, error, keep))
        if reply is Reply.CANCELLED and self._inside:
            request = self.runtime.cancel_request(self.ctx.id) or CancelRequest(self.ctx.id, 0)
            self._stop.cancel(request)
            self._unaware = False  # from here on it knows
            raise JobCancelledError(self.ctx.id, request.reason)  # the handler has called `self.retry`, and is to end first
        if reply is Reply.CANCELLED:
            self._end_cancelled()
        if reply is Reply.SUPERSEDED:
            if not self._inside:
                self._release()
            raise self._refused()
        self._announced = True  # what was refused is asked for again: a handler may have caught that, and retry once more

    def _failure(self, exc: BaseException) -> Ended:
        reason = self.runtime.redactor.text(text_of(exc), "reason")[:REASON_CHARS]
        return self._ended(Outcome.FAILURE, reason, type(exc).__name__, own=True)

    def _ended(
        self, state: str, reason: str | None = None, error: str | None = None, keep: AttemptRecord | None = None, *,
        own: bool = False,  # the handler's own doing, and the last
    ) -> Ended:  # fmt: skip
        at_ms, unaware = int(self.runtime.clock.time() * 1000), own and self._unaware
        return self._span.ended(Ended(state, at_ms, reason, error, keep, unaware))

    def _given_back(self, reason: str | None) -> Ended:
        """Return the end of a delivery whose message goes back: the next one has a record of its own."""
        return self._ended(Outcome.REJECTED, reason, keep=self._row(Outcome.REJECTED, self.runtime.clock.time(), reason))

    def _row(self, outcome: str, now: float, *how: Any) -> AttemptRecord:
        worker, started_ms, took = self._worker, int(self._started * 1000), round(now - self._started, 3)
        return AttemptRecord(self.ctx.attempt, self.ctx.delivery, worker, started_ms, outcome, took, *how)

    def _new_context(self) -> Context:
        task, request, conf, delivery = self._task, self.request, self.runtime.settings, self._delivery
        ctx = self.runtime.new_context(
            str(request.id), task.name, attempt_of(request.retries), hold=delivery.hold, checkpoint_limit=conf.checkpoint_bytes,
            time=self.runtime.clock.time, early=delivery.early, visibility=delivery.visibility, buffer_limit=conf.buffer_limit,
        )  # fmt: skip
        ctx.echo = task.taskora_logger
        ctx.open_sinks = sinks_opener(task, request, self.runtime.events, self._started)
        return ctx

    def _begin(self) -> Begun:
        """Register the delivery, and learn what is known of the job: at most one bounded round trip to the store.

        :raises Ignore: this delivery is not the one that counts.
        """
        task, request, delivery = self._task, self.request, self._delivery
        self._reporter.leases.parent = delivery.parent or None
        if delivery.is_doubtful(self._started) and not delivery.early:
            assert delivery.hold is not None
            if self._reporter.leases.ask(delivery.hold) in {Held.GONE, Held.TAKEN}:
                raise self._not_run("its message was put back, or delivered again, before it began")
        # A subclass's `__call__` may run the body twice: the same delivery goes on, its record is not begun anew.
        begin = delivery.begin(self.ctx, request, self._worker, self._started, self._span.trace_id, again=hasattr(request, _RAN))
        # Waited for, since a cancel is decided against it: who is told that a job will never run relies on that.
        begun = self._reporter.begin(self.ctx, begin)
        if begun is not None and begun.fence == Verdict.ENDED and not outcome_is_stored(task, request):
            begun = self._reporter.begin(self.ctx, msgspec.structs.replace(begin, anyway=True))
        if begun is None:
            begun = Begun(self.ctx.fence, 1, begin.now_ms)
        if begun.fence == Verdict.CANCELLED:
            raise revoke(task, request, reason_in(begun.cancel), "was cancelled before it began, and is not run")
        if begun.fence <= 0:
            verdict = Verdict(begun.fence)
            if verdict is not Verdict.SUPERSEDED:
                logger.info("job %s (%s): its message came again, and is dropped: %s", self.ctx.id, task.name, verdict.why)
                raise Ignore(verdict.why)
            raise self._not_run(verdict.why)
        timestamp = begin.created_ms or begun.created_ms
        info = JobInfo(max_attempts(task), begun.delivery, timestamp, self._deadline, begun.checkpoint, begun.attempts)
        self.ctx.inform(info, begun.fence)
        return begun

    def _not_run(self, why: str) -> Any:
        logger.warning("job %s (%s), attempt %d, is not run here: %s", self.ctx.id, self._task.name, self.ctx.attempt, why)
        return self._refused(why)

    def _refused(self, why: str = "it was delivered again, or given up") -> Any:
        self._span.superseded()
        return refused(why, self._delivery.hold, self.runtime.record(self.ctx.id))


def execution_of(request: Any) -> Execution | None:
    """Return the execution that a request belongs to, None outside one."""
    execution: Execution | None = vars(request).get(_ATTRIBUTE)
    return execution
