"""What happens to jobs, as counts: the names under which processes add them up in the store, and what adds them up on the way.

A count's name is its metric, then labels from a fixed set, then labels that users choose (names of tasks, queues, exceptions).
The store keeps a bounded number of names; beyond it the users' labels are left out, which reads as ``(other)``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from functools import lru_cache

import msgspec

__all__ = [
    "BOUNDS",
    "COUNTS_KEPT",
    "OTHER",
    "Count",
    "Tally",
    "add_to",
    "duration_counts",
    "label_text",
    "pack_count",
    "unpack_count",
    "without_users",
]

#: Upper bounds of the buckets of durations, in seconds: from a cache's answer to a long import.
BOUNDS = (0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0)
_BOUND_NAMES = (*(f"{bound:g}" for bound in BOUNDS), "+Inf")
#: So many different counts are kept, here and in the store; of more, the users' labels are left out.
COUNTS_KEPT = 10_000
#: What stands for labels that found no room.
OTHER = "(other)"
#: A label's text is cut to so many characters.
LABEL_CHARS = 120

#: Between two labels, and before the first that users choose.
_UNIT, _USERS = "\x1f", "\x1e"
_CONTROLS = dict.fromkeys((*range(32), 127))


class Count(msgspec.Struct, frozen=True):
    """What is counted: ``fixed`` labels are from a closed set, ``open`` ones are users' text."""

    metric: str
    fixed: tuple[str, ...] = ()
    open: tuple[str, ...] = ()


@lru_cache(maxsize=1024)  # the same few at each flush
def pack_count(count: Count) -> str:
    """Return the name of a count in the store."""
    name = _UNIT.join((count.metric, *count.fixed))
    return name + _USERS + _UNIT.join(map(label_text, count.open)) if count.open else name


def unpack_count(name: str) -> Count:
    """Return the count of a name; whatever it is, there is one."""
    head, _, users = name.partition(_USERS)
    metric, *fixed = head.split(_UNIT)
    return Count(metric, tuple(fixed), tuple(users.split(_UNIT)) if users else ())


def without_users(name: str) -> str:
    """Return the name of a count for which there is no room, less the labels that users choose."""
    return name.partition(_USERS)[0]


def label_text(text: str) -> str:
    """Return a user's text as a label: bounded, never empty, and without control characters."""
    return text[:LABEL_CHARS].translate(_CONTROLS) or "-"


def duration_counts(metric: str, seconds: float, users: tuple[str, ...]) -> tuple[tuple[Count, int], tuple[Count, int]]:
    """Return what one duration adds: one to its bucket, and its milliseconds to the sum."""
    seconds = max(seconds, 0.0)  # clocks differ
    bucket = _BOUND_NAMES[bisect_left(BOUNDS, seconds)]
    return (Count(metric, ("le", bucket), users), 1), (Count(metric, ("sum",), users), round(seconds * 1000))


def add_to(counts: dict[str, int], name: str, number: int) -> None:
    """Add to the count of a name; where there are too many, to that of what is left without the labels that users choose."""
    if len(counts) >= COUNTS_KEPT and name not in counts:
        name = without_users(name)
    counts[name] = counts.get(name, 0) + number


class Tally:
    """Counts that are not told to the store yet. Used by one thread."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, counted: Iterable[tuple[Count, int]]) -> None:
        """Add counts."""
        for count, number in counted:
            add_to(self._counts, pack_count(count), number)

    def give_back(self, counts: Mapping[str, int]) -> None:
        """Add what was taken and could not be told."""
        for name, number in counts.items():
            add_to(self._counts, name, number)

    def take(self) -> dict[str, int]:
        """Return all of it under the names in the store, and begin anew."""
        counts, self._counts = self._counts, {}
        return counts
