"""One delivery of one job: begin, call the handler, finish, and nothing of it left behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from datetime import datetime
from typing import Any
from weakref import finalize

from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from kombu.exceptions import OperationalError

from taskora_celery.backoff import DEFAULT_BACKOFF_MAX, RetryPolicy, retry_delay
from taskora_celery.context import Context, JobInfo, activate, current_context, deactivate
from taskora_celery.errors import MaxRetriesExceededError, RetryError
from taskora_celery.injection import ContextParameter
from taskora_celery.local import LocalContext, local_context
from taskora_celery.records import AttemptRecord, Outcome
from taskora_celery.redaction import Redactor
from taskora_celery.results import sink_for
from taskora_celery.retry import delay_until
from taskora_celery.runtime import Runtime
from taskora_celery.store.journal import STATE
from taskora_celery.store.protocol import Begin, Begun, Ended
from taskora_celery.undisturbed import undisturbed

__all__ = ["CREATED_HEADER", "Execution", "Handler", "eager_contexts", "execute", "execution_of", "retrying_locally"]

#: The publisher's stamp: when the job was created, in milliseconds since the epoch.
CREATED_HEADER = "taskora_created"
#: Where a running request keeps its execution; requests are Celery's place for what belongs to one delivery.
_ATTRIBUTE = "taskora_execution"
#: Marks a request whose body has run.
_RAN = "taskora_ran"
#: Instants beyond the year 2200 are no creation times; ``datetime`` has an end, too.
_LAST_MS = 7_258_118_400_000
#: A reason or an error's text is cut to so many characters in records.
_REASON_CHARS = 500

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
        max_attempts=_max_attempts(task),
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
        _schedule(task, request, error)
    finally:
        deactivate(token)


def retrying_locally(task: Any, do: Callable[[], Any], exc: Any, countdown: Any, eta: Any) -> Any:
    """Record a retry around Celery's own ``Task.retry`` in an eager run."""
    try:
        return do()
    except Retry:
        collected = eager_contexts.get()
        if collected:
            reason, error = _reason(exc, Redactor())
            collected[-1].retried(reason, error, _delay(task, countdown, eta, time.time()))
        raise


class Execution:
    """One delivery of a tracked job. Used by the thread that runs the handler."""

    __slots__ = (
        "_announced",
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
        """Register the delivery with the store: one round trip, bounded; without a store the job runs all the same."""
        runtime.prepare()
        self.runtime = runtime
        self.request = request
        self._task = task
        self._reporter = runtime.reporter
        self._started = time.time()
        self._worker = request.hostname or ""
        self._announced = False
        self._handler_ended = False
        self.ctx = self._new_context()
        with undisturbed():
            self._begin()
            setattr(request, _ATTRIBUTE, self)

    def run(self, handler: Handler, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the handler, and record how it ended before Celery does: who sees the outcome can read the whole record."""
        token = activate(self.ctx)
        try:
            result = handler.call(self._task, self.ctx, args, kwargs)
        except RetryError as error:
            self._retry(error)
        except BaseException as exc:
            self._handler_ended = True
            self._raised(exc)
            raise
        else:
            self._handler_ended = True
            # A soft limit that was reached in our own lines came too late: the handler has its result.
            with suppress(SoftTimeLimitExceeded):
                self.finish(self._ended(Outcome.SUCCESS))
            return result
        finally:
            deactivate(token)

    def retrying(self, do: Callable[[], Any], max_retries: int | None, exc: Any, countdown: Any, eta: Any) -> Any:
        """Record a retry around Celery's own ``Task.retry``, whoever called it: ``ctx.retry``, the handler, or autoretry.

        Recorded before the message of the next attempt is sent: with no delay another worker may begin it at once, and finds
        this attempt's record complete.
        """
        limit = self._task.max_retries if max_retries is None else max_retries
        if limit is None or self.request.retries < limit:
            self._announce(exc, countdown, eta)
        try:
            result = do()
        except Retry:
            if self._handler_ended:
                self.finish(None)
            raise
        except BaseException as failure:
            if self._handler_ended:
                self.finish(self._ended(Outcome.REJECTED) if isinstance(failure, Reject) else self._failure(failure))
            raise
        return result

    def finish(self, ended: Ended | None) -> None:
        """Write all that is left, and the outcome; afterwards nothing of this execution reaches the store."""
        with undisturbed():
            if vars(self.request).pop(_ATTRIBUTE, None) is None:
                return
            setattr(self.request, _RAN, True)
            try:
                self._reporter.flush(self.ctx, ended)
            finally:
                self._reporter.release(self.ctx)
                self.ctx.retire()

    def replaced(self) -> None:
        """Write all before another task takes over this job's id: it may begin at once."""
        self.finish(self._ended(Outcome.IGNORED))

    def _new_context(self) -> Context:
        task, request, settings = self._task, self.request, self.runtime.settings
        # Also where it is acknowledged early: in a solo worker that waits until the job has ended.
        tag = (request.properties or {}).get("delivery_tag")
        ctx = Context(
            str(request.id), task.name, request.retries + 1, time=self.runtime.clock.time, buffer_limit=settings.buffer_limit,
            checkpoint_limit=settings.checkpoint_bytes, tag=tag,
        )  # fmt: skip
        ctx.echo = task.taskora_logger
        ctx.sink = sink_for(task, request)
        return ctx

    def _begin(self) -> None:
        task, request = self._task, self.request
        now_ms = int(self._started * 1000)
        created = _stamped(request)
        # A subclass's `__call__` may run the body twice: the same delivery goes on, its record is not begun anew.
        redelivered = bool((request.delivery_info or {}).get("redelivered")) or hasattr(request, _RAN)
        begin = Begin(
            self.ctx.id, task.name, self.ctx.attempt, self._worker, created or now_ms, now_ms, redelivered=redelivered
        )  # fmt: skip
        # A first delivery has no history to wait for: it registers with what it reports first, behind the handler's back.
        again = redelivered or begin.attempt > 1 or not self.runtime.marks_redelivery
        begun = self._reporter.begin(self.ctx, begin, wait=again)
        if begun is None:
            begun = Begun(self.ctx.fence, 1, begin.created_ms)
        timestamp = created or begun.created_ms
        info = JobInfo(_max_attempts(task), begun.delivery, timestamp, self._deadline(), begun.checkpoint, begun.attempts)
        self.ctx.inform(info, begun.fence)

    def _deadline(self) -> float | None:
        hard, soft = self.request.timelimit or (None, None)
        limit = soft or self._task.soft_time_limit or hard or self._task.time_limit
        return self._started + limit if limit else None

    def _retry(self, error: RetryError) -> None:
        # How it ends is known only behind `_schedule`: a message that cannot be made is a failure, not Celery's rejection.
        try:
            _schedule(self._task, self.request, error)
        except Retry:
            self.finish(None)
            raise
        except Reject:
            self.finish(self._ended(Outcome.REJECTED))
            raise
        except BaseException as failure:
            self.finish(self._failure(failure))
            raise

    def _raised(self, exc: BaseException) -> None:
        if isinstance(exc, Retry):
            self.finish(None)
        elif isinstance(exc, Ignore):
            self.finish(self._ended(Outcome.IGNORED))
        elif not isinstance(exc, Exception):
            self.finish(None)  # the process is ending: what becomes of the job is not known here
        elif self._autoretries(exc):
            # Its `retry` ends this execution. Where a subclass's never calls ours, nothing outlives the request.
            finalize(self.request, self._reporter.release, self.ctx)
        elif isinstance(exc, Reject):
            self.finish(self._ended(Outcome.REJECTED))
        else:
            self.finish(self._failure(exc))

    def _autoretries(self, exc: Exception) -> bool:
        """Say whether Celery's autoretry, which is wrapped around this, will call ``retry`` for the exception."""
        task = self._task
        if not hasattr(task, "_orig_run"):
            return False
        wanted, unwanted = tuple(task.autoretry_for), tuple(getattr(task, "dont_autoretry_for", ()))
        return isinstance(exc, wanted) and not isinstance(exc, unwanted)

    def _announce(self, exc: Any, countdown: Any, eta: Any) -> None:
        if self._announced:
            return
        self._announced = True
        now = self.runtime.clock.time()
        delay = _delay(self._task, countdown, eta, now)
        reason, error = _reason(exc, self.runtime.redactor)
        keep = AttemptRecord(
            self.ctx.attempt, self.ctx.delivery, self._worker, int(self._started * 1000), Outcome.RETRY,
            round(now - self._started, 3), reason, error, delay, int((now + delay) * 1000),
        )  # fmt: skip
        data = {"state": Outcome.RETRY, "reason": reason, "error": error, "delay": delay, "next_ms": keep.next_ms}
        self.ctx.logs.append((STATE, now, data, None, None))
        self._reporter.flush(self.ctx, self._ended(Outcome.RETRY, reason, error, keep))

    def _failure(self, exc: BaseException) -> Ended:
        reason = self.runtime.redactor.text(_text(exc), "reason")[:_REASON_CHARS]
        return self._ended(Outcome.FAILURE, reason, type(exc).__name__)

    def _ended(self, state: str, reason: str | None = None, error: str | None = None, keep: AttemptRecord | None = None) -> Ended:
        return Ended(state, int(self.runtime.clock.time() * 1000), reason, error, keep)


def _delay(task: Any, countdown: Any, eta: Any, now: float) -> float:
    if isinstance(eta, datetime):
        return delay_until(eta if eta.tzinfo else eta.replace(tzinfo=task.app.timezone), now)
    return float(task.default_retry_delay if countdown is None else countdown)


def _reason(exc: Any, redactor: Redactor) -> tuple[str | None, str | None]:
    """Return why a job is retried, redacted, and the class of the exception that is the cause; each may be None."""
    if isinstance(exc, RetryError):
        cause = exc.exc
        reason = exc.reason or exc.cause
    else:
        cause = exc
        reason = None if exc is None else _text(exc)
    error = type(cause).__name__ if isinstance(cause, BaseException) else None
    return (None if reason is None else redactor.text(reason, "reason")[:_REASON_CHARS]), error


def _stamped(request: Any) -> int:
    """Return the publisher's stamp, 0 where there is none that makes sense."""
    created = getattr(request, CREATED_HEADER, None)
    return created if type(created) is int and 0 < created < _LAST_MS else 0


def _text(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception:  # noqa: BLE001 - a user's __str__
        return type(exc).__name__


def _max_attempts(task: Any) -> int | None:
    limit = _max_retries(task)
    return None if limit is None else limit + 1


def _max_retries(task: Any) -> int | None:
    """Return the limit that Celery's autoretry goes by where the task has one: both roads to a retry end at the same place."""
    limit: int | None = None
    if hasattr(task, "_orig_run"):
        limit = getattr(task, "override_max_retries", None)
        if limit is None:
            limit = getattr(task, "retry_kwargs", {}).get("max_retries")
    return task.max_retries if limit is None else limit


def _schedule(task: Any, request: Any, error: RetryError) -> None:
    """Turn ``raise ctx.retry(…)`` into Celery's retry; raises in any case.

    :raises Retry: the next attempt's message is sent.
    :raises MaxRetriesExceededError: there is no next attempt.
    """
    limit = _max_attempts(task)
    if limit is not None and request.retries + 1 >= limit:
        why = f": {error.reason}" if error.reason else ""
        failure = MaxRetriesExceededError(
            f"{task.name}[{request.id}] failed in attempt {request.retries + 1} of {limit}{why}", error.reason
        )
        raise failure from (error.exc or error)
    countdown = error.delay
    if countdown is None and error.eta is None:
        countdown = retry_delay(_policy(task), request.retries)
    now = time.time()
    delay = delay_until(error.eta, now) if error.eta is not None else float(countdown or 0.0)
    told = RetryError(
        error.reason, round(delay, 3), error.cause, request.retries + 1, int((now + delay) * 1000), eta=error.eta, exc=error.exc
    )  # fmt: skip
    told.__cause__ = error.exc
    limits = {} if _max_retries(task) == task.max_retries else {"max_retries": _max_retries(task)}
    try:
        task.retry(exc=told, countdown=countdown, eta=error.eta, **limits)
    except Reject as rejected:
        # Celery drops the message when the next attempt's cannot be sent. Where the broker is away it is ours to give back;
        # where the message itself cannot be made (arguments that were changed), it never could be.
        if task.acks_late and isinstance(rejected.reason, OperationalError | OSError):
            raise Reject(rejected.reason, requeue=True) from error
        if isinstance(rejected.reason, BaseException):
            raise rejected.reason from error
        raise


def _policy(task: Any) -> RetryPolicy:
    return RetryPolicy(
        float(task.default_retry_delay or 0),
        float(getattr(task, "retry_backoff", False) or 0),
        float(getattr(task, "retry_backoff_max", DEFAULT_BACKOFF_MAX)),
        bool(getattr(task, "retry_jitter", True)),
    )
