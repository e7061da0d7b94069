"""The one place where tests wait: poll a condition, and say what did not come about."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], description: str, timeout: float = 30.0, interval: float = 0.02) -> T:
    """Poll `predicate` until it returns something truthy, and return that.

    `timeout` and `interval` are in seconds. Exceptions of the predicate are not caught: a predicate that can tell
    that waiting has become pointless ends it by raising.

    :raises AssertionError: with the description and the last value, when the time is over.
    """
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {timeout:g} s for {description}; the last value was {value!r}")
        time.sleep(interval)
    return value
