"""How running jobs are stopped: one road for cancel, time limit and shutdown.

Signal, then (after a grace) an exception in the handler, then (after another) the end of the process. Each pool goes as far as it
can: see docs/stopping.md.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from queue import SimpleQueue
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded

from taskora_celery.agenda import Agenda, Due
from taskora_celery.background import Background
from taskora_celery.clock import SYSTEM_CLOCK, Clock
from taskora_celery.context import Context
from taskora_celery.errors import JobCancelledError, NotSupportedError, cancelled_as
from taskora_celery.interrupts import Interrupt, interrupt_for
from taskora_celery.store.journal import CANCEL
from taskora_celery.store.protocol import CancelRequest, Shutdown

__all__ = ["KEPT_FOR", "JobStop", "Stopper"]

logger = logging.getLogger("taskora_celery.stopping")

#: So long, in seconds, and so many announcements are kept, for a job that is just about to begin.
KEPT_FOR = 60.0
KEPT = 10_000
#: So many seconds after an interruption, and then twice as many each time, is one that has not arrived sent again.
PRESS_AFTER = 0.05
#: However short the grace, a handler is interrupted again only so many seconds later.
INSIST_AFTER = 0.1
#: A handler whose time was over before it began is interrupted so many seconds later.
NOT_YET = 0.01


class JobStop:
    """How one running job is stopped. Made and closed by the thread that runs the handler; told by any.

    ``grace`` is in seconds; ``in_child`` says that the job has a process of a pool for itself; ``deadline`` is the instant of the
    soft time limit (seconds since the epoch) where this library keeps it or may have to, ``limit`` that of the hard one where the
    pool keeps it.
    """

    def __init__(
        self,
        stopper: Stopper,
        ctx: Context,
        *,
        worker: str,
        grace: float,
        in_child: bool,
        deadline: float | None = None,
        limit: float | None = None,
    ) -> None:
        self.ctx = ctx
        self.worker = worker
        self.interrupt: Interrupt = stopper.new_interrupt()
        self._stopper = stopper
        self._grace = grace
        self._in_child = in_child
        self._deadline = deadline
        self._limit = limit
        self._extended = False
        #: How many looks at the deadline are due.
        self._looks = 0
        self._closed = False
        self._request: CancelRequest | None = None
        #: Counts what was opened: whatever was due to an earlier part of the job is not done to the next.
        self._part = 0
        self._interrupted = False
        self._limit_told = False
        self._dues: list[Due] = []
        #: Held while the process is ended, and while the handler's end is noted: a job that has ended is not killed.
        self._ending = threading.Lock()

    # --- the handler's side --------------------------------------------------------------------------------------------

    def shield(self) -> AbstractContextManager[None]:
        """Keep interruptions out of a block."""
        return self.interrupt.shield()

    def extend(self, seconds: float) -> float:
        """Move the soft deadline; return the new one.

        :raises NotSupportedError: there is no soft time limit, or the hard one, if the pool keeps it, is before the new deadline.
        """
        if self._deadline is None:
            raise NotSupportedError("this job has no soft time limit that could be extended: set soft_time_limit on the task")
        moved = self._deadline + seconds
        if self._limit is not None and moved >= self._limit:
            raise NotSupportedError(
                f"the deadline cannot be moved by {seconds:g} s: the hard time_limit, which this pool keeps, ends the job in "
                f"{max(self._limit - self._stopper.clock.time(), 0):.1f} s"
            )
        self._deadline, self._extended, self._limit_told = moved, True, False
        self._look_at_deadline()
        return moved

    def open(self) -> None:
        """Begin: the handler is about to be called."""
        if self._in_child:
            self._stopper.start()  # Celery's own limit, which it may keep without our knowing, is told by this thread
        if self._deadline is not None and not self._in_child:
            # In a child of a pool Celery raises at the limit, but it is this thread that wakes who waits for the signal.
            self._look_at_deadline()
        self.interrupt.open()

    def close(self) -> None:
        """End: the handler has ended, and nothing is raised in it any more."""
        self.interrupt.close()
        with self._ending:
            self._part += 1

    def open_clean_up(self) -> None:
        """Begin the cleaning up after a cancel: it has a grace of its own, and is interrupted and ended likewise."""
        self._insist_at(self._grace, self._part, last=False)
        self.interrupt.open()

    def close_for_good(self) -> None:
        """Let go of the job."""
        self._closed = True
        self._stopper.forget(self)
        if self._dues:
            self._stopper.drop(self._dues)
        if self.ctx.signal.aborted:  # marked in a signal handler, it may not be told yet
            self.ctx.signal.tell()

    # --- the other side ------------------------------------------------------------------------------------------------

    def cancel(self, request: CancelRequest) -> None:
        """Somebody wants the job to stop; the first request counts, but one that is not gentle counts over a gentle one."""
        before = self._request
        if self._closed or (before is not None and (request.gently or not before.gently)):
            return
        self._request = request
        heard = self.ctx.time()
        self.interrupt.gently = request.gently
        self.ctx.signal.abort("cancelled", request.reason)
        self.note("delivered", heard)
        if not request.gently:
            grace = self._grace if request.grace is None else request.grace
            if before is not None and self.interrupt.on_loop:
                self.interrupt.fire(JobCancelledError)  # by now the signal, which does that at once, has fired
            self._insist_at(grace, self._part, last=False)

    @property
    def is_gentle(self) -> bool:
        """Whether what was heard until now is a plain revoke: only the signal has fired, and nothing is to follow."""
        return self._request is not None and self._request.gently

    def shut_down(self) -> None:
        """Say that the worker shuts down."""
        if not self._closed:
            self.ctx.signal.abort("shutdown", "the worker shuts down")

    def soft_limit(self) -> bool:
        """Celery's soft limit has come, in a signal handler; say whether it is held off.

        That is so where the deadline was extended, and where the handler is a coroutine, which is told on its loop.
        """
        if not self._in_child:
            return False
        # The log is the thread's, too: its lock may be held by the lines that this interrupts.
        if self._extended and self._deadline is not None and self._stopper.clock.time() < self._deadline - 0.05:
            self._stopper.soon(lambda: self._log(logging.INFO, "the soft time limit has come, but was extended: the job goes on"))
            return True
        self._stopper.soon(lambda: self._log(logging.WARNING, "the soft time limit is exceeded"))
        if self.ctx.signal.mark("timeout", "soft_time_limit"):
            self._stopper.soon(self.ctx.signal.tell)
        if self.interrupt.on_loop:
            self._stopper.soon(lambda: self._interrupt(SoftTimeLimitExceeded))
        return self.interrupt.on_loop

    def _log(self, level: int, what: str) -> None:
        logger.log(level, "job %s (%s): %s", self.ctx.id, self.ctx.name, what)

    def _look_at_deadline(self) -> None:
        assert self._deadline is not None
        self._looks += 1
        self._after(self._deadline - self._stopper.clock.time(), self._at_deadline)

    def _at_deadline(self) -> None:
        self._looks -= 1
        now = self._stopper.clock.time()
        if self._closed or self._deadline is None or (self._in_child and not self._extended):
            return
        if now < self._deadline - 0.001:  # it was extended meanwhile; or the machine's clock was set back, and nobody looks again
            if not self._looks:
                self._look_at_deadline()
            return
        self.reach_limit()

    def reach_limit(self) -> None:
        """Fire the signal, since the soft time limit has come, and interrupt the handler."""
        # Once: each instant that the deadline has had is due some time, and a late thread finds several to be. The signal may
        # have fired for another reason, and the limit holds all the same; but a cancel has its own road to the end.
        if not (self._limit_told or self._is_ending or self._closed):
            self._limit_told = True
            self._log(logging.WARNING, "the soft time limit is exceeded")
            self.ctx.signal.abort("timeout", "soft_time_limit")
            self._interrupt_at_limit(self._part)

    @property
    def _is_ending(self) -> bool:
        return self._request is not None and not self._request.gently

    def _interrupt_at_limit(self, part: int) -> None:
        if self._closed:  # since this was planned: nobody has dropped it then
            return
        if part == self._part and not self._interrupt(SoftTimeLimitExceeded) and self.interrupt.can:
            self._after(NOT_YET, lambda: self._interrupt_at_limit(part))

    def _interrupt(self, exc: type[Exception]) -> bool:
        """Raise an exception in the handler; say whether that can be done here, and now."""
        if not self.interrupt.fire(exc):
            return False
        if self.interrupt.may_be_late:
            self._press_in(PRESS_AFTER, self._part)
        return True

    def _press_in(self, pause: float, part: int) -> None:
        self._after(pause, lambda: self._press(pause, part))

    def _press(self, pause: float, part: int) -> None:
        if part == self._part and self.interrupt.press():
            self._press_in(2 * pause, part)

    def _insist_at(self, grace: float, part: int, *, last: bool) -> None:
        self._after(grace, lambda: self._insist(part, grace, last=last))

    def _insist(self, part: int, grace: float, *, last: bool) -> None:
        """Interrupt the handler, whose grace is over; when another is over, end its process, or interrupt it again."""
        if part != self._part:
            return
        if last and self.interrupt.end():
            self._insist_at(max(grace, INSIST_AFTER), part, last=True)
            return
        if last and self._in_child:
            logger.error("job %s does not stop: its process is ended", self.ctx.id)
            self.note("killed")
            self._stopper.before_kill(self.ctx)
            with self._ending:
                if part == self._part:
                    os.kill(os.getpid(), signal.SIGKILL)
            return
        exc = cancelled_as(self.ctx.id, self.ctx.signal.message if self._request is None else self._request.reason)
        with self._ending:  # its cleaning up, which may be about to begin, has a grace of its own
            fired = part == self._part and self._interrupt(exc)
        if fired and not self._interrupted:
            self._interrupted = True
            self.note("interrupted")
        # Not fired where it could be: the handler is just about to begin.
        self._insist_at(max(grace, INSIST_AFTER), part, last=fired or not self.interrupt.can)

    def _after(self, seconds: float, action: Callable[[], Any]) -> None:
        # What is done is let go of: a handler that cannot be interrupted is tried again and again, perhaps for ever.
        self._dues = [*(due for due in self._dues if due.action is not None), self._stopper.after(seconds, action)]

    def note(self, phase: str, at: float | None = None) -> None:
        """Write a step of the cancel into the job's journal."""
        self.ctx.logs.extend((CANCEL, self.ctx.time() if at is None else at, {"phase": phase}, None, None))
        self.ctx.touch()


class Stopper:
    """Knows the jobs that run in this process, and does what is due to them.

    One daemon thread named ``taskora-stopper``, started by the first job that has a deadline or is cancelled, asleep until
    something is due; see :class:`~taskora_celery.background.Background` for its contract. Any thread may call it.
    """

    def __init__(self, environment: str, before_kill: Callable[[Context], Any], clock: Clock = SYSTEM_CLOCK) -> None:
        """``before_kill`` writes what a job has said until now, bounded: after it the process is gone."""
        self.environment = environment
        self.before_kill = before_kill
        self.clock = clock
        self._lock = threading.Lock()
        self._running: dict[int, JobStop] = {}
        self._recent: OrderedDict[str, tuple[float, CancelRequest]] = OrderedDict()
        self._agenda = Agenda()
        self._urgent: SimpleQueue[Callable[[], Any]] = SimpleQueue()
        self._thread = self._new_thread()

    def _new_thread(self) -> Background:
        return Background("taskora-stopper", self._turn)

    def new_interrupt(self) -> Interrupt:
        """Return the way to interrupt the handler that is about to run in this thread or greenlet."""
        return interrupt_for(self.environment)

    def watch(self, stop: JobStop) -> None:
        """Take in a job that is about to begin; one that was cancelled in the moment before is told at once."""
        self._running[id(stop)] = stop
        if self._recent:
            with self._lock:
                found = self._recent.get(stop.ctx.id)
            if found is not None and found[1].now_ms >= stop.ctx.timestamp:
                stop.cancel(found[1])

    def has_heard(self, job_id: str) -> bool:
        """Say whether somebody wanted this job to stop, in the last ``KEPT_FOR`` seconds."""
        return job_id in self._recent

    def forget(self, stop: JobStop) -> None:
        """Let go of a job that has ended."""
        self._running.pop(id(stop), None)

    def announced(self, announcement: CancelRequest | Shutdown) -> None:
        """Hand an announcement to the jobs that it is for."""
        if isinstance(announcement, Shutdown):
            for stop in list(self._running.values()):
                if stop.worker == announcement.worker:
                    stop.shut_down()
            return
        self.cancel(announcement)

    def cancel(self, request: CancelRequest) -> None:
        """Somebody wants a job of this process to stop, as was announced, or as its record says."""
        # First kept, then told: a job that begins between the two finds it kept.
        self._keep(request)
        for stop in list(self._running.values()):
            if stop.ctx.id == request.id:
                stop.cancel(request)

    def start(self) -> None:
        """Start the thread before it has anything to do: :meth:`soon` cannot."""
        self._thread.start()

    def after(self, seconds: float, action: Callable[[], Any]) -> Due:
        """Call ``action`` when so many seconds have passed, in the thread, whatever the machine's clock is set to meanwhile."""
        due = self._agenda.add(self.clock.monotonic() + seconds, action)
        self._thread.start()
        self._thread.wake()
        return due

    def drop(self, dues: list[Due]) -> None:
        """Do none of these any more; what they hold is let go of."""
        self._agenda.drop(dues)

    def soon(self, action: Callable[[], Any]) -> None:
        """Call ``action`` in the thread, where it runs. For signal handlers: takes no lock, and starts nothing."""
        self._urgent.put(action)
        self._thread.wake()

    def stop(self) -> None:
        """End the thread; bounded."""
        self._thread.stop()

    def _keep(self, request: CancelRequest) -> None:
        now = self.clock.monotonic()
        with self._lock:
            self._recent[request.id] = (now, request)
            while self._recent and (len(self._recent) > KEPT or next(iter(self._recent.values()))[0] < now - KEPT_FOR):
                self._recent.popitem(last=False)

    def _turn(self) -> float | None:
        while not self._urgent.empty():
            self._do(self._urgent.get())
        while callable(due := self._agenda.take(self.clock.monotonic())):
            self._do(due)
        return due

    @staticmethod
    def _do(action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception:  # a listener of a job's signal, say; what is due to others is done
            logger.exception("a job could not be told to stop")
