"""A lease that does what the test says: it counts, fails and loses messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskora_celery.lease.protocol import Held, Hold, Renewal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager


class ScriptedLease:
    """Every delivery is held, until the test says otherwise in `stands`."""

    visibility_timeout: float | None = 60.0
    shows_due = True

    def __init__(self) -> None:
        self.renewed: list[list[str]] = []
        self.fails = False
        self.stands: dict[str, Held] = {}
        self.holds: list[Hold] = []
        self.closed = False

    def renew(self, holds: Sequence[Hold], *, look: bool = False) -> Renewal:
        self.renewed.append([hold.tag for hold in holds])
        self.holds = list(holds)
        if self.fails:
            raise ConnectionError("no broker")
        return Renewal(tuple(self.stands.get(hold.tag, Held.HELD) for hold in holds))

    def claim(self, hold: Hold) -> None:
        raise AssertionError("only the worker's parent claims")

    def alone(self) -> AbstractContextManager[bool]:
        raise AssertionError("only the worker's parent puts back")

    def take(self, tag: str) -> bool:
        raise AssertionError("only the worker's parent puts back")

    def put_back(self, tag: str, queue: str | None = None, *, token: int | None = None) -> None:
        raise AssertionError("only the worker's parent puts back")

    def close(self) -> None:
        self.closed = True
