"""One look at a time, for all who ask: what costs a server something is not asked once for each viewer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from taskora_celery.background import in_background
from taskora_celery.clock import SYSTEM_CLOCK, Clock

__all__ = ["Looks"]

T = TypeVar("T")

#: A last look that is older than so many times the age at which a new one is due is not shown any more while a new one comes.
OUTDATED = 3.0


class Looks(Generic[T]):
    """Looks in a thread when somebody asks, and not again within ``fresh_for`` seconds. Safe to use from several threads.

    Thread contract: each look has a daemon thread of its own, called ``name``, that ends with it; there is one at a time, and
    none while nobody asks. What a look raises is logged, and the next who asks begins another. Not to be used over a fork.
    """

    def __init__(self, name: str, look: Callable[[], T], fresh_for: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self._name = name
        self._look = look
        self._fresh_for = fresh_for
        self._clock = clock
        self._lock = threading.Lock()
        #: The last look, and the monotonic second at which it was over.
        self._last: tuple[T, float] | None = None
        #: Set when the look that is under way is over; None while nobody looks.
        self._under_way: threading.Event | None = None

    def get(self, wait: float) -> T | None:
        """Return the last look, which may be some seconds old, and begin another where it is not fresh any more.

        Blocks for at most ``wait`` seconds, and only where there is none yet, or the last is old, of a time when nobody asked.
        None where there is none by then.
        """
        with self._lock:
            age = self._age()
            if age >= self._fresh_for and self._under_way is None:
                self._under_way = threading.Event()
                in_background(self._name, self._run)
            under_way = self._under_way
        if under_way is not None and age >= self._fresh_for * OUTDATED:
            under_way.wait(wait)
        last = self._last
        return None if last is None else last[0]

    def _age(self) -> float:
        return float("inf") if self._last is None else self._clock.monotonic() - self._last[1]

    def _run(self) -> None:
        try:
            self._last = self._look(), self._clock.monotonic()
        finally:
            with self._lock:
                under_way, self._under_way = self._under_way, None
            if under_way is not None:
                under_way.set()
