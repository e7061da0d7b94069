"""The shapes of progress: what ``ctx.progress`` takes, what a reader gets, and what the result backend shows."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["backend_meta", "percent", "progress_value", "tracked_total"]


def progress_value(value: Any, total: Any = None, message: Any = None) -> Any:
    """Return what a reader gets: a value as reported; with a total or a message, an object with the percentage."""
    if total is None and message is None:
        return value
    shape = {"current": value, "total": total, "percent": percent(value, total)}
    if message:
        shape["message"] = message
    return shape


def tracked_total(items: Iterable[Any], total: int | None, message: str | None, initial: int) -> tuple[int | None, str | None]:
    """Return the total of a loop, by its length where none is given, and its message; ``initial`` were done before."""
    if total is not None:
        return total, message
    left = operator.length_hint(items, -1)
    # An empty message says that this is a count all the same: a number alone would be a percentage.
    return (initial + left, message) if left >= 0 else (None, message or "")


def percent(current: Any, total: Any) -> float | None:
    """Return how far ``current`` is on the way to ``total``; None where that has no meaning."""
    try:
        share = 100.0 * current / total
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return round(share, 2) if isinstance(share, float) and math.isfinite(share) else None


def backend_meta(value: Any) -> Any:
    """Return plain progress as the result backend shows it (state ``PROGRESS``).

    A number appears with the keys that celery-progress and its kin read; an object appears as itself. NaN and infinities have
    no form in JSON and appear as text.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _finite(value)
    number = _finite(value)
    share = float(value) if math.isfinite(value) else None
    return {"progress": number, "current": number, "total": 100, "percent": share}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value
