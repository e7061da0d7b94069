"""The seam to the broker's own way of keeping a message from being delivered twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["Lease", "NoLease"]


class Lease(Protocol):
    """Extends the visibility timeout of messages that are being worked on. Safe to use from several threads."""

    #: Seconds for which a message stays invisible without renewal; None where the transport knows no such thing.
    visibility_timeout: float | None

    def renew(self, tags: Sequence[str]) -> list[bool]:
        """Renew the messages with these delivery tags; False for one that is no longer held (acknowledged, or put back).

        :raises ConnectionError: the broker did not answer; nothing is known to have been renewed.
        """

    def close(self) -> None:
        """Give up the connection."""


class NoLease:
    """For transports that renew by themselves, or cannot: renewing does nothing and holds everything."""

    visibility_timeout: float | None = None

    def renew(self, tags: Sequence[str]) -> list[bool]:
        """Say that all are held."""
        return [True] * len(tags)

    def close(self) -> None:
        """Do nothing."""
