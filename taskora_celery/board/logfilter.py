"""Which lines of a job's log are wanted, on its page and in the download. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from taskora_celery.board.pages import FilterError
from taskora_celery.board.rows import Line
from taskora_celery.board.search import whole_number
from taskora_celery.records import LEVELS

__all__ = ["LogFilter", "log_filter"]


class LogFilter(msgspec.Struct, frozen=True):
    """Which lines are wanted; what is empty or None is no condition."""

    #: The lowest level; what happened to the job has none, and passes.
    level: str = ""
    #: What belongs to no attempt (a cancel before the first, say) passes.
    attempt: int | None = None
    #: A part of the line as it is shown, in any case.
    text: str = ""

    def __bool__(self) -> bool:
        return self != LogFilter()

    def takes(self, line: Line) -> bool:
        """Say whether a line passes."""
        if self.level and LEVELS.get(line.kind, LEVELS[self.level]) < LEVELS[self.level]:
            return False
        if self.attempt is not None and line.attempt not in {self.attempt, 0}:
            return False
        shown = (line.text, *(f"{key}={value}" for key, value in line.meta), line.logger)
        return self.text.lower() in " ".join(shown).lower()


def log_filter(query: Mapping[str, str]) -> LogFilter:
    """Return the filter in a query.

    :raises FilterError: a level or an attempt is none.
    """
    level, attempt, text = query.get("level", ""), query.get("attempt", ""), query.get("text", "").strip()
    if level and level not in LEVELS:
        raise FilterError(f"level={level!r} is no level: one of {', '.join(LEVELS)}")
    number = whole_number(attempt)
    if attempt and number is None:
        raise FilterError(f"attempt={attempt[:40]!r} is no attempt: a number, from 1 on")
    return LogFilter(level, number, text)
