"""From a wish to run again to Celery's retry: how long it waits, why, and whether it may."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from celery.exceptions import Reject
from kombu.exceptions import OperationalError

from taskora_celery.backoff import DEFAULT_BACKOFF_MAX, RetryPolicy, retry_delay
from taskora_celery.errors import MaxRetriesExceededError, RetryError
from taskora_celery.redaction import Redactor
from taskora_celery.retry import delay_until

__all__ = ["REASON_CHARS", "delay_of", "limits_of", "max_attempts", "max_retries_of", "reason_of", "schedule", "text_of"]

#: A reason or an error's text is cut to so many characters in records.
REASON_CHARS = 500


def delay_of(task: Any, countdown: Any, eta: Any, now: float) -> float:
    """Return the seconds until a retry with these options of Celery's."""
    if isinstance(eta, datetime):
        return delay_until(eta if eta.tzinfo else eta.replace(tzinfo=task.app.timezone), now)
    return float(task.default_retry_delay if countdown is None else countdown)


def reason_of(exc: Any, redactor: Redactor) -> tuple[str | None, str | None]:
    """Return why a job is retried, redacted, and the class of the exception that is the cause; each may be None."""
    if isinstance(exc, RetryError):
        cause = exc.exc
        reason = exc.reason or exc.cause
    else:
        cause = exc
        reason = None if exc is None else text_of(exc)
    error = type(cause).__name__ if isinstance(cause, BaseException) else None
    return (None if reason is None else redactor.text(reason, "reason")[:REASON_CHARS]), error


def text_of(exc: BaseException) -> str:
    """Return an exception's text, or its class's name where the text cannot be made."""
    try:
        return str(exc)
    except Exception:  # noqa: BLE001 - a user's __str__
        return type(exc).__name__


def max_attempts(task: Any) -> int | None:
    """Return how often a job may be tried, None for any number of times."""
    limit = max_retries_of(task)
    return None if limit is None else limit + 1


def max_retries_of(task: Any) -> int | None:
    """Return the limit that Celery's autoretry goes by where the task has one: both roads to a retry end at the same place."""
    limit: int | None = None
    if hasattr(task, "_orig_run"):
        limit = getattr(task, "override_max_retries", None)
        if limit is None:
            limit = getattr(task, "retry_kwargs", {}).get("max_retries")
    return task.max_retries if limit is None else limit


def schedule(task: Any, request: Any, error: RetryError, now: float, redactor: Redactor) -> None:
    """Turn ``raise ctx.retry(…)`` into Celery's retry; raises in any case. ``now`` is in seconds since the epoch.

    From here on ``error`` shows no secrets: Celery writes its text into its log, its state, its event and its traceback.

    :raises Retry: the next attempt's message is sent.
    :raises MaxRetriesExceededError: there is no next attempt.
    """
    error.reason, error.cause = (None if text is None else redactor.text(text, "reason") for text in (error.reason, error.cause))
    limit = max_attempts(task)
    if limit is not None and request.retries + 1 >= limit:
        why = f": {error.reason}" if error.reason else ""
        failure = MaxRetriesExceededError(
            f"{task.name}[{request.id}] failed in attempt {request.retries + 1} of {limit}{why}", error.reason
        )
        raise failure from (error.exc or error)
    countdown = error.delay
    if countdown is None and error.eta is None:
        countdown = retry_delay(_policy(task), request.retries)
    delay = delay_until(error.eta, now) if error.eta is not None else float(countdown or 0.0)
    told = RetryError(
        error.reason, round(delay, 3), error.cause, request.retries + 1, int((now + delay) * 1000), eta=error.eta, exc=error.exc
    )  # fmt: skip
    told.__cause__ = error.exc
    limits = {} if max_retries_of(task) == task.max_retries else {"max_retries": max_retries_of(task)}
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


def limits_of(task: Any, request: Any) -> tuple[float | None, float | None]:
    """Return the soft and the hard time limit of a job in seconds, None where there is none."""
    hard, soft = request.timelimit or (None, None)
    return soft or task.soft_time_limit, hard or task.time_limit
