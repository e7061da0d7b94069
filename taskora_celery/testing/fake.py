"""A context for calling a handler's function directly: what it reports is kept, what it is to know is given."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

from taskora_celery.clock import seconds
from taskora_celery.context import JobInfo, current_context
from taskora_celery.encoding import pack, unpack
from taskora_celery.errors import NoActiveJobError
from taskora_celery.local import LocalContext
from taskora_celery.records import AttemptRecord
from taskora_celery.signal import AbortReason
from taskora_celery.testing.clock import VirtualClock
from taskora_celery.testing.context import RecordedContext
from taskora_celery.testing.signal import VirtualSignal

__all__ = ["FakeContext", "advance", "fake_context"]


class FakeContext(LocalContext):
    """A context that no job stands behind; pass it as ``handler(data, ctx)``, or to a task: ``task(data, ctx=ctx)``.

    ``values`` holds the progress values, ``get_logs()`` the log entries, ``checkpoints``, ``heartbeats`` and ``sleeps`` the rest.
    Sleeping takes virtual time.
    """

    __slots__ = ("checkpoints", "clock", "heartbeats", "sleeps")

    def __init__(self, job_id: str, name: str, attempt: int = 1, *, info: JobInfo | None = None) -> None:
        super().__init__(job_id, name, attempt, info=info)
        self.clock = VirtualClock()
        self.time = self.clock.time
        self.signal = VirtualSignal(self)
        self.checkpoints: list[Any] = []
        self.heartbeats = 0
        #: Seconds of each ``ctx.sleep``, as asked for.
        self.sleeps: list[float] = []

    def abort(self, reason: AbortReason = "cancelled", message: str | None = None) -> None:
        """Fire the signal, before the call or from another thread; the first abort wins."""
        self.signal.abort(reason, message)

    def heartbeat(self) -> None:
        """Count it."""
        self.heartbeats += 1

    def checkpoint(self, value: Any) -> None:
        """Keep the value; errors are those of the real one."""
        super().checkpoint(value)
        self.checkpoints.append(unpack(self.said_checkpoint or pack(None)))

    def sleep(self, duration: float | timedelta) -> None:
        """Sleep in virtual time."""
        self.sleeps.append(seconds(duration, "duration"))
        super().sleep(duration)

    def pass_time(self, duration: float) -> None:
        """Let virtual time pass, until the job should stop."""
        if not self.signal.aborted:
            self.clock.advance(duration, until=lambda: self.signal.aborted)

    def arrive(self) -> None:
        """Do nothing: nobody interrupts what nobody runs."""


def fake_context(
    name: str = "job",
    job_id: str | None = None,
    *,
    attempt: int = 1,
    max_attempts: int | None = None,
    delivery: int = 1,
    fence: int = 0,
    checkpoint: Any = None,
    history: Sequence[AttemptRecord] = (),
    time_limit: float | timedelta | None = None,
) -> FakeContext:
    """Return a context that knows this; ``checkpoint`` is what an earlier attempt left, ``time_limit`` in seconds.

    :raises TypeError: ``checkpoint`` has no JSON-like form, or ``time_limit`` is no duration.
    :raises ValueError: ``time_limit`` is negative or not finite.
    """
    ctx = FakeContext(job_id or str(uuid4()), name, attempt)
    now = ctx.time()
    deadline = None if time_limit is None else now + seconds(time_limit, "time_limit")
    left = None if checkpoint is None else pack(checkpoint)
    ctx.inform(JobInfo(max_attempts, delivery, int(now * 1000), deadline, left, tuple(history)), fence)
    return ctx


def advance(duration: float | timedelta) -> None:
    """Let virtual time pass in a fake of a test, as work that takes so long: a slow download, say.

    What is due meanwhile happens (a time limit, a cancel), and an interruption arrives out of this call, as it would in a
    blocking call. The signal alone does not end it.

    :raises NoActiveJobError: no handler is running here in virtual time.
    :raises ValueError: ``duration`` is negative or not finite.
    """
    wanted, ctx = seconds(duration, "duration"), current_context(None)
    if isinstance(ctx, RecordedContext):
        ctx.work_for(wanted)
    elif isinstance(ctx, FakeContext):
        ctx.clock.advance(wanted)
    else:
        raise NoActiveJobError("advance() is for what a handler calls in run_job(), or with a fake context")
