"""The thread that tells the store what the jobs of a process say."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from taskora_celery.background import Wakes, start_thread
from taskora_celery.clock import SYSTEM_CLOCK, Clock
from taskora_celery.errors import StoreUnavailableError
from taskora_celery.lease.protocol import Lease
from taskora_celery.records import Outcome
from taskora_celery.redaction import Redactor
from taskora_celery.reporter.changes import Changes
from taskora_celery.reporter.decisions import Outage, linger
from taskora_celery.reporter.leases import Leases
from taskora_celery.reporter.live import LiveJob
from taskora_celery.reporter.outbox import drop_excess
from taskora_celery.reporter.report import JobReport
from taskora_celery.reporter.showing import Showing
from taskora_celery.settings import Settings
from taskora_celery.store.counting import loss_counts
from taskora_celery.store.protocol import Begin, Begun, Ended, JobStore, Reply, Report
from taskora_celery.tally import Count

__all__ = ["Reporter"]

logger = logging.getLogger("taskora_celery.reporter")

#: Jobs that ended while the store was away and still have something to be written; beyond it the oldest are given up.
BACKLOG_JOBS = 1_000
#: Log entries of one process that wait for a store that is away, in bytes, over all jobs.
BUFFER_BYTES = 32 * 1024 * 1024
#: How long :meth:`Reporter.close` waits for its thread, in seconds.
JOIN_TIMEOUT = 5.0


class Reporter:
    """Sends what running jobs report: one batch per flush interval for all jobs of the process.

    Thread contract: one daemon thread named ``taskora-reporter``, started by the first job (so in a prefork child after the
    fork), asleep without a timeout while no job has anything to say. It survives any error of the store, the broker
    and the result backend. :meth:`close` wakes it, lets it flush once more, and joins it for at most ``JOIN_TIMEOUT`` seconds,
    with a warning if that is not enough. What waits is bounded by ``buffer_limit`` entries per job and ``BACKLOG_JOBS`` jobs.

    The lock is held while reports are taken and sent, so that a job's end never overtakes its own last flush.
    """

    def __init__(
        self,
        store: JobStore | None,
        settings: Settings,
        redactor: Redactor,
        *,
        open_lease: Callable[[], Lease] | None = None,
        on_stopping: Callable[[JobReport], bool] | None = None,
        clock: Clock = SYSTEM_CLOCK,
        showing: Showing | None = None,
    ) -> None:
        """``on_stopping`` is called, by the reporter's thread, for a job that somebody wants to stop, as the store says.

        It returns false where it is to be called again when the store says so once more. ``showing`` writes progress to the
        places besides the store; None: in a thread of its own.
        """
        self._store = store
        self._on_stopping = on_stopping
        self._settings = settings
        self._redactor = redactor
        self.leases = Leases(open_lease, settings, clock)
        self._clock = clock
        self._showing = showing or Showing()
        self._lock = threading.Lock()
        self._start_lock = threading.Lock()
        #: Held while the answer to an end is noted, and while its handler, which may not have waited for it, is told.
        self._answering = threading.Lock()
        self._wake = Wakes()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._live: dict[int, LiveJob] = {}
        self._backlog: deque[LiveJob] = deque()
        #: Jobs whose handlers wait for their last flush.
        self._ending: deque[LiveJob] = deque()
        #: What the store is told of all jobs together.
        self.changes = Changes()
        self._urgent = False
        #: All running jobs are to be asked for.
        self._looking = False
        #: When the newest job began, in monotonic seconds.
        self._begun_at = 0.0
        #: Ended jobs whose last reports found no room in the backlog, in this outage.
        self._given_up = 0
        self._outage = Outage()

    def begin(self, report: JobReport, begin: Begin) -> Begun | None:
        """Take over the report of a delivery, and register the delivery with the store.

        What the store knows of the job is returned: one round trip, at most ``final_flush_timeout``. Where the store is away,
        None is returned, and the delivery is registered with the first report. Where the answer is a verdict against the
        delivery, nothing is taken over.
        """
        begun = self._begin(begin)
        if begun is not None and begun.fence <= 0:
            return begun
        self._begun_at = self._clock.monotonic()
        live = LiveJob(report, begin, self._settings, self._redactor, self._begun_at)
        if begun is None:
            live.unregistered()
        else:
            report.fence = begun.fence
        self.changes.begun(begin)
        report.on_touch = self._touched
        self._live[id(report)] = live
        if self._thread is None:
            self._start()
        self._wake.set()
        return begun

    def flush(self, report: JobReport, ended: Ended | None = None) -> Reply:
        """Write all that a job has said until now, and its end, before returning; say what became of it.

        ``SUPERSEDED``: this execution counts no more. ``CANCELLED``: all is written but the end, since somebody wanted the job to
        stop before it ended. Both are decided by the store, so an end is always a round trip; what else is said is written in it.
        Waits for the store for at most ``final_flush_timeout`` seconds, and not at all in an outage: then the answer is
        ``ACCEPTED``, and what remains is kept (bounded) and written when the store is back. Never raises for what a job reported
        or for what the store does.
        """
        live = self._live.get(id(report))
        if live is None:
            return Reply.ACCEPTED
        if ended is not None:
            live.cancelled = False  # before there is an end: the thread may take it at once, and have its answer
            live.end = ended
        if live.superseded is not None:
            return Reply.SUPERSEDED
        if ended is None and live.is_silent():
            return Reply.ACCEPTED
        if not self._outage.failures:  # asking again is for the reporter's thread: no handler pays for an outage twice
            self._send_ending(live)
        if live.superseded is not None:
            return Reply.SUPERSEDED
        with self._answering:
            if live.cancelled:
                return Reply.CANCELLED
            if ended is not None:
                # Not asked in time. What Celery stores is how it ended, whoever wants it to stop before the store hears of that.
                live.stands = ended.state in Outcome.FINAL and (live.end is not None or live.outbox.ended is not None)
        if ended is not None:
            # The index is told in the thread's next turn.
            self.changes.ended(live.begin, ended)
        self._wake.set()
        return Reply.ACCEPTED

    def _send_ending(self, live: LiveJob) -> None:
        """Send for a job whose handler waits, and for all others that do."""
        # Who gets the lock sends for all that wait for it: jobs that end at once share a round trip.
        self._ending.append(live)
        acquired = self._lock.acquire(timeout=self._settings.final_flush_timeout)
        try:
            if acquired:
                self._flush([self._ending.popleft() for _ in range(len(self._ending))])
        except Exception:  # a job's own outcome must not hang on its records
            logger.exception("job %s: its last reports could not be written", live.report.id)
        finally:
            if acquired:
                self._lock.release()

    def release(self, report: JobReport) -> None:
        """Forget a job's report; what is not stored yet is still written. Returns when its progress sinks are at rest."""
        live = self._live.pop(id(report), None)
        report.on_touch = None
        # What is under way just now is sent once: nothing of it is left when the backlog's turn comes.
        if live is not None and (live.has_news() or live.outbox):
            self._backlog.append(live)
            self._wake.set()
        for sink in report.last_sinks():
            if sink is not None:
                self._showing.forget(sink)
                sink.close()

    def look(self) -> None:
        """Ask the store of every running job whether it may go on; the answer comes with the next flush."""
        self._looking = True
        self._touched()

    def close(self) -> None:
        """Write what can be written, and stop the thread. Bounded; idempotent."""
        self._stop.set()
        self._wake.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(JOIN_TIMEOUT)
            if thread.is_alive():
                logger.warning("thread %s did not stop within %g s; it ends with the process", thread.name, JOIN_TIMEOUT)
        self._showing.close()
        self.leases.close()

    def _touched(self) -> None:
        self._urgent = True
        self._wake.set()

    def _start(self) -> None:
        with self._start_lock:
            if self._thread is None and not self._stop.is_set():
                self._thread = start_thread("taskora-reporter", self._run)

    def _begin(self, begin: Begin) -> Begun | None:
        if self._store is None or self._outage.failures:  # in an outage only the reporter's thread asks again
            return None
        try:
            begun = self._store.begin(begin)
        except StoreUnavailableError as exc:
            self._store_failed(exc)
            return None
        self._store_answered()
        if begun.unheard:
            self.changes.counted(loss_counts(begin.name))
        return begun

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(self._pause())
            age = self._clock.monotonic() - self._begun_at
            self._stop.wait(linger(age, self._settings.flush_interval, urgent=self._urgent))
            self._wake.clear()
            self._urgent = False
            self._turn()
            self._stop.wait(self._settings.flush_interval)
        self._turn()

    def _turn(self) -> None:
        try:
            self._flush_all()
            self.leases.turn(list(self._live.values()))
            self._tell_jobs()
            self._show()
            self._note_changes()
        except BaseException:  # the thread's outer edge: it must outlive whatever a job's values or a driver do
            logger.exception("the reporter failed in one turn; it goes on")

    def _pause(self) -> float | None:
        """Return the seconds until something is due by itself, None where nothing is."""
        now = self._clock.monotonic()
        times = [at for live in list(self._live.values()) if (at := live.due_at(now)) is not None]
        if self._outage.failures and (self._backlog or self.changes or any(live.outbox for live in list(self._live.values()))):
            times.append(self._outage.ask_at)
        return max(min(times) - now, 0.0) if times else None

    def _flush_all(self) -> None:
        with self._lock:
            if self._looking:
                self._looking = False  # first: who wants another look meanwhile has it in the next turn
                for live in list(self._live.values()):
                    live.outbox.look = True
            backlog = [self._backlog.popleft() for _ in range(len(self._backlog))]
            try:
                self._flush([*list(self._live.values()), *backlog])
            finally:
                # Also where the store answered: it may have lost the record, and the job is registered anew in the next turn.
                self._keep([live for live in backlog if live.outbox])

    def _flush(self, jobs: list[LiveJob]) -> None:
        """Take what these jobs said, and send it. Under the lock."""
        now = self._clock.monotonic()
        for live in jobs:
            live.outbox.alive |= live.beats(now)
            # An announcement may have been missed: a job that says nothing asks with each renewal of its lease.
            live.outbox.look |= live.wants_renewal(now)
            if live.has_news():
                self._take(live)
            if live.superseded is not None and not live.fenced:
                live.outbox.refuse()  # the store does not know yet that this execution counts no more
        waiting = [live for live in jobs if live.outbox]
        if waiting and not self._send(waiting):
            self._bound(waiting)

    def _bound(self, jobs: list[LiveJob]) -> None:
        """Keep what waits in memory within ``BUFFER_BYTES``: the oldest entries of each job in turn are dropped, and counted."""
        dropped = drop_excess([live.outbox for live in jobs], BUFFER_BYTES)
        if dropped:
            self.changes.counted([(Count("dropped", ("log",)), dropped)])

    def _take(self, live: LiveJob) -> None:
        try:
            self.changes.counted(live.take(self._clock))
        except BaseException as exc:  # whatever a job's values do, the other jobs of the process are told of
            if not isinstance(exc, Exception) and threading.current_thread() is not self._thread:
                raise  # a handler's thread may be ended by its pool in any line
            live.taking = False
            logger.exception("job %s: a report could not be read, and is left out", live.report.id)

    def _keep(self, ended: list[LiveJob]) -> None:
        """Keep what ended jobs could not write, within bounds."""
        over = max(len(ended) - BACKLOG_JOBS, 0)
        if over and not self._given_up:
            logger.warning("the store is away, and more than %d jobs have ended: the oldest are given up", BACKLOG_JOBS)
        self._given_up += over
        if over:
            self.changes.counted([(Count("dropped", ("report",)), over)])
        self._backlog.extendleft(reversed(ended[-BACKLOG_JOBS:]))

    def _send(self, jobs: list[LiveJob]) -> bool:
        """Send the outboxes of these jobs; say whether the store took them."""
        if self._store is None:
            for live in jobs:
                live.outbox.clear()
            return True
        now = self._clock.monotonic()
        if self._outage.closed_at(now):
            return False
        now_ms = int(self._clock.time() * 1000)
        try:
            for live in [live for live in jobs if live.asks_for_fence]:
                self._register(self._store, live)
            pieces: list[tuple[LiveJob, Report]] = []
            for live in jobs:
                reports = live.outbox.reports(live.report.id, live.report.fence, now_ms, stands=live.stands)
                pieces += [(live, report) for report in reports]
            replies = self._store.report([report for _, report in pieces])
        except StoreUnavailableError as exc:
            self._store_failed(exc)
            return False
        self._store_answered()
        self._settle([(live, reply) for (live, _), reply in zip(pieces, replies, strict=True)])
        return True

    def _note_changes(self) -> None:
        """Note which jobs have begun, ended or are to run again, and what is counted: one script for all since the last turn."""
        self.changes.gather()
        if self._outage.closed_at(self._clock.monotonic()):
            return
        going, ended, counts = self.changes.take()
        if self._store is None or not (going or ended or counts):
            return
        try:
            self._store.note(going, ended, int(self._clock.time() * 1000), counts)
        except StoreUnavailableError as exc:
            self.changes.give_back(going, ended, counts)
            self._store_failed(exc)
        else:
            self._store_answered()

    def _settle(self, replies: list[tuple[LiveJob, Reply]]) -> None:
        unknown = {id(live) for live, reply in replies if reply is Reply.UNKNOWN}
        for live, reply in replies:
            if live.outbox.refused:
                live.outbox.clear()
            elif id(live) not in unknown:
                with self._answering:
                    ended = live.outbox.ended
                    live.outbox.clear()
                    live.cancelled |= reply is Reply.CANCELLED
                    if reply is Reply.CANCELLED and live.stands:  # it was on its way when its handler was told
                        live.outbox.ended = ended
                        self._touched()
                live.stopping |= reply in {Reply.STOPPING, Reply.CANCELLED}
                if reply is Reply.SUPERSEDED:
                    live.fenced = True
                    live.supersede("it was delivered again")
            elif reply is Reply.UNKNOWN:
                # The record expired, or the store lost its data: the same goes out again, with the delivery before it.
                live.forgotten()
                self._touched()

    def _register(self, store: JobStore, live: LiveJob) -> None:
        """Register a delivery that could not have the fence it took: the store gives it one."""
        begun = store.begin(live.begin)
        if begun.fence <= 0:
            live.supersede("it was delivered again")
            live.outbox.clear()
        else:
            live.registered(begun.fence)

    def _store_failed(self, exc: StoreUnavailableError) -> None:
        self.changes.counted([(Count("store_errors"), 1)])
        if self._outage.failed(self._clock.monotonic()):
            logger.error(
                "job records cannot be written: %s; jobs go on, reports wait in memory and the oldest may be dropped", exc
            )

    def _store_answered(self) -> None:
        if self._outage.succeeded():
            logger.warning("job records can be written again (%d ended jobs were given up)", self._given_up)
            self._given_up = 0

    def _tell_jobs(self) -> None:
        """Fire the signals of jobs that count no more, or are to stop; outside the lock, since their listeners are the user's."""
        for live in list(self._live.values()):
            if live.superseded is not None and not live.told:
                live.told = True
                live.report.supersede(live.superseded)
            if live.stopping and not live.told_stopping and self._on_stopping is not None:
                # A plain revoke may be followed by a cancel: then the next word from the store is asked for again.
                live.told_stopping = live.stopping = self._on_stopping(live.report)

    def _show(self) -> None:
        """Have progress written to the result backend, and for monitors, of the jobs whose turn it is."""
        for live in list(self._live.values()):
            live.show(self._clock, self._showing)
