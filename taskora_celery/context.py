"""``ctx``: what a running handler talks to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar, overload

import msgspec

from taskora_celery.clock import instant, seconds
from taskora_celery.encoding import pack, unpack
from taskora_celery.errors import NoActiveJobError, NotSupportedError, RequeueError, RetryError
from taskora_celery.lease.protocol import Hold
from taskora_celery.logs import JobLog
from taskora_celery.loop import on_job_loop
from taskora_celery.progress import tracked_total
from taskora_celery.records import AttemptRecord
from taskora_celery.reporter.report import JobReport
from taskora_celery.retry import build_retry
from taskora_celery.signal import Signal

__all__ = ["Context", "JobInfo", "activate", "current_context", "deactivate"]

T = TypeVar("T")
D = TypeVar("D")


class JobInfo(msgspec.Struct, frozen=True):
    """What is known of a job when its handler is called, besides its identity."""

    max_attempts: int | None = None
    delivery: int = 1
    timestamp: int = 0
    #: Instant of the time limit in seconds since the epoch, None where there is none.
    deadline: float | None = None
    checkpoint: bytes | None = None
    history: tuple[AttemptRecord, ...] = ()


_UNKNOWN = JobInfo()


class Control(Protocol):
    """What stops a running job from outside, as far as its handler may speak to it."""

    def shield(self) -> AbstractContextManager[None]:
        """Keep interruptions out of a block."""

    def extend(self, seconds: float) -> float:
        """Move the soft deadline by so many seconds; return the new one, in seconds since the epoch."""


class Context(JobReport):
    """A running job, as its handler sees it.

    Every method that reports stores a value in memory and returns; a thread of the process sends it. None blocks on I/O, and none
    raises because a broker or a store is away. A context may be used from any thread that the handler starts, and from
    coroutines. After the job has ended, what is still reported is dropped.

    ``id`` is the task id, ``name`` the task's name. ``attempt`` is 1, and one more for each retry by any road; a redelivery does
    not change it. ``fence`` grows with each delivery of this job: guard your own writes with it; it is 0 where no store was
    there. ``log`` writes structured entries. ``signal`` fires when the job should stop.
    """

    __slots__ = ("__weakref__", "_checkpoint_limit", "_info", "_word", "control", "log", "signal")

    def __init__(
        self,
        job_id: str,
        name: str,
        attempt: int = 1,
        *,
        info: JobInfo | None = None,
        time: Callable[[], float] = time.time,
        buffer_limit: int = 10_000,
        checkpoint_limit: int = 1_048_576,
        hold: Hold | None = None,
        early: bool = False,
        visibility: float | None = None,
    ) -> None:
        """Made by the library; a handler gets its context, and tests use the test kit."""
        super().__init__(
            job_id, name, attempt, time=time, buffer_limit=buffer_limit, hold=hold, early=early, visibility=visibility
        )  # fmt: skip
        self._info = info or _UNKNOWN
        self._checkpoint_limit = checkpoint_limit
        self.log = JobLog(self)
        self.signal = Signal()
        #: Set while a worker runs the job; what is run directly is stopped by nobody.
        self.control: Control | None = None
        #: What the handler asked for last by :meth:`retry` or :meth:`requeue`.
        self._word: RetryError | RequeueError | None = None

    def inform(self, info: JobInfo, fence: int) -> None:
        """Set what the store knew of the job; called before the handler is."""
        self._info = info
        self.fence = fence

    def supersede(self, message: str) -> None:
        """Fire the signal with ``"superseded"``: this execution can change nothing any more."""
        self.signal.abort("superseded", message)

    def retire(self) -> None:
        """Let go of the log and of what stops the job: what is written from now on is dropped. Called when the job has ended."""
        # Without this, context, log and control hold each other, and each job waits for the garbage collector.
        self.control = self._word = None
        self.log = _RETIRED_LOG

    def returned(self) -> None:
        """Tell who forgot the ``raise`` before ``ctx.retry(…)`` that nothing came of it; called at the handler's end."""
        word, self._word = self._word, None  # a context of one's own may serve several calls
        if word is not None and word.__traceback__ is None:
            call = "retry" if isinstance(word, RetryError) else "requeue"
            message = f"ctx.{call}(…) was called and not raised, so nothing came of it: write `raise ctx.{call}(…)`"
            self.log.warning(message)

    # --- what is known -------------------------------------------------------------------------------------------------

    @property
    def max_attempts(self) -> int | None:
        """``max_retries + 1``, or None where retries are unlimited."""
        return self._info.max_attempts

    @property
    def delivery(self) -> int:
        """1, and one more each time that the broker delivers this attempt again."""
        return self._info.delivery

    @property
    def timestamp(self) -> int:
        """When the job was created, in milliseconds since the epoch; the same in every retry and redelivery."""
        return self._info.timestamp

    @property
    def created_at(self) -> datetime:
        """When the job was created, as an aware ``datetime`` in UTC."""
        return instant(self._info.timestamp)

    @property
    def deadline(self) -> datetime | None:
        """When the time limit is reached (the soft one, else the hard one), in UTC; None where there is none."""
        return None if self._info.deadline is None else instant(int(self._info.deadline * 1000))

    def remaining(self) -> float | None:
        """Return the seconds until :attr:`deadline`, negative once it has passed; None where there is none."""
        return None if self._info.deadline is None else self._info.deadline - self.time()

    @property
    def history(self) -> tuple[AttemptRecord, ...]:
        """One record for each earlier attempt or lost delivery, oldest first; at most the newest 100."""
        return self._info.history

    @property
    def last_checkpoint(self) -> Any:
        """What an earlier delivery or attempt of this job gave to :meth:`checkpoint` last, as plain JSON types; None at first."""
        return None if self._info.checkpoint is None else unpack(self._info.checkpoint)

    # --- what the handler says -----------------------------------------------------------------------------------------

    def heartbeat(self) -> None:
        """Say "I am alive": keep the broker from delivering this message again.

        The first call goes out at once, later ones at most every lease interval, so a call in a tight loop is free.
        """
        if not self.beating:
            self.pulse()

    def progress(self, value: Any, total: float | None = None, message: str | None = None) -> None:
        """Report how far the job is: a number (percent), any JSON-able object, or ``current, total=…, message=…``.

        The first report goes out at once, then the latest value at most every ``taskora_flush_interval``; the last one is
        written before the job's outcome becomes visible. A value that cannot be serialised is stored as its repr and marked.
        """
        self.said = value
        self.said_total = total
        self.said_message = message
        if not self.dirty:
            self.touch()

    def track(
        self, iterable: Iterable[T], total: int | None = None, message: str | None = None, *, initial: int = 0
    ) -> Iterator[T]:
        """Yield the items, and report after each how many are done.

        ``initial`` is how many were done before: by the attempt or delivery whose checkpoint this one goes on from. ``total``
        includes them; where it is not given, it is taken from ``len(iterable)`` (or its length hint) if there is one.
        """
        total, message = tracked_total(iterable, total, message, initial)
        done = initial
        for done, item in enumerate(iterable, initial + 1):
            yield item
            self.said = done
            self.said_total = total
            self.said_message = message
            if not self.dirty:
                self.touch()
        if done == initial:
            self.progress(done, total, message)

    def checkpoint(self, value: Any) -> None:
        """Keep ``value`` so that the next delivery or attempt of this job finds it in :attr:`last_checkpoint`.

        The value is copied now and stored within one flush interval; None clears it. It is gone once the job succeeded.

        :raises TypeError: it has no JSON-like form; what was kept before stays.
        :raises ValueError: it is circular, or larger than ``taskora_checkpoint_bytes``; what was kept before stays.
        """
        try:
            data = pack(value)
        except TypeError as exc:
            raise TypeError(f"a checkpoint must be made of JSON types: {exc}; keep ids and positions, not objects") from exc
        except ValueError as exc:
            raise ValueError(f"a checkpoint must be a plain value: it {exc}") from exc
        if len(data) > self._checkpoint_limit:
            raise ValueError(
                f"a checkpoint of {len(data)} bytes is too large: taskora_checkpoint_bytes={self._checkpoint_limit}; "
                "store large state elsewhere and keep its name"
            )
        self.said_checkpoint = data
        if not self.dirty:
            self.touch()

    def retry(
        self,
        delay: float | timedelta | None = None,
        reason: str | None = None,
        eta: datetime | None = None,
        exc: BaseException | None = None,
    ) -> RetryError:
        """Build the exception that makes the job run again: ``raise ctx.retry(delay=30, reason="rate limited")``.

        Nothing happens until it leaves the handler; one that returns and has not raised it gets a warning in its job's log.
        ``delay`` (seconds, or a ``timedelta``) is used exactly, 0 means now; with None the task's ``retry_backoff`` or
        ``default_retry_delay`` decides. ``eta`` is an instant instead. A ``reason`` of more than 8 192 characters is cut. ``exc``
        is the cause, by default the exception that is being handled. When ``max_retries`` is used up the job fails with
        :class:`~taskora_celery.MaxRetriesExceededError`.

        :raises TypeError: ``delay`` is no duration, ``reason`` no text, ``eta`` no ``datetime``, or ``exc`` no exception.
        :raises ValueError: ``delay`` is negative or not finite, both ``delay`` and ``eta`` are given, or ``eta`` is naive.
        """
        self._word = error = build_retry(delay, reason, eta, exc)
        return error

    def sleep(self, duration: float | timedelta) -> None:
        """Sleep for ``duration`` seconds, or until the job should stop.

        Not for coroutines: ``await asyncio.sleep()`` there, which ends likewise.

        :raises JobAbortedError: ``ctx.signal`` fired, before or meanwhile.
        :raises NotSupportedError: called in a coroutine; it would hold up all others.
        """
        if on_job_loop():
            raise NotSupportedError("ctx.sleep() would block the event loop: use `await asyncio.sleep()`, which a stop ends, too")
        self.signal.wait(seconds(duration, "duration"))
        self.signal.raise_if_aborted()

    def requeue(self, reason: str | None = None) -> RequeueError:
        """Build the exception that puts the message back into its queue at once: ``raise ctx.requeue()``.

        No attempt is used, and the checkpoint is kept; the job's next delivery finds it. Meant for a worker that shuts down
        (``ctx.signal.reason == "shutdown"``), where ``ctx.sleep`` and ``ctx.signal.raise_if_aborted`` do the same by themselves.
        """
        self._word = error = RequeueError(reason)
        return error

    def shield(self) -> AbstractContextManager[None]:
        """Keep a block whole: ``with ctx.shield():`` lets no cancel and no time limit of this library interrupt it.

        What was to interrupt does so at the block's end. The signal fires all the same, and the end of the process that follows a
        second grace waits for nothing. Celery's own soft limit in prefork is not held off. Used by the handler's thread alone.
        """
        return nullcontext() if self.control is None else self.control.shield()

    def extend_deadline(self, duration: float | timedelta) -> None:
        """Move the soft time limit by ``duration`` seconds, from where it is now.

        :raises NotSupportedError: there is no soft time limit, or the hard one would come first where the pool keeps it (prefork,
            gevent); nothing was changed.
        :raises ValueError: ``duration`` is negative or not finite.
        """
        wanted = seconds(duration, "duration")
        if self.control is None:
            raise NotSupportedError("this job is not run by a worker: nobody keeps a time limit that could be extended")
        self._info = msgspec.structs.replace(self._info, deadline=self.control.extend(wanted))

    def __repr__(self) -> str:
        return f"<Context {self.name}[{self.id}] attempt {self.attempt} delivery {self.delivery}>"

    def __reduce__(self) -> None:  # type: ignore[override]  # so type checkers see that it is no argument (shapes.py)
        raise TypeError("a Context belongs to its running job and cannot be sent elsewhere; pass ctx.id")


#: Where the logs of ended jobs go: nowhere.
_RETIRED = JobReport("", "", 0, time=time.time, buffer_limit=1)
_RETIRED.dirty = True
_RETIRED_LOG = JobLog(_RETIRED)

_current: ContextVar[Context | None] = ContextVar("taskora_current_context", default=None)

#: Make a context the current one, and undo it with the token.
activate = _current.set
deactivate = _current.reset


class _NoDefault:
    pass


@overload
def current_context() -> Context: ...
@overload
def current_context(default: D) -> Context | D: ...
def current_context(default: Any = _NoDefault) -> Any:
    """Return the context of the job that runs in this thread, greenlet or coroutine, at any call depth.

    Outside a job return ``default`` where one was given.

    :raises NoActiveJobError: no job is running here, and there is no default.
    """
    context = _current.get()
    if context is not None:
        return context
    if default is _NoDefault:
        raise NoActiveJobError("no job is running here; current_context(None) returns None instead")
    return default
