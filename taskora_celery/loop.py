"""The event loop on which the coroutines of a process's jobs run.

One loop on one thread for all jobs: what a job opens in it (a connection pool, say) serves the next. Whoever runs a coroutine
waits for it in its own thread, so that Celery's pools see a handler like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine
from contextvars import Context as Variables
from pathlib import Path
from typing import Any

from taskora_celery import loop_job
from taskora_celery.background import Background, start_thread
from taskora_celery.greenlet_loop import ThreadState, cooperative_selector, no_running_loop
from taskora_celery.loop_job import LoopJob, Scope, TaskFactory, current_job, ended

__all__ = ["JobLoop", "on_job_loop"]

logger = logging.getLogger("taskora_celery.loop")

#: A loop that is not blocked answers within so many seconds.
ANSWERS_WITHIN = 0.2
#: How long :meth:`JobLoop.stop` waits for the thread, in seconds.
STOPPED_WITHIN = 5.0

_PACKAGE = Path(__file__).parent


def on_job_loop() -> bool:
    """Say whether this is a coroutine of a job: whatever waits here holds up all others."""
    if current_job.get() is None:
        return False
    try:
        return isinstance(asyncio.get_running_loop().get_task_factory(), TaskFactory)
    except RuntimeError:
        return False


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
        #: Of a loop in a greenlet.
        self._state = ThreadState()
        self._stopping = False
        #: The jobs on the loop; while there are any, somebody looks whether one blocks it.
        self._jobs: set[LoopJob] = set()
        self._looking = False
        #: Whose step is being taken, since when (monotonic seconds); None between two steps.
        self.step: tuple[LoopJob, float] | None = None
        self._frame: Callable[[], Any] = lambda: None
        self._watch = Background("taskora-loop-watch", self._look)

    def run(
        self,
        coro: Coroutine[Any, Any, Any],
        scope: Scope,
        *,
        patience: float = loop_job.LEFT_WITHIN,
        begun: Callable[[LoopJob], object] | None = None,
    ) -> Any:
        """Run a coroutine to its end, and return what it returned, or raise; see :meth:`LoopJob.result`.

        Whatever is raised in the waiting thread meanwhile (a time limit, the end of the process) cancels the coroutine, which has
        ``patience`` seconds to end before it is closed, and is raised then.

        It runs in a copy of this thread's context variables. ``begun`` is told of the job as soon as it can be cancelled.
        """
        if on_job_loop():  # an eager run inside a coroutine: the loop waits for it here, and could not run it
            with no_running_loop():
                apart = JobLoop(self._environment)
                try:
                    return apart.run(coro, scope, patience=patience, begun=begun)
                finally:
                    apart.stop()
        job = LoopJob(self, coro, scope)
        self._start()
        try:
            self._watch_over(job)
            if begun is not None:
                begun(job)  # before its first step: what comes in that is heard
            self._call(job.start)
            return job.result()
        except BaseException:  # here, and not around the wait alone: a time limit may land in any of these lines
            job.end(patience)
            raise
        finally:
            self._jobs.discard(job)
            job.forget()

    def _watch_over(self, job: LoopJob) -> None:
        self._jobs.add(job)
        self._watch.start()
        if not self._looking:
            self._watch.wake()

    def soon(self, action: Callable[[], object]) -> bool:
        """Call ``action`` on the loop; where that is closed nothing runs, and nothing is done: it says False."""
        try:
            self._call(lambda _: action())
        except RuntimeError:
            return False
        return True

    def answers(self) -> bool:
        """Say whether the loop is not blocked; waits for ``ANSWERS_WITHIN`` seconds at most."""
        answered = threading.Event()
        self.soon(answered.set)
        return answered.wait(ANSWERS_WITHIN)

    def stop(self) -> None:
        """End the thread, bounded, and idempotent; a coroutine that still runs takes no further step."""
        self._watch.stop()
        thread, loop = self._thread, self._loop
        if thread is None or loop is None:
            return
        jobs, until = list(self._jobs), time.monotonic() + loop_job.CLOSED_WITHIN
        for job in jobs:
            job.close()
        for job in jobs:
            job.wait(max(until - time.monotonic(), 0))
        self._stopping = True
        self.soon(loop.stop)
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
                self._loop.set_task_factory(TaskFactory(self))
                self._thread = start_thread("taskora-loop", self._run, self._loop)

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        if self._environment == "default":
            return asyncio.new_event_loop()
        return asyncio.SelectorEventLoop(cooperative_selector(self._state))

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        self._frame = _own_frame(self._environment)
        asyncio.set_event_loop(loop)
        try:
            while not self._stopping:
                # Raised by a job's coroutine: who waits for it gets it, too, and the loop is the other jobs' as well.
                with contextlib.suppress(SystemExit, KeyboardInterrupt), self._state.swapped():
                    loop.run_forever()
            with contextlib.suppress(Exception), self._state.swapped():
                loop.run_until_complete(_end_the_rest())
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    def late(self, job: LoopJob, seconds: float, coro: Any) -> None:
        """Report a step that is over and has taken too long; by now the coroutine is where it awaits next, or has ended."""
        job.report(seconds, _stack_of_coroutine(coro))

    # --- on the watch's thread -----------------------------------------------------------------------------------------

    def _look(self) -> float | None:
        """Report a step that takes too long; return the seconds until the next look."""
        step = self.step
        if step is not None and (taken := time.monotonic() - step[1]) >= loop_job.BLOCKED_AFTER:
            stack = _stack_of(self._frame())
            if self.step is step:  # else the stack may be another's, and the step has been reported at its end
                step[0].report(taken, stack)
        self._looking = False  # first: a job that begins meanwhile is seen in the next line, or sees this one
        self._looking = bool(self._jobs)
        return loop_job.BLOCKED_AFTER / 2 if self._looking else None


async def _end_the_rest() -> None:
    """End what belongs to no job and still runs: a background task of a shared client, which cleans up."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await ended(left, loop_job.CLOSED_WITHIN)
    await asyncio.wait_for(asyncio.get_running_loop().shutdown_asyncgens(), loop_job.CLOSED_WITHIN)


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
    steps = [number for number, entry in enumerate(entries) if entry.filename == loop_job.__file__]
    return _shown(entries[steps[-1] + 1 :] if steps else entries)


def _stack_of_coroutine(coro: Any) -> str:
    """Return where a coroutine awaits, innermost last; empty where it has ended."""
    frames = []
    while (frame := getattr(coro, "cr_frame", None)) is not None:
        frames.append((frame, frame.f_lineno))
        coro = coro.cr_await
    return _shown(traceback.StackSummary.extract(frames))


def _shown(entries: list[traceback.FrameSummary]) -> str:
    """Return a stack without our own lines above the handler."""
    first = next((number for number, entry in enumerate(entries) if Path(entry.filename).parent != _PACKAGE), len(entries))
    return "".join(traceback.format_list(entries[first:]))
