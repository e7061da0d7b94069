"""One delivery of one job: begin, call the handler, finish, and nothing of it left behind."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any
from weakref import finalize

import msgspec
from celery import states
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from taskora_celery.context import Context, JobInfo, activate, current_context, deactivate
from taskora_celery.delivery import Delivery
from taskora_celery.errors import JobStalledError, RetryError, StoreUnavailableError
from taskora_celery.injection import ContextParameter
from taskora_celery.lease.protocol import Held
from taskora_celery.local import LocalContext, local_context
from taskora_celery.reading import last_words
from taskora_celery.records import AttemptRecord, Outcome
from taskora_celery.redaction import Redactor
from taskora_celery.results import sink_for
from taskora_celery.runtime import Runtime
from taskora_celery.scheduling import REASON_CHARS, delay_of, max_attempts, reason_of, schedule, text_of
from taskora_celery.store.journal import STATE
from taskora_celery.store.protocol import Begin, Begun, Ended, Verdict
from taskora_celery.undisturbed import undisturbed

__all__ = ["CREATED_HEADER", "Execution", "Handler", "eager_contexts", "execute", "execution_of", "retrying_locally", "stamp_of"]

logger = logging.getLogger("taskora_celery.execution")

#: The publisher's stamp: when the job was created, in milliseconds since the epoch.
CREATED_HEADER = "taskora_created"
#: Where a running request keeps its execution; requests are Celery's place for what belongs to one delivery.
_ATTRIBUTE = "taskora_execution"
#: Marks a request whose body has run.
_RAN = "taskora_ran"
#: Instants beyond the year 2200 are no creation times; ``datetime`` has an end, too.
_LAST_MS = 7_258_118_400_000
#: Why a delivery does not run its job.
_VERDICTS = {
    Verdict.SUPERSEDED: "a later delivery has it",
    Verdict.ENDED: "its outcome is stored already",
    Verdict.RETRIED: "its retry has begun",
}

#: Collects the contexts of eager runs, for the handle that ``apply()`` returns.
eager_contexts: ContextVar[list[LocalContext] | None] = ContextVar("taskora_eager_contexts", default=None)


class Handler:
    """The user's function, and where it takes the context."""

    __slots__ = ("fun", "parameter", "takes_self")

    def __init__(self, fun: Callable[..., Any], parameter: ContextParameter | None, *, takes_self: bool) -> None:
        self.fun = fun
        self.parameter = parameter
        self.takes_self = takes_self

    def given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Context | None:
        """Return the context that a direct caller passed, if any."""
        return None if self.parameter is None else self.parameter.given(args, kwargs)

    def call(self, task: Any, ctx: Context | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the function with the context filled in."""
        if self.parameter is not None:
            args, kwargs = self.parameter.fill(args, kwargs, ctx)
        return self.fun(task, *args, **kwargs) if self.takes_self else self.fun(*args, **kwargs)


def execute(task: Any, handler: Handler, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a task's body in the way that its request asks for: a job, an eager run, a direct call, or a nested one."""
    if not task.tracked:  # a subclass or the configuration switched it off, after the handler was wrapped
        return handler.call(task, None, args, kwargs)
    request = task.request
    current = current_context(None)
    # `super().run(…)`, or another task called directly inside this job: the same job, the same context.
    if (
        current is not None
        and (request.called_directly or request.id == current.id)
        and handler.given(args, kwargs) in (None, current)
    ):
        return handler.call(task, current, args, kwargs)
    if request.called_directly or request.is_eager:
        return _run_local(task, request, handler, args, kwargs)
    runtime = Runtime.of(task.app)
    if handler.parameter is None and runtime.settings.track == "context":
        return handler.call(task, None, args, kwargs)
    return Execution(task, request, runtime).run(handler, args, kwargs)


def execution_of(request: Any) -> Execution | None:
    """Return the execution that a request belongs to, None outside one."""
    execution: Execution | None = vars(request).get(_ATTRIBUTE)
    return execution


def _run_local(task: Any, request: Any, handler: Handler, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    collected = eager_contexts.get() if request.is_eager else None
    ctx = handler.given(args, kwargs) or local_context(
        task.name,
        request.id,
        attempt=request.retries + 1,
        max_attempts=max_attempts(task),
        before=collected[-1] if collected else None,
    )
    if collected is not None and isinstance(ctx, LocalContext):
        collected.append(ctx)
    token = activate(ctx)
    try:
        return handler.call(task, ctx, args, kwargs)
    except RetryError as error:
        if request.called_directly:
            raise
        schedule(task, request, error)
    finally:
        deactivate(token)


def retrying_locally(task: Any, do: Callable[[], Any], exc: Any, countdown: Any, eta: Any) -> Any:
    """Record a retry around Celery's own ``Task.retry`` in an eager run."""
    try:
        return do()
    except Retry:
        collected = eager_contexts.get()
        if collected:
            reason, error = reason_of(exc, Redactor())
            collected[-1].retried(reason, error, delay_of(task, countdown, eta, time.time()))
        raise


class Execution:
    """One delivery of a tracked job. Used by the thread that runs the handler."""

    __slots__ = (
        "_announced",
        "_delivery",
        "_handler_ended",
        "_reporter",
        "_started",
        "_task",
        "_worker",
        "ctx",
        "request",
        "runtime",
    )

    def __init__(self, task: Any, request: Any, runtime: Runtime) -> None:
        runtime.prepare()
        self.runtime = runtime
        self.request = request
        self._task = task
        self._reporter = runtime.reporter
        self._started = time.time()
        self._worker = request.hostname or ""
        self._announced = False
        self._handler_ended = False
        self._delivery = Delivery.of(task, request)
        self.ctx = self._new_context()

    def run(self, handler: Handler, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the handler, and record how it ended before Celery does: who sees the outcome can read the whole record.

        :raises Ignore: this delivery is not the one that counts; Celery stores nothing of it, and its acknowledgement is refused.
        :raises JobStalledError: the job was lost or stalled too often.
        """
        with undisturbed():
            begun = self._begin()
            setattr(self.request, _ATTRIBUTE, self)
        token = activate(self.ctx)
        try:
            self._check_stalls(begun)
            result = handler.call(self._task, self.ctx, args, kwargs)
        except RetryError as error:
            self._retry(error)
        except BaseException as exc:
            self._handler_ended = True
            if not self._raised(exc):
                raise self._refused() from exc
            raise
        else:
            self._handler_ended = True
            counts = True
            # A soft limit that was reached in our own lines came too late: the handler has its result.
            with suppress(SoftTimeLimitExceeded):
                counts = self.finish(self._ended(Outcome.SUCCESS))
            if not counts:
                raise self._refused()
            return result
        finally:
            deactivate(token)

    def retrying(self, do: Callable[[], Any], max_retries: int | None, exc: Any, countdown: Any, eta: Any) -> Any:
        """Record a retry around Celery's own ``Task.retry``, whoever called it: ``ctx.retry``, the handler, or autoretry.

        Recorded before the message of the next attempt is sent: with no delay another worker may begin it at once, and finds
        this attempt's record complete.
        """
        limit = self._task.max_retries if max_retries is None else max_retries
        if (limit is None or self.request.retries < limit) and not self._announce(exc, countdown, eta):
            if self._handler_ended:
                self.finish(None)
            raise self._refused()
        try:
            result = do()
        except Retry:
            if self._handler_ended:
                self.finish(None)
            raise
        except BaseException as failure:
            if self._handler_ended:
                counts = self.finish(self._ended(Outcome.REJECTED) if isinstance(failure, Reject) else self._failure(failure))
                if not counts:
                    raise self._refused() from failure
            raise
        return result

    def finish(self, ended: Ended | None) -> bool:
        """Write all that is left, and the outcome; afterwards nothing of this execution reaches the store.

        Return False where this execution counts no more: the job was delivered again, or given up.
        """
        with undisturbed():
            if vars(self.request).pop(_ATTRIBUTE, None) is None:
                return True
            setattr(self.request, _RAN, True)
            try:
                return self._reporter.flush(self.ctx, ended, check=ended is not None and self._delivery.is_doubtful())
            finally:
                self._reporter.release(self.ctx)
                self.ctx.retire()

    def replaced(self) -> None:
        """Write all before another task takes over this job's id: it may begin at once."""
        self.finish(self._ended(Outcome.IGNORED))

    def _new_context(self) -> Context:
        task, request, settings, delivery = self._task, self.request, self.runtime.settings, self._delivery
        ctx = Context(
            str(request.id), task.name, request.retries + 1, time=self.runtime.clock.time, buffer_limit=settings.buffer_limit,
            checkpoint_limit=settings.checkpoint_bytes, hold=delivery.hold, early=delivery.early, visibility=delivery.visibility,
        )  # fmt: skip
        ctx.echo = task.taskora_logger
        ctx.sink = sink_for(task, request)
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
                raise self._refused("its message was put back, or delivered again, before it began")
        now_ms = int(self._started * 1000)
        created = stamp_of(getattr(request, CREATED_HEADER, None))
        # A subclass's `__call__` may run the body twice: the same delivery goes on, its record is not begun anew.
        ran = hasattr(request, _RAN)
        redelivered = bool((request.delivery_info or {}).get("redelivered")) or ran
        begin = Begin(
            self.ctx.id, task.name, self.ctx.attempt, self._worker, created, now_ms, redelivered=redelivered,
            tag=delivery.hold.tag if delivery.hold else "", token=delivery.hold.token if delivery.hold else 0, anyway=ran,
        )  # fmt: skip
        # A first delivery has no history to wait for: it registers with what it reports first, behind the handler's back.
        again = redelivered or begin.attempt > 1 or not self.runtime.marks_redelivery
        begun = self._reporter.begin(self.ctx, begin, wait=again)
        if begun is not None and begun.fence == Verdict.ENDED and not self._outcome_is_stored():
            begun = self._reporter.begin(self.ctx, msgspec.structs.replace(begin, anyway=True), wait=True)
        if begun is None:
            begun = Begun(self.ctx.fence, 1, now_ms)
        if begun.fence <= 0:
            raise self._refused(_VERDICTS[Verdict(begun.fence)])
        timestamp = created or begun.created_ms
        info = JobInfo(max_attempts(task), begun.delivery, timestamp, self._deadline(), begun.checkpoint, begun.attempts)
        self.ctx.inform(info, begun.fence)
        return begun

    def _outcome_is_stored(self) -> bool:
        """Say whether the result backend has the outcome that the record has: then nothing is left to be done.

        A member of a chord runs again all the same: its worker may have died after the result and before the chord was told.
        """
        if self.request.chord or self._task.ignore_result:
            return False
        try:
            return self._task.backend.get_state(self.ctx.id) in states.READY_STATES
        except Exception:  # noqa: BLE001 - any backend's error; to run once more is the safe answer
            return False

    def _check_stalls(self, begun: Begun) -> None:
        limit = self._task.max_stalls
        if limit is None or begun.stalls <= limit:
            return
        before = begun.attempts[-1] if begun.attempts else None
        progress: Any = None
        logs: tuple[str, ...] = ()
        with suppress(StoreUnavailableError):
            progress, logs = last_words(None if self.runtime.store is None else self.runtime.store.read(self.ctx.id, 0))
        raise JobStalledError(
            self.ctx.id, begun.stalls, limit, before.worker if before else "", before.reason if before else None, progress, logs
        )  # fmt: skip

    def _refused(self, why: str = "it was delivered again, or given up") -> Ignore:
        logger.warning("job %s (%s), attempt %d: not run, or its outcome refused, here: %s", self.ctx.id, self._task.name,
                       self.ctx.attempt, why)  # fmt: skip
        return Ignore(why)

    def _deadline(self) -> float | None:
        hard, soft = self.request.timelimit or (None, None)
        limit = soft or self._task.soft_time_limit or hard or self._task.time_limit
        return self._started + limit if limit else None

    def _retry(self, error: RetryError) -> None:
        # How it ends is known only behind `schedule`: a message that cannot be made is a failure, not Celery's rejection.
        try:
            schedule(self._task, self.request, error)
        except (Retry, Ignore):
            self.finish(None)
            raise
        except Reject as rejected:
            if not self.finish(self._ended(Outcome.REJECTED)):
                raise self._refused() from rejected
            raise
        except BaseException as failure:
            if not self.finish(self._failure(failure)):
                raise self._refused() from failure
            raise

    def _raised(self, exc: BaseException) -> bool:
        """Record how the handler ended by raising; False where this execution counts no more."""
        if isinstance(exc, Retry):
            return self.finish(None)
        if isinstance(exc, Ignore):
            return self.finish(self._ended(Outcome.IGNORED))
        if not isinstance(exc, Exception):
            return self.finish(None)  # the process is ending: what becomes of the job is not known here
        if self._autoretries(exc):
            # Its `retry` ends this execution. Where a subclass's never calls ours, nothing outlives the request.
            finalize(self.request, self._reporter.release, self.ctx)
            return True
        if isinstance(exc, Reject):
            return self.finish(self._ended(Outcome.REJECTED))
        return self.finish(self._failure(exc))

    def _autoretries(self, exc: Exception) -> bool:
        """Say whether Celery's autoretry, which is wrapped around this, will call ``retry`` for the exception."""
        task = self._task
        if not hasattr(task, "_orig_run") or isinstance(exc, JobStalledError):
            return False
        wanted, unwanted = tuple(task.autoretry_for), tuple(getattr(task, "dont_autoretry_for", ()))
        return isinstance(exc, wanted) and not isinstance(exc, unwanted)

    def _announce(self, exc: Any, countdown: Any, eta: Any) -> bool:
        """Write down that this attempt ends in a retry; False where this execution counts no more."""
        if self._announced:
            return True
        self._announced = True
        now = self.runtime.clock.time()
        delay = delay_of(self._task, countdown, eta, now)
        reason, error = reason_of(exc, self.runtime.redactor)
        keep = AttemptRecord(
            self.ctx.attempt, self.ctx.delivery, self._worker, int(self._started * 1000), Outcome.RETRY,
            round(now - self._started, 3), reason, error, delay, int((now + delay) * 1000),
        )  # fmt: skip
        data = {"state": Outcome.RETRY, "reason": reason, "error": error, "delay": delay, "next_ms": keep.next_ms}
        self.ctx.logs.append((STATE, now, data, None, None))
        return self._reporter.flush(self.ctx, self._ended(Outcome.RETRY, reason, error, keep))

    def _failure(self, exc: BaseException) -> Ended:
        reason = self.runtime.redactor.text(text_of(exc), "reason")[:REASON_CHARS]
        return self._ended(Outcome.FAILURE, reason, type(exc).__name__)

    def _ended(self, state: str, reason: str | None = None, error: str | None = None, keep: AttemptRecord | None = None) -> Ended:
        return Ended(state, int(self.runtime.clock.time() * 1000), reason, error, keep)


def stamp_of(created: Any) -> int:
    """Return the publisher's stamp, 0 where there is none that makes sense."""
    return created if type(created) is int and 0 < created < _LAST_MS else 0
