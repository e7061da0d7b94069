"""An event loop in a greenlet: what asyncio keeps by thread is kept apart from the other greenlets of the thread."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["ThreadState", "cooperative_selector", "no_running_loop"]


class ThreadState:
    """What asyncio keeps by thread (the running loop, the hooks of async generators) while another greenlet has its own there."""

    def __init__(self) -> None:
        self._away: tuple[Any, Any] = (None, (None, None))

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Put back what is away, and keep away what is there, until the block ends."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        (loop, hooks), self._away = self._away, (asyncio._get_running_loop(), sys.get_asyncgen_hooks())  # noqa: SLF001 - for event loops, says its documentation
        asyncio._set_running_loop(loop)  # noqa: SLF001
        sys.set_asyncgen_hooks(*hooks)


def cooperative_selector(state: ThreadState) -> selectors.BaseSelector:
    """Return a selector for a loop in a greenlet, which runs ``with state.swapped()``.

    Else, while the loop waits, all greenlets of its thread would seem to run inside it, and could use no loop of their own; nor
    would it find its own after the wait, where they did.
    """

    class Selector(selectors.DefaultSelector):  # made here: it is the patched one
        def select(self, timeout: float | None = None) -> Any:
            with state.swapped():
                return super().select(timeout)

    return Selector()


@contextlib.contextmanager
def no_running_loop() -> Iterator[None]:
    """Let this thread seem to run no loop during the block, whose coroutine waits for another one's."""
    with ThreadState().swapped():
        yield
