"""The event loop on which the coroutines of a process's jobs run.

One loop on one thread for all jobs: what a job opens in it (a connection pool, say) serves the next. Whoever runs a coroutine
waits for it in its own thread, so that Celery's pools see a handler like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import selectors
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextvars import Context as Variables
from contextvars import ContextVar, copy_context
from typing import Any, Protocol
from weakref import WeakSet

from taskora_celery.background import Background

__all__ = ["JobLoop", "LoopJob", "Scope", "on_job_loop"]

logger = logging.getLogger("taskora_celery.loop")

#: Tasks that a handler has left behind have so many seconds to end once they are cancelled.
LEFT_WITHIN = 5.0
#: And so many, once they are closed.
CLOSED_WITHIN = 1.0
#: A step of a coroutine that takes so many seconds blocks the loop, and is reported.
BLOCKED_AFTER = 1.0
#: A loop that is not blocked answers within so many seconds.
ANSWERS_WITHIN = 0.2
#: How long :meth:`JobLoop.stop` waits, in seconds.
STOPPED_WITHIN = 5.0


class Scope(Protocol):
    """Whose a coroutine is: what each of its steps runs in. Called on the loop's thread."""

    def enter(self) -> None:
        """Begin a step."""

    def leave(self) -> None:
        """End it."""

    def blocked(self, seconds: float, stack: str) -> None:
        """Report a step that has taken so many seconds and is where ``stack`` says. Called once, on another thread."""


_job: ContextVar[LoopJob | None] = ContextVar("taskora_loop_job", default=None)


def on_job_loop() -> bool:
    """Say whether this is a coroutine of a job: whatever waits here holds up all others."""
    if _job.get() is None:
        return False
    try:
        return isinstance(asyncio.get_running_loop().get_task_factory(), _Factory)
    except RuntimeError:
        return False


class LoopJob:
    """One coroutine on the loop, with all tasks that it starts. Made by :meth:`JobLoop.begin`; any thread may call it."""

    def __init__(self, loop: JobLoop, coro: Coroutine[Any, Any, Any], scope: Scope) -> None:
        self.scope = scope
        self.tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        #: Every step that would begin from now on closes its coroutine instead.
        self.is_closed = False
        self.is_reported = False
        self._loop = loop
        self._coro = coro
        self._variables = copy_context()
        self._variables.run(_job.set, self)
        self._done = threading.Event()
        self._task: asyncio.Task[Any] | None = None
        self._supervisor: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        """Let the coroutine be cancelled at its next ``await``."""
        self._loop.soon(self.cancel_here)

    def close(self) -> None:
        """End the coroutine and its tasks for good, whatever they catch: none of them takes another step."""
        self.is_closed = True
        self._loop.soon(self._cancel_all)

    def result(self, patience: float) -> Any:
        """Wait for the end of the coroutine, and of all tasks that it has started; return what it returned, or raise.

        Whatever is raised in the waiting thread meanwhile (a time limit, the end of the process) cancels the coroutine, which has
        ``patience`` seconds to end before it is closed, and is raised then.
        """
        try:
            self._done.wait()
        except BaseException:
            self.cancel()
            if not self._done.wait(patience):
                self.close()
                self._done.wait(CLOSED_WITHIN)
            raise
        assert self._task is not None
        return self._task.result()

    def wait(self, seconds: float) -> bool:
        """Wait for the end, for so many seconds at most; say whether it has come."""
        return self._done.wait(seconds)

    # --- on the loop ---------------------------------------------------------------------------------------------------

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin."""
        self._supervisor = loop.create_task(self._run())

    async def _run(self) -> None:
        """Run the coroutine, and see off what it leaves behind."""
        try:
            loop = asyncio.get_running_loop()
            self._task = self._variables.run(loop.create_task, self._coro)
            await asyncio.wait([self._task])
            await self._see_off()
        finally:
            self._done.set()

    async def _see_off(self) -> None:
        """End the tasks that the handler has started and not waited for: nothing of a job runs on inside the next."""
        left = self._unfinished()
        if not left:
            return
        logger.warning("a handler ended before %d task(s) that it had started; they are cancelled: %s", len(left),
                       ", ".join(sorted(task.get_name() for task in left))[:500])  # fmt: skip
        for within in (LEFT_WITHIN, CLOSED_WITHIN):
            self._cancel_all()
            await asyncio.wait(left, timeout=within)
            left = self._unfinished()
            if not left:
                return
            self.is_closed = True

    def _unfinished(self) -> list[asyncio.Task[Any]]:
        return [task for task in self.tasks if not task.done()]

    def cancel_here(self) -> None:
        """Do what :meth:`cancel` does, on the loop."""
        if self._task is not None:
            self._task.cancel()

    def _cancel_all(self) -> None:
        for task in self._unfinished():
            task.cancel()


class JobLoop:
    """One process's event loop, on a daemon thread named ``taskora-loop``, started by the first coroutine.

    Not to be used over a fork: make a new one there. ``environment`` is ``"gevent"``, ``"eventlet"`` or ``"default"``; with
    greenlets the thread is one, and waits for the loop's sockets as they all do.
    """

    def __init__(self, environment: str) -> None:
        self._environment = environment
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        #: The jobs on the loop; while there are any, somebody looks whether one blocks it.
        self._jobs: set[LoopJob] = set()
        #: Whose step is being taken, since when (monotonic seconds); None between two steps.
        self.step: tuple[LoopJob, float] | None = None
        self._frame: Callable[[], Any] = lambda: None
        self._watch = Background("taskora-loop-watch", self._look)

    def run(
        self,
        coro: Coroutine[Any, Any, Any],
        scope: Scope,
        *,
        patience: float = LEFT_WITHIN,
        begun: Callable[[LoopJob], object] | None = None,
    ) -> Any:
        """Run a coroutine to its end, and return what it returned, or raise; see :meth:`LoopJob.result`.

        It runs in a copy of this thread's context variables. ``begun`` is told of the job as soon as it can be cancelled.
        """
        if on_job_loop():  # an eager run inside a coroutine: the loop waits for it here, and could not run it
            with _no_running_loop():
                apart = JobLoop(self._environment)
                try:
                    return apart.run(coro, scope, patience=patience, begun=begun)
                finally:
                    apart.stop()
        with self._begun(coro, scope) as job:
            if begun is not None:
                begun(job)
            return job.result(patience)

    @contextlib.contextmanager
    def _begun(self, coro: Coroutine[Any, Any, Any], scope: Scope) -> Iterator[LoopJob]:
        job = LoopJob(self, coro, scope)
        self._start()
        self._jobs.add(job)
        self._watch.start()
        if len(self._jobs) == 1:
            self._watch.wake()
        try:
            self._call(job.start)
            yield job
        finally:
            self._jobs.discard(job)

    def soon(self, action: Callable[[], object]) -> None:
        """Call ``action`` on the loop."""
        self._call(lambda _: action())

    def answers(self) -> bool:
        """Say whether the loop is not blocked; waits for ``ANSWERS_WITHIN`` seconds at most."""
        answered = threading.Event()
        self.soon(answered.set)
        return answered.wait(ANSWERS_WITHIN)

    def stop(self) -> None:
        """End the thread, bounded; a coroutine that still runs takes no further step."""
        self._stopping = True
        self._watch.stop()
        thread, loop = self._thread, self._loop
        if thread is None or loop is None:
            return
        for job in list(self._jobs):
            job.close()
            job.wait(CLOSED_WITHIN)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(STOPPED_WITHIN)
        if thread.is_alive():
            logger.warning("thread %s did not stop within %g s; it is left to end with the process", thread.name, STOPPED_WITHIN)

    def _call(self, action: Callable[[asyncio.AbstractEventLoop], object]) -> None:
        loop = self._loop
        assert loop is not None
        # In no job's variables: what is called here is the loop's own.
        loop.call_soon_threadsafe(action, loop, context=Variables())

    def _start(self) -> None:
        if self._thread is not None:
            return
        with self._starting:
            if self._thread is None:
                self._loop = self._new_loop()
                self._loop.set_task_factory(_Factory(self))
                thread = threading.Thread(target=self._run, args=(self._loop,), name="taskora-loop", daemon=True)
                thread.start()
                self._thread = thread

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        if self._environment == "default":
            return asyncio.new_event_loop()
        return asyncio.SelectorEventLoop(_cooperative_selector())

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        self._frame = _own_frame(self._environment)
        asyncio.set_event_loop(loop)
        try:
            while not self._stopping:
                # Raised by a job's coroutine: who waits for it gets it, too, and the loop is the other jobs' as well.
                with contextlib.suppress(SystemExit, KeyboardInterrupt):
                    loop.run_forever()
            with contextlib.suppress(Exception):
                loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    # --- on the watch's thread -----------------------------------------------------------------------------------------

    def _look(self) -> float | None:
        """Report a step that takes too long; return the seconds until the next look."""
        step = self.step
        if step is not None:
            job, since = step
            taken = time.monotonic() - since
            if taken >= BLOCKED_AFTER and not job.is_reported:
                job.is_reported = True
                job.scope.blocked(taken, _stack_of(self._frame()))
        return BLOCKED_AFTER / 2 if self._jobs else None


class _Factory:
    """Makes the loop's tasks; those of a job take their steps as its own, be they started by it or by what it calls."""

    def __init__(self, owner: JobLoop) -> None:
        self._owner = owner

    def __call__(self, loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
        context: Variables | None = kwargs.get("context")
        job = _job.get() if context is None else context.get(_job)
        if job is None:
            return asyncio.Task(coro, loop=loop, **kwargs)
        task = asyncio.Task(_Steps(coro, job, self._owner), loop=loop, **kwargs)
        job.tasks.add(task)
        return task


class _Steps(Coroutine[Any, Any, Any]):
    """A coroutine of a job, each step of which runs in the job's scope; once the job is closed, it takes none."""

    def __init__(self, coro: Coroutine[Any, Any, Any], job: LoopJob, loop: JobLoop) -> None:
        self._coro = coro
        self._job = job
        self._loop = loop

    def send(self, value: Any) -> Any:
        return self._step(self._coro.send, value)

    def throw(self, *exc: Any) -> Any:
        return self._step(self._coro.throw, *exc)

    def close(self) -> None:
        self._coro.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coro.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coro, name)  # cr_frame and its kin, by which asyncio shows where a task is

    def _step(self, step: Callable[..., Any], *args: Any) -> Any:
        job = self._job
        job.scope.enter()
        self._loop.step = (job, time.monotonic())
        try:
            if job.is_closed:
                self._close()
            return step(*args)
        finally:
            self._loop.step = None
            job.scope.leave()

    def _close(self) -> None:
        try:
            self._coro.close()
        except BaseException:  # it awaits in a `finally`, or catches what nobody may catch: it is not asked again
            logger.exception("a coroutine of an ended job did not close")
        raise asyncio.CancelledError


def _cooperative_selector() -> selectors.BaseSelector:
    """Return a selector for a loop that shares its thread with greenlets, which asyncio knows nothing of.

    asyncio keeps the running loop by thread, so while the loop waits all greenlets of it would seem to run inside the loop, and
    could use none of their own.
    """

    class Selector(selectors.DefaultSelector):  # made here: it is the patched one
        def select(self, timeout: float | None = None) -> Any:
            with _no_running_loop():
                return super().select(timeout)

    return Selector()


@contextlib.contextmanager
def _no_running_loop() -> Iterator[None]:
    loop = asyncio._get_running_loop()  # noqa: SLF001 - for event loops, says its documentation
    asyncio._set_running_loop(None)  # noqa: SLF001
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)  # noqa: SLF001


def _own_frame(environment: str) -> Callable[[], Any]:
    """Return a function that returns the frame in which this thread or greenlet is."""
    if environment == "default":
        ident = threading.get_ident()
        return lambda: sys._current_frames().get(ident)  # noqa: SLF001 - the documented way
    import greenlet

    own = greenlet.getcurrent()
    return lambda: own.gr_frame


def _stack_of(frame: Any) -> str:
    """Return the part of a stack that is a coroutine's, innermost call last."""
    entries = traceback.extract_stack(frame) if frame is not None else []
    own = [number for number, entry in enumerate(entries) if entry.filename == __file__]
    return "".join(traceback.format_list(entries[own[-1] + 1 :] if own else entries))
