"""``ctx.retry``: from its arguments to the exception that is raised, and from there to a delay."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta, timezone

from taskora_celery.clock import seconds
from taskora_celery.encoding import CUT
from taskora_celery.errors import RetryError

__all__ = ["build_retry", "delay_until"]

#: A reason is for people. Celery stores it with the state, sends it to every waiter, and writes it into the worker's log.
REASON_CHARS = 8_192


def build_retry(
    delay: float | timedelta | None, reason: str | None, eta: datetime | None, exc: BaseException | None
) -> RetryError:
    """Return the exception for these arguments; see :meth:`taskora_celery.Context.retry`."""
    if delay is not None and eta is not None:
        raise ValueError(f"delay={delay!r} and eta={eta!r} exclude each other: give one")
    if eta is not None and not isinstance(eta, datetime):
        raise TypeError(f"eta={eta!r} is no datetime: give an aware one, or the seconds from now as delay")
    if eta is not None and eta.tzinfo is None:
        raise ValueError(f"eta={eta!r} has no time zone: give an aware datetime")
    wait = None if delay is None else seconds(delay, "delay")
    if reason is not None and not isinstance(reason, str):
        raise TypeError(f"reason={reason!r} is not a text")
    reason = None if reason is None else _bounded(reason)
    if exc is not None and not isinstance(exc, BaseException):
        raise TypeError(f"exc={exc!r} is not an exception: give its text as reason")
    if exc is None:
        exc = sys.exc_info()[1]
    cause = None if exc is None else _told(exc)
    error = RetryError(reason, wait, cause, eta=eta, exc=exc)
    error.__cause__ = exc
    return error


def _bounded(text: str) -> str:
    return text if len(text) <= REASON_CHARS else text[:REASON_CHARS] + CUT


def _told(exc: BaseException) -> str:
    try:
        return _bounded(f"{type(exc).__name__}: {exc}")
    except Exception:  # noqa: BLE001 - a user's __str__; the retry is what counts
        return type(exc).__name__


def delay_until(eta: datetime, now: float) -> float:
    """Return the seconds from ``now`` (seconds since the epoch) to ``eta``, 0 where it has passed."""
    return max(0.0, eta.astimezone(timezone.utc).timestamp() - now)
