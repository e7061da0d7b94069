"""Handlers that are coroutines: on the process's loop, as jobs, and stopped by ``asyncio.CancelledError``."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from celery._state import _task_stack
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from taskora_celery.context import Context, activate, deactivate
from taskora_celery.errors import HandlerCancelledError, JobAbortedError, JobCancelledError, RequeueError, RetryError
from taskora_celery.interrupts import Interrupt
from taskora_celery.loop import JobLoop
from taskora_celery.loop_job import LoopJob
from taskora_celery.records import LEVELS
from taskora_celery.signal import Signal

__all__ = ["CoroutineInterrupt", "JobScope", "awaited", "check_result", "run_coroutine", "take_over", "what_cancelled"]

logger = logging.getLogger("taskora_celery.execution")

#: What a handler raises to say how it ends.
_WORDS = (RetryError, RequeueError, JobAbortedError, Retry, Ignore, Reject)


class JobScope:
    """What each step of a job's coroutines runs in: its request, where Celery looks for it."""

    def __init__(self, task: Any, request: Any, ctx: Context) -> None:
        self._task = task
        self._request = request
        self._ctx = ctx

    def enter(self) -> None:
        """Begin a step: ``self.request`` and ``celery.current_task`` are the job's."""
        _task_stack.push(self._task)
        self._task.request_stack.push(self._request)

    def leave(self) -> None:
        """End it."""
        self._task.request_stack.pop()
        _task_stack.pop()

    def blocked(self, seconds: float, stack: str) -> None:
        """Say in the job's log, and in the worker's, that its handler holds up all others of this process."""
        logger.warning("job %s (%s) has blocked its event loop for %.1f s: await what takes long, or asyncio.to_thread() it\n%s",
                       self._ctx.id, self._ctx.name, seconds, stack)  # fmt: skip
        # Under the logger's name: an entry of ours is repeated to the task's logger, and the worker's log has this one already.
        meta = {"seconds": round(seconds, 1), "stack": stack}
        self._ctx.log.write(LEVELS["warn"], "the handler blocks the event loop", meta, logger.name)


class CoroutineInterrupt(Interrupt):
    """By ``asyncio.CancelledError``, at the next ``await``; first when the job's signal fires, then whenever it is insisted.

    :meth:`end` closes a coroutine that catches that.
    """

    can = True
    on_loop = True

    def __init__(self, signal: Signal, loop: JobLoop) -> None:
        super().__init__()
        self._signal = signal
        self._loop = loop
        self._job: LoopJob | None = None
        #: The time limit was fired, whatever the signal has fired for.
        self.over_limit = False
        #: It was not closed for once, since its loop had been blocked until then.
        self._spared = False

    def begun(self, job: LoopJob, *, deaf: bool = False) -> None:
        """Take in the coroutine; called once it can be cancelled. ``deaf``: not by the signal."""
        self._job = job
        if not deaf:
            self._signal.add_listener(self._fired)

    def ended(self) -> None:
        """Let go of the coroutine."""
        self._signal.remove_listener(self._fired)
        self._job = None

    def _fired(self, signal: Signal) -> None:  # noqa: ARG002 - a listener's
        if not self.gently:
            super().fire(asyncio.CancelledError)

    def fire(self, exc: type[BaseException]) -> bool:
        """Cancel the coroutine, at once or after its shield; say whether there is one."""
        if exc is SoftTimeLimitExceeded:
            self.over_limit = True
            if self._signal.reason == "timeout":
                return True  # the signal has said so a moment ago: a second time would interrupt the cleaning up
        return super().fire(asyncio.CancelledError)

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Keep a cancel out of the block, in whatever task of the job; what was to come does after it."""
        with self._lock:
            self._shields += 1
        try:
            yield
        finally:
            with self._lock:
                self._shields -= 1
                job = self._job if self._open and not self._shields and self._pending is not None else None
                if job is not None:
                    self._pending = None
            if job is not None:
                if job.is_here():
                    raise asyncio.CancelledError
                # In a task that it has started, or a thread: raised there, a task group would take it for that one's own end.
                self._loop.soon(job.cancel_here)

    def end(self) -> bool:
        """Close the coroutine for good, where its loop still answers.

        One that could not hear yet, since others have blocked the loop all the time, hears now, and has the time to clean up.
        """
        with self._lock:
            job = self._job if self._open else None
        if job is None or job.is_closed or not self._loop.answers():
            return False
        if job.has_heard or self._spared:
            job.close()
        self._spared = True
        return True

    def _raise(self, exc: type[BaseException]) -> None:  # noqa: ARG002 - one for all
        if self._job is not None:
            self._loop.soon(self._cancel)

    def _cancel(self) -> None:
        # On the loop: it may have entered a shield in the meantime.
        with self._lock:
            job = self._job if self._open else None
            if job is None:
                return
            if self._shields:
                self._pending = asyncio.CancelledError
                return
        job.cancel_here()


def take_over(stop: Any, interrupt: CoroutineInterrupt) -> CoroutineInterrupt:
    """Let a job be stopped by this from now on: its handler was called as a plain one, and has returned a coroutine."""
    interrupt.gently = stop.interrupt.gently
    stop.interrupt.close()
    interrupt.open()
    stop.interrupt = interrupt
    return interrupt


def run_coroutine(
    loop: JobLoop,
    coro: Coroutine[Any, Any, Any],
    task: Any,
    request: Any,
    ctx: Context,
    interrupt: CoroutineInterrupt | None,
    *,
    deaf: bool = False,
) -> Any:
    """Run a job's coroutine, and return what it returned, or raise; its cancellation as what it stands for.

    ``interrupt`` is told of it, None where the waiting thread is interrupted; ``deaf`` says that the job's signal is not to.
    """
    begun = None if interrupt is None else partial(interrupt.begun, deaf=deaf)
    try:
        return _no_word(task, loop.run(coro, JobScope(task, request, ctx), begun=begun))
    except asyncio.CancelledError as exc:
        over_limit, gently = (False, False) if interrupt is None else (interrupt.over_limit, interrupt.gently)
        raise what_cancelled(ctx, over_limit=over_limit, gently=gently) from exc
    except Exception as exc:
        word = word_in(exc)
        if word is None:
            raise
    finally:
        if interrupt is not None:
            interrupt.ended()
    raise word


def word_in(exc: BaseException) -> BaseException | None:
    """Return what a handler has said of its end inside a task group, which wraps it; None where there is anything else in it."""
    within = getattr(exc, "exceptions", None)  # an ExceptionGroup, which Python 3.10 has not; anyio brings it there
    if not isinstance(within, tuple) or not within:
        return None
    words = [found if isinstance(found, _WORDS) else word_in(found) for found in within]
    return None if None in words else words[0]


def what_cancelled(ctx: Context, *, over_limit: bool = False, gently: bool = False) -> Exception:
    """Return what ``asyncio.CancelledError`` stands for, which Celery must not see: it is no ``Exception``, and no outcome.

    ``over_limit`` says that the time limit has come after the signal that has fired for another reason; ``gently`` that the
    signal has cancelled nothing.
    """
    reason, message = ctx.signal.reason, ctx.signal.message
    if reason == "cancelled" and not gently:
        return JobCancelledError(ctx.id, message)
    if reason == "timeout" or over_limit:
        limit: Exception = SoftTimeLimitExceeded()
        return limit
    if reason in {None, "cancelled"}:
        return HandlerCancelledError(ctx.id)
    return JobAbortedError(reason, message)


async def awaited(ctx: Context, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Await a handler that is called directly, with its context."""
    token = activate(ctx)
    try:
        result = await call()
        ctx.returned()
    finally:
        deactivate(token)
    return result


def check_result(task: Any, result: Any) -> Any:
    """Return what a plain handler returned.

    :raises TypeError: it is to be awaited or iterated over asynchronously, which nobody would do; or it had to be raised.
    """
    kind = type(result)
    if not (hasattr(kind, "__await__") or hasattr(kind, "__anext__")):
        return _no_word(task, result)
    if inspect.iscoroutine(result):
        result.close()
    raise TypeError(
        f"task {task.name}: its handler is a plain function and returned {kind.__name__!r}, which nobody awaits; "
        "make the handler `async def` and await it there"
    )


def _no_word(task: Any, result: Any) -> Any:
    """Return what a handler returned; who forgets the ``raise`` before ``ctx.retry(…)`` is told so."""
    if isinstance(result, RetryError | RequeueError):
        call = "retry" if isinstance(result, RetryError) else "requeue"
        raise TypeError(f"task {task.name}: its handler returned ctx.{call}(…), which does nothing: raise it")
    return result
