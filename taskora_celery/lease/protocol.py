"""The seam to the broker's own way of keeping a message from being delivered twice."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import IntEnum
from typing import Protocol

import msgspec

__all__ = ["NO_LEASE", "Due", "Held", "Hold", "Lease", "NoLease", "Renewal"]


class Hold(msgspec.Struct, frozen=True):
    """One delivery of one message that this process answers for."""

    tag: str
    #: What tells this delivery from another one of the same message: microseconds of its reception, 0 where it is not known.
    token: int = 0
    #: The message stays invisible for so many seconds after the last sign of life; None: for the visibility timeout.
    timeout: float | None = None
    #: Seconds that have passed since the last sign of life.
    age: float = 0.0
    #: Only say how it stands; somebody else renews it.
    watched: bool = False
    #: Where the transport needs more than the tag: SQS's queue URL.
    queue: str | None = None


class Held(IntEnum):
    """How a delivery stands with the broker."""

    HELD = 1
    #: Acknowledged, or put back into its queue.
    GONE = 0
    #: Another worker has received the message since.
    TAKEN = -1
    #: It is watched, and nobody renewed it in time.
    DUE = -2


class Due(msgspec.Struct, frozen=True):
    """A message that nobody renewed in time."""

    tag: str
    job_id: str
    name: str
    attempt: int
    #: Seconds that have passed since its lease ran out.
    late: float


class Renewal(msgspec.Struct, frozen=True):
    """The answer to a renewal: how each delivery stands, in the order of the question."""

    held: tuple[Held, ...]
    #: Messages of anybody that may be delivered again now, where it was asked for them.
    due: tuple[Due, ...] = ()
    #: Seconds until the next message is due, None where none is known.
    next_due: float | None = None


class Lease(Protocol):
    """Keeps messages invisible that are being worked on. Safe to use from several threads; not over a fork.

    Every method raises :class:`ConnectionError` when the broker did not answer in time; nothing is known to have been done then.
    """

    #: Seconds for which a message stays invisible without renewal; None where the transport knows no such thing.
    visibility_timeout: float | None
    #: Whether a renewal shows what is due: where it does not, the worker's parent cannot see that a job is stalled.
    shows_due: bool

    def renew(self, holds: Sequence[Hold], *, look: bool = False) -> Renewal:
        """Renew these deliveries, in as few round trips as the transport allows; with ``look`` say also what is due."""

    def claim(self, hold: Hold) -> None:
        """Say that this delivery is the one that counts from now on: earlier ones of the message are taken."""

    def alone(self) -> AbstractContextManager[bool]:
        """Keep others from putting messages back meanwhile; false where another is at it, who may be through in a moment."""

    def take(self, tag: str) -> bool:
        """Say whether a message that was due still is, and is the caller's to put back: of several who saw it, one has it.

        By the time that the others come to it, a worker may have received it again.
        """

    def put_back(self, tag: str, queue: str | None = None, *, token: int | None = None) -> None:
        """Make the message deliverable at once; with the ``token`` of a delivery, if it is still that one's.

        One that is not held by anybody is left alone, and one that was taken if it was delivered again since.
        """

    def close(self) -> None:
        """Give up the connection."""


class NoLease:
    """For transports that renew by themselves, or cannot: every delivery is held for as long as its connection lives."""

    visibility_timeout: float | None = None
    shows_due = False

    def renew(self, holds: Sequence[Hold], *, look: bool = False) -> Renewal:  # noqa: ARG002 - the protocol's
        """Say that all are held, and nothing is due."""
        return Renewal((Held.HELD,) * len(holds))

    def claim(self, hold: Hold) -> None:
        """Do nothing."""

    def alone(self) -> AbstractContextManager[bool]:
        """Say yes: nobody puts anything back."""
        return nullcontext(True)

    def take(self, tag: str) -> bool:  # noqa: ARG002 - the protocol's
        """Say yes: nobody sees what is due."""
        return True

    def put_back(self, tag: str, queue: str | None = None, *, token: int | None = None) -> None:
        """Do nothing: the broker delivers it again when the connection or the channel is closed."""

    def close(self) -> None:
        """Do nothing."""


NO_LEASE = NoLease()
