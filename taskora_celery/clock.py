"""Time: one source that tests can replace, and one unit (float seconds) for durations.

Instants on the wire are integer milliseconds since the epoch, UTC; a name that ends in ``_ms`` holds one.
"""

from __future__ import annotations

import math
import time
from datetime import datetime, timedelta, timezone
from typing import Protocol

__all__ = ["SYSTEM_CLOCK", "Clock", "in_seconds", "instant", "seconds"]


class Clock(Protocol):
    """Where the time comes from."""

    def time(self) -> float:
        """Seconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds of a clock that never goes back; only differences mean something."""


class _SystemClock:
    """The machine's clocks, as the functions of the standard library themselves: no call in between."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)


SYSTEM_CLOCK: Clock = _SystemClock()


def in_seconds(value: float | timedelta) -> float:
    """Return a duration in seconds, unchecked: where a negative one means that the time is over."""
    return value.total_seconds() if isinstance(value, timedelta) else value


def seconds(value: float | timedelta, name: str) -> float:
    """Return a duration as float seconds; a ``timedelta`` is accepted.

    :raises TypeError: ``value`` is no number and no ``timedelta``.
    :raises ValueError: ``value`` is negative, NaN or infinite.
    """
    value = in_seconds(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}={value!r} is not a duration: give seconds or a timedelta")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"{name}={number!r} is not a duration: give 0 or more seconds")
    return number


#: The end of the year 9998, in any time zone: a damaged record may say anything.
_LAST_MS = 253_370_764_800_000


def instant(ms: int) -> datetime:
    """Return the aware UTC ``datetime`` of an instant in milliseconds; of one that no calendar has, the nearest it has."""
    return datetime.fromtimestamp(min(max(ms, 0), _LAST_MS) / 1000, timezone.utc)
