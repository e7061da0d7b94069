"""Durations and instants, as people type them and as they are shown to people and programs."""

from __future__ import annotations

import re

from taskora_celery.clock import instant

__all__ = ["age", "clock", "moment", "parse_duration"]

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)", re.ASCII)
#: What is longer is a slip, and no clock can add it.
_LONGEST = 36_500 * 86_400.0
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+|\d+(?:\.\d+)?", re.ASCII)
#: Up to twice a unit, the smaller one says more.
_STEPS = ((120, 1, "s"), (7_200, 60, "m"), (172_800, 3_600, "h"))


def parse_duration(text: str) -> float:
    """Return the seconds of ``90s``, ``10m``, ``2h``, ``1d``, ``1h30m``; a number alone is in seconds.

    :raises ValueError: it is none of these, or longer than a hundred years.
    """
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is no duration: write 90s, 10m, 2h or 1d")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    if seconds > _LONGEST:
        raise ValueError(f"{text[:20]!r} is more than a hundred years: write 90s, 10m, 2h or 1d")
    return seconds


def age(seconds: float) -> str:
    """Return a duration in one short word: ``12s``, ``2m``, ``5h``, ``3d``; a negative one (clocks differ) is ``0s``."""
    whole = max(int(seconds), 0)
    for below, unit, name in _STEPS:
        if whole < below:
            return f"{whole // unit}{name}"
    return f"{whole // 86_400}d"


def moment(ms: int) -> str:
    """Return an instant as RFC 3339 in UTC, to the millisecond."""
    return instant(ms).strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1000:03d}Z"


def clock(ms: int) -> str:
    """Return an instant for people: in UTC, to the second."""
    return instant(ms).strftime("%Y-%m-%d %H:%M:%SZ")
