"""The shapes of progress: what ``ctx.progress`` takes, what a reader gets, and what the result backend shows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from taskora_celery.texts import duration_text, one_line

__all__ = ["LINE_CHARS", "Pace", "backend_meta", "numbers", "percent", "progress_line", "progress_value"]

#: A line of progress is cut to so many characters.
LINE_CHARS = 200
#: The keys of the common shape, which :func:`progress_value` makes.
_NUMBERS = ("current", "total", "percent")
_SHAPE = (*_NUMBERS, "message")


def progress_value(value: Any, total: Any = None, message: Any = None) -> Any:
    """Return what a reader gets: a value as reported; with a total or a message, an object with the percentage."""
    if total is None and message is None:
        return value
    shape = {"current": value, "total": total, "percent": percent(value, total)}
    if message:
        shape["message"] = message
    return shape


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


def numbers(value: Any) -> dict[str, Any]:
    """Return plain progress as ``current``, ``total``, ``percent`` and ``message``, as far as it has them.

    A plain number is a percentage, as in :func:`backend_meta`. What is neither a number nor text under these keys is left out.
    """
    if _is_number(value):
        return {"current": value, "total": 100, "percent": float(value)}
    if not isinstance(value, Mapping):
        return {}
    found = {key: value[key] for key in _NUMBERS if _is_number(value.get(key))}
    if value.get("message"):
        found["message"] = value["message"]
    if "percent" not in found and "current" in found and (share := percent(found["current"], found.get("total"))) is not None:
        found["percent"] = share
    return found


def progress_line(value: Any, *endings: str) -> str:
    """Return plain progress as one line for people, such as ``48% 12/25 rendering``, with ``endings`` behind it.

    At most :data:`LINE_CHARS` characters; the endings are kept.
    """
    known = numbers(value)
    if _is_number(value):
        words = [_share(known["percent"])]
    elif isinstance(value, Mapping):
        words = [_share(known["percent"])] if "percent" in known else []
        if "current" in known:
            words.append(f"{known['current']}/{known['total']}" if "total" in known else f"{known['current']}")
        words += [str(known["message"])] if "message" in known else []
        words += [f"{key}={item}" for key, item in value.items() if key not in _SHAPE]
    else:
        words = [] if value is None else [str(value)]
    tail = "".join(f" · {ending}" for ending in endings if ending)
    # A word is cut for itself: one that is a megabyte would be joined for nothing.
    return (one_line(" ".join(word[:LINE_CHARS] for word in words), LINE_CHARS - len(tail)) + tail).removeprefix(" · ")


@dataclass(slots=True)
class Pace:
    """How fast a job's percentage has grown since its first report, and so when it will be done.

    Not since the job's start: one that goes on from a checkpoint begins in the middle. Instants are monotonic seconds.
    """

    _first: tuple[float, float] | None = None

    def left(self, share: float | None, now: float) -> float | None:
        """Take a report in, and return the seconds that are left; None where that cannot be said."""
        if share is None:
            return None
        if self._first is None or share < self._first[1]:  # the first report, or a new round
            self._first = now, share
            return None
        at, before = self._first
        if now - at < 1.0 or share <= before or share >= 100.0:  # noqa: PLR2004 - a second, and all of it
            return None
        return (now - at) * (100.0 - share) / (share - before)

    def text(self, share: float | None, now: float) -> str:
        """Do as :meth:`left`, and return it in words: ``12 s left``; an empty text where it cannot be said."""
        left = self.left(share, now)
        return "" if left is None else f"{duration_text(left)} left"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e15 < value < 1e15  # noqa: PLR2004 - and finite


def _share(share: float) -> str:
    # Rounded down: what is not done is never shown as 100%.
    return f"{math.floor(share * 10) / 10:.10g}%"
