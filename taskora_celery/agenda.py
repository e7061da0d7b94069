"""What is to be done later, by instant: a heap of actions from which what is not to be done any more is cleared out."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["Agenda", "Due"]

#: When more than so many of the things that were to be done are not to be any more, they are cleared out.
DROPPED = 256


class Due:
    """What is to be done at an instant; ``action`` is None once it is not to be done any more."""

    __slots__ = ("action", "number", "when")

    def __init__(self, when: float, number: int, action: Callable[[], Any]) -> None:
        self.when = when
        self.number = number
        self.action: Callable[[], Any] | None = action

    def __lt__(self, other: Due) -> bool:
        return (self.when, self.number) < (other.when, other.number)


class Agenda:
    """Keeps actions until their instants, in seconds of one clock of the caller's. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._due: list[Due] = []
        self._dropped = 0
        self._numbers = itertools.count()

    def __len__(self) -> int:
        """Return how many actions are kept, some of which may not be to be done any more."""
        return len(self._due)

    def add(self, when: float, action: Callable[[], Any]) -> Due:
        """Keep an action; of several for the same instant, the first that came is the first."""
        due = Due(when, next(self._numbers), action)
        with self._lock:
            heapq.heappush(self._due, due)
        return due

    def drop(self, dues: Iterable[Due]) -> None:
        """Do none of these any more; what they hold is let go of."""
        with self._lock:
            for due in dues:
                due.action = None
                self._dropped += 1  # an upper bound: some have been done
            if self._dropped > DROPPED and self._dropped > len(self._due) // 2:
                self._due = [due for due in self._due if due.action is not None]
                heapq.heapify(self._due)
                self._dropped = 0

    def take(self, now: float) -> Callable[[], Any] | float | None:
        """Return the next action whose instant has come; else the seconds until the next, None where there is none."""
        with self._lock:
            while self._due:
                if self._due[0].when > now:
                    return self._due[0].when - now
                due = heapq.heappop(self._due)
                action, due.action = due.action, None
                if action is not None:
                    return action
        return None
