"""One look at a time, for all who ask: what costs a server something is not asked once for each viewer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from taskora_celery.clock import SYSTEM_CLOCK, Clock

__all__ = ["Looks"]

T = TypeVar("T")


class Looks(Generic[T]):
    """Looks when somebody asks, and not again within ``fresh_for`` seconds. Safe to use from several threads; starts none.

    Whoever asks while another looks has the last look at once, which says itself how old it is; only where there is none yet
    does he wait. What a look raises is raised by the one who looked, and the next one who asks looks again.
    """

    def __init__(self, look: Callable[[], T], fresh_for: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self._look = look
        self._fresh_for = fresh_for
        self._clock = clock
        self._looking = threading.Lock()
        #: The last look, and the monotonic second at which it was over.
        self._last: tuple[T, float] | None = None

    @property
    def last(self) -> T | None:
        """The last look; None where nobody has looked yet. Never blocks."""
        last = self._last
        return None if last is None else last[0]

    def get(self) -> T:
        """Return a look that is fresh, or else the last one if somebody is looking. May block for as long as a look takes."""
        last = self._last
        if last is not None and self._is_fresh(last):
            return last[0]
        if not self._looking.acquire(blocking=last is None):
            assert last is not None
            return last[0]
        try:
            last = self._last
            if last is None or not self._is_fresh(last):  # else somebody has looked while this one waited
                last = self._last = self._look(), self._clock.monotonic()
            return last[0]
        finally:
            self._looking.release()

    def _is_fresh(self, last: tuple[T, float]) -> bool:
        return self._clock.monotonic() - last[1] < self._fresh_for
