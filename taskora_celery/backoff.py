"""When a job runs again after ``ctx.retry()``, and when a store that failed is asked again: pure functions."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["RetryPolicy", "outage_pause", "retry_delay"]

#: Celery's own default for ``retry_backoff_max``, in seconds.
DEFAULT_BACKOFF_MAX = 600.0
#: First and longest pause before a store that did not answer is asked again, in seconds.
OUTAGE_PAUSE_FIRST = 0.25
OUTAGE_PAUSE_MAX = 15.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """A task's retry options, under Celery's names."""

    default_retry_delay: float = 180.0
    #: Factor in seconds; 0 means that ``default_retry_delay`` is used.
    retry_backoff: float = 0.0
    #: Ceiling in seconds.
    retry_backoff_max: float = DEFAULT_BACKOFF_MAX
    #: Draw evenly between 0 and the computed delay.
    retry_jitter: bool = True


def retry_delay(policy: RetryPolicy, retries: int, rand: random.Random | None = None) -> float:
    """Return the seconds to wait before the next attempt, where ``ctx.retry`` was given no delay.

    ``retries`` is the number of retries before this one. The formula is the one that Celery documents for
    ``autoretry_for``: ``retry_backoff * 2 ** retries``, at most ``retry_backoff_max``, then full jitter.
    """
    if not policy.retry_backoff:
        return policy.default_retry_delay
    # Past 2**64 the ceiling has long been reached; the bound keeps the power from growing without end.
    delay = min(policy.retry_backoff_max, policy.retry_backoff * 2.0 ** min(retries, 64))
    if policy.retry_jitter:
        delay = (rand or random).uniform(0.0, delay)
    return max(0.0, delay)


def outage_pause(failures: int, rand: random.Random | None = None) -> float:
    """Return the seconds before the next try of a store that failed ``failures`` times in a row.

    Doubling with a ceiling and half of it at random, so that a fleet does not come back in one beat.
    """
    pause = min(OUTAGE_PAUSE_MAX, OUTAGE_PAUSE_FIRST * 2.0 ** min(max(failures - 1, 0), 32))
    return pause * (rand or random).uniform(0.5, 1.0)
