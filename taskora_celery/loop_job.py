"""One job's coroutine on the loop, with the tasks that it starts: how they are stepped, cancelled, closed, and seen off."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextvars import Context as Variables
from contextvars import ContextVar, copy_context
from typing import Any, Protocol
from weakref import WeakSet

__all__ = ["LoopJob", "Scope", "TaskFactory", "current_job", "ended"]

logger = logging.getLogger("taskora_celery.loop")

#: Tasks that a handler has left behind have so many seconds to end once they are cancelled.
LEFT_WITHIN = 5.0
#: And so many, once they are closed.
CLOSED_WITHIN = 1.0
#: A step of a coroutine that takes so many seconds blocks the loop, and is reported.
BLOCKED_AFTER = 1.0

#: The job whose coroutine or task this is; None elsewhere.
current_job: ContextVar[LoopJob | None] = ContextVar("taskora_loop_job", default=None)


class Scope(Protocol):
    """Whose a coroutine is: what each of its steps runs in. Called on the loop's thread."""

    def enter(self) -> None:
        """Begin a step."""

    def leave(self) -> None:
        """End it."""

    def blocked(self, seconds: float, stack: str) -> None:
        """Report a step that has taken so many seconds and is where ``stack`` says. Called once, by any thread."""


class Owner(Protocol):
    """The loop, as far as a job on it knows it."""

    #: Whose step is being taken, since when (monotonic seconds); None between two steps.
    step: tuple[LoopJob, float] | None

    def soon(self, action: Callable[[], object]) -> bool:
        """Call ``action`` on the loop; False where that is closed."""

    def late(self, job: LoopJob, seconds: float, coro: Any) -> None:
        """Take note of a step that has taken too long."""


class LoopJob:
    """One coroutine on the loop, with all tasks that it starts. Made by :meth:`JobLoop.run`; any thread may call it."""

    def __init__(self, owner: Owner, coro: Coroutine[Any, Any, Any], scope: Scope) -> None:
        self.scope = scope
        self.tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        #: Every step that would begin from now on closes its coroutine instead.
        self.is_closed = False
        #: A step was taken since it was cancelled: the coroutine, or what it waits for, has heard of it.
        self.has_heard = False
        self._is_told = False
        #: All has ended: what is still started in its variables, by a client that it has made say, is not its own.
        self.is_over = False
        #: Whoever takes the one item reports that it blocks the loop.
        self._unreported = [True]
        self._owner = owner
        self._coro: Coroutine[Any, Any, Any] | None = coro
        self._variables: Variables | None = copy_context()
        self._variables.run(current_job.set, self)
        self._done = threading.Event()
        self._task: asyncio.Task[Any] | None = None
        self._supervisor: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        """Let the coroutine be cancelled at its next ``await``; one that has taken no step yet takes none."""
        self._owner.soon(self.cancel_here)

    def close(self) -> None:
        """End the coroutine and its tasks for good, whatever they catch: none of them takes another step."""
        self.is_closed = True
        self._owner.soon(self._cancel_all)

    def result(self) -> Any:
        """Wait for the end of the coroutine, and of all tasks that it has started; return what it returned, or raise."""
        self._done.wait()
        assert self._task is not None
        return self._task.result()

    def end(self, patience: float) -> None:
        """Cancel what has not ended yet, close it after ``patience`` seconds, and wait for its end; bounded.

        What has taken no step yet takes none.
        """
        if self.is_over or not self._owner.soon(self._end_here):
            return
        if not self._done.wait(patience):
            self.close()
            self._done.wait(CLOSED_WITHIN)

    def wait(self, seconds: float) -> bool:
        """Wait for the end, for so many seconds at most; say whether it has come."""
        return self._done.wait(seconds)

    def forget(self) -> None:
        """Let go of what the job holds once it is over: its variables hold it, and both would wait for the garbage collector."""
        if self.is_over:
            self._coro = self._variables = self._task = self._supervisor = None

    def report(self, seconds: float, stack: str) -> None:
        """Report that it blocks the loop; the first time only."""
        with contextlib.suppress(IndexError):
            self._unreported.pop()
            self.scope.blocked(seconds, stack)

    # --- on the loop ---------------------------------------------------------------------------------------------------

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin."""
        if self.is_over:
            return
        assert self._variables is not None
        assert self._coro is not None
        self._task = self._variables.run(loop.create_task, self._coro)
        self._task.add_done_callback(self._handler_ended)
        if self._is_told:  # before it had begun
            self._task.cancel()

    def _handler_ended(self, task: asyncio.Task[Any]) -> None:
        """See off what the coroutine has left behind, where there is such a thing."""
        if not self._unfinished():
            self._end()
            return
        supervisor = self._supervisor = task.get_loop().create_task(self._see_off())
        supervisor.add_done_callback(lambda _: self._end())

    def _end(self) -> None:
        self.is_over = True
        self._done.set()

    async def _see_off(self) -> None:
        """End the tasks that the handler has started and not waited for: nothing of a job runs on inside the next."""
        # asyncio closes an async generator that nobody iterates over any more in a task of its own: that is nobody's omission.
        await ended([task for task in self._unfinished() if _closes_generator(task)], LEFT_WITHIN)
        left = self._unfinished()
        if not left:
            return
        logger.warning("a handler ended before %d task(s) that it had started; they are cancelled: %s", len(left),
                       ", ".join(sorted(map(_name_of, left)))[:500])  # fmt: skip
        for within in (LEFT_WITHIN, CLOSED_WITHIN):
            self._cancel_all()
            await ended(left, within)
            left = self._unfinished()
            if not left:
                return
            self.is_closed = True

    def _unfinished(self) -> list[asyncio.Task[Any]]:
        return [task for task in self.tasks if not task.done()]

    def is_here(self) -> bool:
        """Say whether it is the handler's own task that is running here, and not one that it has started, or a thread."""
        try:
            return self._task is not None and asyncio.current_task() is self._task
        except RuntimeError:  # no loop runs here
            return False

    def stepping(self) -> None:
        """Note that one of its tasks takes a step."""
        self.has_heard = self._is_told

    def cancel_here(self) -> None:
        """Do what :meth:`cancel` does, on the loop."""
        task = self._task
        self._is_told = True
        if task is not None:
            task.cancel()

    def _end_here(self) -> None:
        if self._task is None and self._coro is not None:  # it was not even begun
            self._coro.close()
            self._end()
        else:
            self.cancel_here()

    def _cancel_all(self) -> None:
        for task in self._unfinished():
            task.cancel()


class TaskFactory:
    """Makes the loop's tasks when called; a job's take their steps as its own, be they started by it or by what it calls."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner

    def __call__(self, loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
        """Make one."""
        context: Variables | None = kwargs.get("context")
        job = current_job.get() if context is None else context.get(current_job)
        if job is None or job.is_over or not asyncio.iscoroutine(coro):  # the last is refused there
            return asyncio.Task(coro, loop=loop, **kwargs)
        task = asyncio.Task(_Steps(coro, job, self._owner), loop=loop, **kwargs)
        job.tasks.add(task)
        return task


class _Steps(Coroutine[Any, Any, Any]):
    """A coroutine of a job, each step of which runs in the job's scope; once the job is closed, it takes none."""

    def __init__(self, coro: Coroutine[Any, Any, Any], job: LoopJob, owner: Owner) -> None:
        self.coro = coro
        self._job = job
        self._owner = owner

    def send(self, value: Any) -> Any:
        return self._step(self.coro.send, value)

    def throw(self, *exc: Any) -> Any:
        return self._step(self.coro.throw, *exc)

    def close(self) -> None:
        self.coro.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self.coro.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.coro, name)  # cr_frame and its kin, by which asyncio shows where a task is

    def _step(self, step: Callable[..., Any], *args: Any) -> Any:
        job, since = self._job, time.monotonic()
        job.stepping()
        job.scope.enter()
        self._owner.step = (job, since)
        try:
            if job.is_closed:
                self._close()
            return step(*args)
        finally:
            self._owner.step = None
            taken = time.monotonic() - since
            if taken >= BLOCKED_AFTER:
                self._owner.late(job, taken, self.coro)
            job.scope.leave()

    def _close(self) -> None:
        try:
            self.coro.close()
        except BaseException:  # it awaits in a `finally`, or catches what nobody may catch: it is not asked again
            logger.exception("a coroutine of an ended job did not close")
        raise asyncio.CancelledError


async def ended(tasks: Iterable[asyncio.Task[Any]], within: float | None = None) -> None:
    """Wait for the end of tasks, for so many seconds at most; also while a handler cancels every task of the loop."""
    until = None if within is None else time.monotonic() + within
    while left := [task for task in tasks if not task.done()]:
        seconds = None if until is None else until - time.monotonic()
        if seconds is not None and seconds <= 0:
            return
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(left, timeout=seconds)


def _coro_of(task: asyncio.Task[Any]) -> Any:
    coro = task.get_coro()
    return coro.coro if isinstance(coro, _Steps) else coro


def _closes_generator(task: asyncio.Task[Any]) -> bool:
    return type(_coro_of(task)).__name__ == "async_generator_athrow"


def _name_of(task: asyncio.Task[Any]) -> str:
    return f"{task.get_name()} ({getattr(_coro_of(task), '__qualname__', '?')})"
