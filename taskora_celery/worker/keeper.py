"""Keeping what the worker holds, and bringing back what nobody keeps: a thread in the worker's parent."""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from celery.concurrency.base import BasePool

from taskora_celery.background import Background
from taskora_celery.delivery import Delivery
from taskora_celery.errors import StoreUnavailableError
from taskora_celery.lease.fence import FencedChannel, RedisFence
from taskora_celery.lease.protocol import NO_LEASE, Due, Held, Hold, Lease
from taskora_celery.lease.redis import holds
from taskora_celery.lease.resolve import lease_for
from taskora_celery.reporter.decisions import Outage, lease_interval
from taskora_celery.runtime import Runtime, settings_of
from taskora_celery.store.protocol import Loss, Shutdown
from taskora_celery.worker.backstop import Backstop
from taskora_celery.worker.ending import end_process
from taskora_celery.worker.exits import ExitWatch
from taskora_celery.worker.holdings import copied, holdings
from taskora_celery.worker.leftovers import BRPOP_TIMEOUT, Leftovers

if TYPE_CHECKING:
    from taskora_celery.worker.request import JobRequest

__all__ = ["Keeper", "loss_of"]

logger = logging.getLogger("taskora_celery.worker")

#: Keepers of many workers see the same message run out: each waits up to this part of its interval, so that one is first.
SPREAD = 0.05
#: Running jobs are told of a shutdown once in so many seconds: a process may have begun to listen only after the first time.
TELL_AGAIN = 1.0
#: Somebody else puts back what is due; whether anything is left for us to do shows in so many seconds.
LOOK_AGAIN = 0.05
#: Why a job is delivered again whose worker is not there to say it.
UNHEARD = "its worker was not heard of in time"


def loss_of(due: Due, record: Mapping[str, Any], now_ms: int) -> Loss:
    """Return what to write of a message that nobody renewed: the delivery of this ``record`` is lost, and no later one."""
    token = record.get("o") if record.get("l") == due.tag else None
    return Loss(due.job_id, due.name, due.attempt, str(record.get("w", "")), due.tag, token, now_ms, UNHEARD)


class Keeper:
    """Renews every delivery that one worker holds, and puts back what nobody renews any more, be it another worker's.

    One daemon thread named ``taskora-keeper`` with a broker connection of its own, one command in each interval; see
    :class:`~taskora_celery.background.Background` for its contract. In a warm shutdown it goes on until the pool has ended.
    The worker's main thread calls the other methods.
    """

    _by_app: ClassVar[WeakKeyDictionary[Any, Keeper]] = WeakKeyDictionary()

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._app = worker.app
        self._settings = settings_of(worker.app)
        self._lease: Lease | None = None
        self._outage = Outage()
        self._requests: WeakValueDictionary[str, JobRequest] = WeakValueDictionary()
        #: Jobs that had to show life, and whose messages came back here while they ran.
        self._replaced: deque[JobRequest] = deque()
        self._fences: WeakKeyDictionary[Any, RedisFence] = WeakKeyDictionary()
        #: When each tag was last found held, in monotonic seconds.
        self._held_at: dict[str, float] = {}
        self._told_swept = False
        self._draining = False
        self._shutting_down = False
        #: When running jobs are told of the shutdown, again, in monotonic seconds.
        self._tell_shutdown_at = 0.0
        self._runtime = Runtime.of(worker.app)
        self._thread = Background("taskora-keeper", self._turn)
        options = worker.app.conf.broker_transport_options or {}
        self.leftovers = Leftovers(self._thread.wake, float(options.get("polling_interval") or BRPOP_TIMEOUT))
        self.exits = ExitWatch(worker)
        self._backstop = Backstop(self._runtime.store, self._grace_of, self._thread.wake)
        self._by_app[worker.app] = self

    @classmethod
    def of(cls, app: Any) -> Keeper | None:
        """Return the keeper of the worker that runs this app in this process, None where none does."""
        return cls._by_app.get(app)

    # --- called by the worker's main thread ----------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; listen to announcements where the jobs, which do so as well, are in other processes."""
        self._thread.start()
        if self._has_processes():
            self._runtime.hear(self._backstop.announced)

    def shut_down(self) -> None:
        """Tell the running jobs that a warm shutdown begins. May be called by a signal handler: the thread does it."""
        self._shutting_down = True
        self._thread.wake()

    @property
    def is_shutting_down(self) -> bool:
        """Whether a warm shutdown has begun."""
        return self._shutting_down

    def drain(self) -> None:
        """Go on for the jobs that still run; the thread ends with the pool."""
        self._draining = True
        self.leftovers.consumer_stopped()
        self._thread.wake()

    def stop(self) -> None:
        """End the thread, and give up the connection."""
        self._thread.stop()
        if self._lease is not None:
            self._lease.close()

    def fence(self, message: Any, hold: Hold) -> FencedChannel | None:
        """Let a message be acknowledged through its delivery's fence; None where the transport has no lease to guard."""
        channel = message.channel
        if not holds(channel):
            return None
        message.channel = fenced = FencedChannel(channel, self._fence_of(channel), hold)
        return fenced

    def claim(self, message: Any, hold: Hold) -> None:
        """Make this delivery the one that counts; one round trip, as kombu's own for each message that it receives."""
        if holds(message.channel):
            self._fence_of(message.channel).claim(hold)

    def adopts(self, message: Any) -> bool:
        """Say whether a job that runs here, or is about to, goes on under this delivery of its own message.

        After a lost connection kombu puts back what runs, and may well receive it again itself: no reason to run it twice.
        """
        running = self._requests.get(str(message.delivery_tag))
        if running is None or running.fenced is None:
            return False
        begun = running.is_running
        # A pool of processes drops what has not begun when a connection is lost; others run whatever they have been given.
        if not begun and (self._has_processes() or not running.waits_in_pool):
            return False
        if running.hold.timeout is not None and not running.fenced.channel.closed:
            return False  # the connection is the same: it came back because nobody renewed it, so the job shows no life
        if not running.fenced.is_mine():
            return False
        record = self._runtime.record(str(running.id)) if begun else None
        if record is not None and (record.get("o"), record.get("s")) != (running.hold.token, "STARTED"):
            return False  # it was given up meanwhile: what runs here counts no more
        running.fenced.move(message, self._fence_of(message.channel))
        if running.hold.timeout is not None:
            running.regained = True
            self._thread.wake()
        logger.info("job %s: its message came back to its own worker, where it goes on", running.id)
        return True

    def visibility_of(self, message: Any) -> float | None:
        """Return the seconds for which the message stays invisible, None where its transport knows no such thing."""
        timeout = getattr(message.channel, "visibility_timeout", None)
        return None if timeout is None else float(timeout)

    def received(self, request: JobRequest) -> None:
        """Answer for a message from now on."""
        before = self._requests.get(request.hold.tag)
        if before is not None and before.is_running and before.hold.timeout is not None:
            self._replaced.append(before)  # no look will show any more that its message is gone
        self._requests[request.hold.tag] = request
        if request.hold.timeout is not None:
            if request.fenced is not None:
                request.fenced.received()
            self._thread.wake()

    def lost_meanwhile(self, request: JobRequest) -> bool:
        """Say whether a message that has waited here for long was put back or delivered again; at most one round trip."""
        delivery = Delivery(request.hold, visibility=self.visibility_of(request.message))
        if self._lease is None or not delivery.is_doubtful():
            return False
        try:
            return self._lease.renew([request.hold]).held[0] in {Held.GONE, Held.TAKEN}
        except ConnectionError:
            return False

    def _fence_of(self, channel: Any) -> RedisFence:
        fence = self._fences.get(channel)
        if fence is None:
            fence = self._fences[channel] = RedisFence(channel)
        return fence

    # --- the thread ----------------------------------------------------------------------------------------------------

    def _turn(self) -> float | None:
        """Keep what is held, bring back what is due, and return the seconds until the next turn."""
        now = time.monotonic()
        pauses = [self._backstop.turn(self._end_deaf)]
        if self._shutting_down:
            if now >= self._tell_shutdown_at:
                self._tell_shutdown_at = now + TELL_AGAIN
                self._tell_shutdown()
            pauses.append(self._tell_shutdown_at - now)
        pauses.append(self._leases(now))
        return min((pause for pause in pauses if pause is not None), default=None)

    def _leases(self, now: float) -> float | None:
        """Keep what is held, and bring back what is due."""
        if self._draining and self._pool_has_ended():
            self._thread.stop()
            return 0.0
        if self._outage.closed_at(now):
            return self._outage.ask_at - now
        try:
            if self._lease is None:
                self._lease = lease_for(self._app)
            if self._lease is NO_LEASE:
                return None
            pause = self._keep(self._lease, now)
        except (ConnectionError, *self._app.connection_for_read().connection_errors) as exc:
            if self._outage.failed(now):
                logger.error("leases cannot be renewed: %s", exc)  # noqa: TRY400 - an outage is one line, not a traceback
            return self._outage.ask_at - now
        if self._outage.succeeded():
            logger.warning("leases can be renewed again")
        return pause

    def _tell_shutdown(self) -> None:
        """Announce the shutdown to the processes of the pool, and to this one."""
        announcement = Shutdown(self._worker.hostname)
        self._runtime.stopper.announced(announcement)
        if self._runtime.store is not None and self._has_processes():
            try:
                self._runtime.store.shut_down(self._worker.hostname)
            except StoreUnavailableError as exc:
                logger.warning("running jobs cannot be told of the shutdown: %s; they are left to finish", exc)

    def _keep(self, lease: Lease, now: float) -> float:
        leave = self.leftovers.turn(lease, now)
        while self._replaced:
            self._give_up_stalled(self._replaced.popleft())
        kept = holdings(self._worker.consumer, self._requests, draining=self._draining)
        # By the answer, a message may have come back, on another channel.
        channels: list[Any] = [fenced and fenced.channel for _, _, fenced in kept]
        renewal = lease.renew([hold for hold, _, _ in kept], look=True)
        held_before, self._held_at = self._held_at, {}
        overdue = []
        for (hold, request, fenced), channel, held in zip(kept, channels, renewal.held, strict=True):
            if held is Held.HELD:
                self._held_at[hold.tag] = now
                if request is not None and not hold.watched:
                    request.regained = False
            elif fenced is None or fenced.settled:
                continue
            elif request is None:
                fenced.give_up()  # Celery has dropped it, but kombu would put it back at the end, whoever has it by then
            elif held is Held.DUE:
                overdue.append(request)
            else:
                self._lost(lease, request, held, now - held_before.get(hold.tag, now), cut_off=channel.closed)
        if renewal.due or overdue:
            # Looked for more at once, unless it is somebody else who brings it back.
            return 0.0 if self._bring_back(lease, overdue, renewal.due) else LOOK_AGAIN
        interval = self._interval(lease) if leave is None else min(leave, self._interval(lease))
        if renewal.next_due is None:
            return interval
        return min(interval, renewal.next_due + random.uniform(0.01, 0.01 + SPREAD * interval))  # noqa: S311 - no secret

    def _interval(self, lease: Lease) -> float:
        timeouts = [getattr(task, "heartbeat_timeout", None) for task in list(self._app.tasks.values())]
        shortest = min((timeout for timeout in timeouts if isinstance(timeout, float)), default=None)
        return lease_interval(self._settings.lease_interval, lease.visibility_timeout, shortest)

    def _lost(self, lease: Lease, request: JobRequest, held: Held, since: float, *, cut_off: bool) -> None:
        """Deal with a delivery of ours that was put back, or was delivered again; ``cut_off``: its connection was lost before."""
        assert request.fenced is not None
        if held is Held.GONE and cut_off:
            return  # kombu put it back when the connection was lost: it comes back here, or another worker takes it
        timeout = lease.visibility_timeout or 0.0
        swept = not cut_off and request.hold.timeout is None and 0 < since < timeout / 2
        if swept and not self._told_swept:
            self._told_swept = True
            logger.warning(
                "job %s: its message was put back %.1f s after its lease was renewed for %g s: another worker on this Redis "
                "database has a shorter visibility_timeout, or a clock that runs ahead. Give all the same timeout.",
                request.id, since, timeout,
            )  # fmt: skip
        if request.is_running and request.hold.timeout is not None:
            self._give_up_stalled(request, taken=held is Held.TAKEN)
        elif not request.is_running or held is Held.TAKEN:
            # Of a job that runs, its own process learns the same, and its signal fires.
            request.fenced.give_up()

    def _bring_back(self, lease: Lease, overdue: Sequence[JobRequest], found: Sequence[Due]) -> bool:
        """Put back what nobody renewed in time, ours and others'; false where somebody else is at it."""
        with lease.alone() as alone:
            if not alone:
                return False
            for request in overdue:
                if request.is_running:
                    self._end_stalled(lease, request)
                elif request.fenced is not None:
                    request.fenced.give_up()
            for due in found:
                self._recover(lease, due)
        return True

    def _end_stalled(self, lease: Lease, request: JobRequest) -> None:
        """Give up a job of ours that shows no sign of life, and make its message deliverable."""
        if request.hold.timeout is None:
            return  # it has begun in the middle of the look, and is renewed with the next
        # Where it cannot be taken it was renewed after all, or somebody else puts it back, which the next look will show.
        if not self._is_given_up(request) and lease.take(request.hold.tag):
            self._give_up_stalled(request, lease)

    def _is_given_up(self, request: JobRequest) -> bool:
        """Say whether nothing runs here any more that counts as this delivery."""
        assert request.fenced is not None
        return request.fenced.settled or not request.is_running or request.given_up is not None

    def _give_up_stalled(self, request: JobRequest, lease: Lease | None = None, *, taken: bool = False) -> None:
        """Fence off a job without a sign of life, put back its message if it was due, and end its process.

        ``lease`` is the one with which the message was taken to be put back; ``taken``: another delivery has it.
        """
        if self._is_given_up(request):
            return
        assert request.fenced is not None
        reason = f"no sign of life for {request.hold.timeout:g} s (heartbeat_timeout)"
        told = request.lose(reason)
        outcome = "it has been cancelled" if told.cancelled else "it fails" if told.ended else "it is delivered again"
        logger.error("job %s (%s) is stalled: %s; %s", request.id, request.name, reason, outcome)
        # In a pool whose places are all held by what hangs, no delivery could begin that stores the end.
        if told.ended and not (taken or self._has_processes()):
            request.end_lost(told, reason)
        elif lease is not None:
            self._tell_recovered(str(request.id), request.name, reason)
            lease.put_back(request.hold.tag, request.message.delivery_info.get("sqs_queue"))
        request.given_up = reason
        request.fenced.give_up()
        if self._has_processes():
            end_process(request)

    def _recover(self, lease: Lease, due: Due) -> None:
        """Bring back a message that nobody renewed in time."""
        own = self._requests.get(due.tag)
        if own is not None and not self._is_given_up(own):
            self._end_stalled(lease, own)
            return
        # Read before the message is taken: whatever has begun by now is what is lost.
        record = (self._runtime.record(due.job_id) or {}) if due.job_id else {}
        if not lease.take(due.tag):
            return
        store = self._runtime.store
        if store is not None and due.job_id:
            try:
                # Before the message: once it is back, another worker may begin, and would have to guess what became of this one.
                store.lose(loss_of(due, record, int(time.time() * 1000)))
            except StoreUnavailableError as exc:
                logger.warning("job %s: that it was lost cannot be written: %s", due.job_id, exc)
        self._tell_recovered(due.job_id, due.name, UNHEARD)
        lease.put_back(due.tag)
        logger.warning("job %s (%s): %s; its message is put back into its queue", due.job_id or "?", due.name or "?", UNHEARD)

    def _tell_recovered(self, job_id: str, name: str, reason: str) -> None:
        """Let monitors know that a job is not running: before its message is back, since another worker may begin at once."""
        if job_id:
            self._runtime.events.retried(self._worker.hostname, job_id, name, reason)

    def _here(self, job_id: str) -> list[JobRequest]:
        return [request for request in copied(self._requests.values) if request.id == job_id]

    def _running(self, job_id: str) -> JobRequest | None:
        # Not `is_running`: a job that was acknowledged early (Celery's default) hangs no less.
        return next((request for request in self._here(job_id) if request.has_process), None)

    def _grace_of(self, job_id: str) -> float | None:
        # Also of one that does not run yet: its process may have begun with it, and this one not have heard of that.
        return next((float(request.task.cancel_grace) for request in self._here(job_id)), None)

    def _end_deaf(self, job_id: str) -> None:
        """End the process of a job that was cancelled two graces ago and cannot hear it."""
        request = self._running(job_id)
        if request is not None:
            logger.error("job %s (%s) does not hear that it was cancelled: its process is ended", request.id, request.name)
            end_process(request)

    def _has_processes(self) -> bool:
        from celery.concurrency.prefork import TaskPool

        return isinstance(self._worker.pool, TaskPool)

    def _pool_has_ended(self) -> bool:
        pool = self._worker.pool
        return pool is None or pool._state == BasePool.TERMINATE  # noqa: SLF001 - set when the last job has ended
