"""One message in the worker's parent: which delivery of it this is, and what only the parent sees of its end."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Mapping
from typing import Any

import celery
from billiard.common import human_status
from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from billiard.pool import ApplyResult
from celery import states
from celery.exceptions import Reject, Terminated, TimeLimitExceeded, WorkerLostError
from celery.signals import task_revoked
from celery.worker import state
from celery.worker.request import Request

from taskora_celery.cancelling import mend_revoked
from taskora_celery.delivery import CREATED_HEADER, STAMP, Delivery, attempt_of, stamp_of
from taskora_celery.errors import StoreUnavailableError
from taskora_celery.lease.fence import FencedChannel
from taskora_celery.lease.protocol import Hold
from taskora_celery.outcomes import Cancelled, fail_unstored, is_unstored, refused, revoke, stalled, stored_state
from taskora_celery.records import Outcome
from taskora_celery.runtime import Runtime
from taskora_celery.store.protocol import Loss, Lost
from taskora_celery.worker.keeper import Keeper
from taskora_celery.worker.revoke import remember

__all__ = ["FORGETS_AT_LOST_CONNECTIONS", "JobRequest"]

logger = logging.getLogger("taskora_celery.worker")

#: Celery 5.5's prefork pool forgets what it runs when the connection to the broker is lost, and drops what it hears of it then.
FORGETS_AT_LOST_CONNECTIONS: bool = celery.VERSION < (5, 6)


class JobRequest(Request):  # type: ignore[misc]
    """Celery's ``Request`` for tracked tasks: each delivery has a token, and its acknowledgement is fenced by it.

    Made and used in the worker's parent, by its main thread; in pools without processes also by the job's thread.
    """

    def __init__(self, message: Any, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        #: What was decided about this delivery from outside; its execution counts no more.
        self.given_up: str | None = None
        #: Its message came back after a lost connection: kombu has given it the whole visibility timeout, the keeper its own.
        self.regained = False
        self._adopted = False
        self._keeper = Keeper.of(self._app)
        # Microseconds: two deliveries of one message are a round trip apart at least.
        self.hold = Hold(str(message.delivery_tag), int(time.time() * 1_000_000), self._task.heartbeat_timeout)
        #: What the record calls the message, "" where it is known by its token alone: RabbitMQ counts them on each channel anew.
        self._tag = message.delivery_tag if isinstance(message.delivery_tag, str) else ""
        self.fenced: FencedChannel | None = None
        #: What the pool knows of the job, as long as it runs and is to be acknowledged at its end; for `recall`.
        self._pooled: Any = None
        if self._keeper is None:
            return
        if self._delivery_info.get("redelivered"):
            self._adopted = self._keeper.adopts(message)
            if not self._adopted:
                self._keeper.claim(message, self.hold)
        if self._adopted:
            return  # what runs has the message
        # Behind the claim: the keeper's thread gives up a fenced message that it finds to be nobody's.
        self.fenced = self._keeper.fence(message, self.hold)
        visibility = self._keeper.visibility_of(self._message)
        self._request_dict[STAMP] = Delivery.stamp(self.hold.token, os.getpid(), visibility)
        self._keeper.received(self)

    @property
    def is_running(self) -> bool:
        """Whether a process or thread of the pool has begun with it, and has not ended."""
        return self.time_start is not None and not self.acknowledged

    @property
    def waits_in_pool(self) -> bool:
        """Whether it was handed to the pool, which has not begun with it."""
        return self._apply_result is not None and self.time_start is None

    @property
    def is_active(self) -> bool:
        """Whether the pool runs it just now, also where its message was acknowledged at its start."""
        return self in state.active_requests

    @property
    def has_process(self) -> bool:
        """Whether its process is busy with it, as far as the pool has said until now."""
        result = None if self._apply_result is None else self._apply_result()
        return self.time_start is not None and result is not None and not result.ready()

    def revoked(self) -> bool:
        """Say whether it is not to be run; Celery asks before it hands the job to the pool."""
        if self._adopted or self._is_lost_before_start() or self._is_left_over():
            state.task_ready(self)
            return True
        return bool(super().revoked())

    def _is_lost_before_start(self) -> bool:
        """Say whether the message was put back, or delivered again, while it waited here."""
        if self.fenced is None or self._keeper is None or self.time_start is not None:
            return False
        if self.fenced.settled or self._keeper.lost_meanwhile(self):
            logger.warning("job %s (%s): its message was put back while it waited here; it is not run here", self.id, self.name)
            self.fenced.give_up()
            return True
        return False

    def _is_left_over(self) -> bool:
        """Say whether the worker shuts down, and does not begin it: it would have to stop at once."""
        keeper = self._keeper
        if keeper is None or self.fenced is None or self.time_start is not None or not keeper.is_shutting_down:
            return False
        logger.info("job %s (%s) is not begun here, since the worker shuts down: its message goes back", self.id, self.name)
        keeper.leftovers.add(self)
        return True

    def reject(self, requeue: bool = False) -> None:
        """Reject the message as Celery does: by the worker's event loop, which in a shutdown waits for the other jobs to end."""
        acknowledged, self._pooled = self.acknowledged, None
        super().reject(requeue)
        if requeue and not acknowledged and self._keeper is not None and self._keeper.is_shutting_down:
            self._keeper.leftovers.add(self)

    def on_accepted(self, pid: Any, time_accepted: float) -> None:
        """Handle that the pool has begun with it."""
        if self._keeper is not None:  # also of a job that was acknowledged early: a cancel may end its process
            self._keeper.exits.watch(pid)
            # Its start is a sign of life. Its own process says so, too, but code that holds Python's lock may keep it from that.
            self.regained = True
        super().on_accepted(pid, time_accepted)
        if FORGETS_AT_LOST_CONNECTIONS and not self.acknowledged and self._apply_result is not None:
            self._pooled = self._apply_result()

    def recall(self) -> None:
        """Tell the pool again that it runs this job: it would drop what it hears of its end, and nobody would acknowledge it.

        For the worker's main thread, before its event loop goes on.
        """
        if isinstance(self._pooled, ApplyResult) and not self._pooled.ready():
            self._pooled._cache.setdefault(self._pooled._job, self._pooled)  # noqa: SLF001 - billiard has no other way

    def acknowledge(self) -> None:
        """Acknowledge the message, as Celery does."""
        self._pooled = None
        super().acknowledge()

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002 - Celery's name
        """Send one of Celery's events; the reason of a retry without the secrets that can be told by their name."""
        if type == "task-retried":
            fields["exception"] = Runtime.of(self._app).redactor.text(str(fields.get("exception")), "reason")
        super().send_event(type, **fields)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Handle what the pool says of a failed job; what became of a process that died is written to the job's record first."""
        exc = _unwrap(exc_info)
        if isinstance(exc, Cancelled):
            super().on_failure(exc_info, send_failed_event, return_ok)
            self._tell_revoked(terminated=False)
            return None
        if self._is_settled(exc):
            state.task_ready(self)
            return None
        if isinstance(exc, SystemExit | KeyboardInterrupt):
            exc_info = _worker_lost(exc)
            exc = exc_info.exception
        if isinstance(exc, WorkerLostError) and not self._already_cancelled and not self._already_revoked:
            requeued = self._is_requeued()
            text = str(exc)
            told = self.lose(text, None if requeued or self._is_retried() else Outcome.FAILURE, WorkerLostError.__name__)
            if self._is_told(told, exc, requeued):
                return None
            if told.ended and requeued:
                return super().on_failure(self._stalled(told, text), send_failed_event)
            if requeued:
                Runtime.of(self._app).events.retried(self._hostname, str(self.id), self.name, text)
        elif isinstance(exc, Terminated) and not self._already_cancelled and self._was_ended_by_its_cancel():
            return None
        elif is_unstored(exc, exc_info):
            runtime = Runtime.of(self._app)
            fail_unstored(runtime.store, runtime.redactor, str(self.id), self._tag, exc)
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def _is_told(self, told: Lost, exc: BaseException, requeued: bool) -> bool:
        """Tell of the end of a job whose process died, where it is no failure; say whether it was none."""
        if told.cancelled:
            self._end_cancelled()
            return True
        return told.stalls is None and self._was_over(exc, requeued)

    def _was_over(self, exc: BaseException, requeued: bool) -> bool:
        """Deal with a process that died when its delivery was over, as the store says; say whether that is all.

        It had written how its job ended, and not told its parent yet; or its job is another delivery's by now.
        """
        runtime = Runtime.of(self._app)
        record = runtime.record(str(self.id))
        if record is None:
            return False
        ended_as, mine = record.get("s"), (record.get("l", ""), record.get("o")) == (self._tag, self.hold.token)
        if ended_as == Outcome.LOST or not (mine or ended_as in Outcome.FINAL):
            self._give_back(record)
            return True
        if ended_as == Outcome.REVOKED and mine:
            self._end_cancelled(stored=stored_state(self._task, str(self.id)) == states.REVOKED)
            return True
        fails = ended_as == Outcome.SUCCESS and mine and not (requeued or self.ignore_result)
        if fails and stored_state(self._task, str(self.id)) != states.SUCCESS:
            fail_unstored(runtime.store, runtime.redactor, str(self.id), self._tag, exc)  # as Celery is about to do
        return False

    def _give_back(self, record: Mapping[str, Any]) -> None:
        """Let go of a job that is another delivery's by now, as its process would have."""
        state.task_ready(self)
        if isinstance(refused("its process died", self.hold, record), Reject):
            self.reject(requeue=True)
        else:
            self.acknowledge()

    def _was_ended_by_its_cancel(self) -> bool:
        """Write to the record that the process was terminated; say whether the job was cancelled, and its end is told by this."""
        told = self.lose("terminated", Outcome.REVOKED, Terminated.__name__)
        if not told.cancelled or self._already_revoked:
            return False
        self._end_cancelled()
        return True

    def _is_settled(self, exc: BaseException) -> bool:
        """Say whether its process was ended on purpose, and its message is on its way without what the process says.

        It hung, and was given up; or Celery has ended it, and it exits: since 5.7 that is no failure of the job.
        """
        exited = isinstance(exc, SystemExit | KeyboardInterrupt)
        if self.given_up is not None:
            return exited or isinstance(exc, WorkerLostError | Terminated)
        return bool(exited and (self._already_cancelled or self._already_revoked))

    def on_retry(self, exc_info: Any) -> None:
        """Handle an attempt that ended in a retry: its tracer has stored RETRY, perhaps over the REVOKED of the next attempt."""
        super().on_retry(exc_info)
        if self._keeper is not None and Runtime.of(self._app).may_be_cancelled(str(self.id)):
            mend_revoked(self._app, str(self.id))

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Handle a time limit that Celery's pool has enforced; the hard one ends the process, which can say nothing of it."""
        if not soft and not state.should_terminate:
            requeued = self.task.acks_late and not self.task.acks_on_timeout
            self.lose(f"TimeLimitExceeded({timeout})", None if requeued else Outcome.FAILURE, TimeLimitExceeded.__name__)
        if soft:  # its process says whether it is exceeded, or was extended
            logger.debug("job %s (%s): its soft time limit of %g s has come", self.id, self.name, timeout)
            return
        super().on_timeout(soft, timeout)

    def lose(self, reason: str, ends_as: str | None = None, error: str | None = None, *, counts: bool = True) -> Lost:
        """Write to the job's record that this delivery is lost; one bounded round trip, never raises."""
        runtime = Runtime.of(self._app)
        if runtime.store is None:
            return Lost(None)
        reason = runtime.redactor.text(reason, "reason")
        attempt = attempt_of(self._request_dict.get("retries"))
        loss = Loss(
            str(self.id), self._task.name, attempt, self._hostname, self._tag, self.hold.token, int(time.time() * 1000),
            reason, ends_as, error if ends_as else None, self._task.max_stalls if ends_as is None else None,
            counts, stamp_of(self._request_dict.get(CREATED_HEADER)),
        )  # fmt: skip
        try:
            return runtime.store.lose(loss)
        except StoreUnavailableError as exc:
            logger.error("job %s: that it was lost (%s) could not be written: %s", self.id, reason, exc)  # noqa: TRY400
            return Lost(None)

    def end_lost(self, told: Lost, reason: str) -> None:
        """Store the end that this loss has brought, as its process would, and remove the message. Called by the keeper's thread.

        The handler still runs: what it returns is refused.
        """
        if told.cancelled:
            self._store_revoked()
            self.acknowledge()
            self._tell_revoked(terminated=False)
        else:
            super().on_failure(self._stalled(told, reason))
        if self.fenced is not None:
            # Celery leaves it to the worker's main thread, which in a solo worker is the one that hangs.
            self.fenced.basic_ack(self.hold.tag)

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """End a running job's process, as ``revoke(terminate=True)`` asks, and write that to its record.

        Pools of threads, and solo, cannot end anything: there it is a plain revoke.
        """
        was_active = self.is_active
        try:
            super().terminate(pool, signal)
        except NotImplementedError:
            where = type(pool).__module__.rpartition(".")[2]
            logger.warning("job %s (%s) cannot be ended in a pool of kind %r: terminate fires its signal, as a plain revoke does",
                           self.id, self.name, where)  # fmt: skip
            remember(self._app, [str(self.id)])
            return
        if was_active:
            self.lose("terminated", Outcome.REVOKED, Terminated.__name__)

    def cancel(self, pool: Any, signal: Any = None, **options: Any) -> None:
        """End a job as Celery does in a cold shutdown; that it is lost then is not its fault.

        ``options`` are those of Celery: ``emit_retry``, from 5.6 on.
        """
        super().cancel(pool, signal, **options)  # in pools that cannot, it raises, and the job goes on
        self.lose("the worker ended it, in a cold shutdown or after a lost connection", counts=False)

    def _end_cancelled(self, *, stored: bool = False) -> None:
        """Its process was ended because its job did not stop when it was cancelled: tell of the end as it could not.

        ``stored``: the result backend has it already.
        """
        state.task_ready(self)
        if not stored:
            self._store_revoked()
        self.acknowledge()
        self._tell_revoked(terminated=True)

    def _store_revoked(self) -> None:
        request = Runtime.of(self._app).cancel_request(str(self.id))
        revoke(self._task, self._context, None if request is None else request.reason)

    def _tell_revoked(self, *, terminated: bool) -> None:
        number = int(signal.SIGKILL) if terminated else None
        self.send_event("task-revoked", terminated=terminated, signum=number, expired=False)
        task_revoked.send(self._task, request=self._context, terminated=terminated, signum=number, expired=False)

    def _is_requeued(self) -> bool:
        return bool(self.task.acks_late and self.task.reject_on_worker_lost)

    def _is_retried(self) -> bool:
        return bool(getattr(self.task, "retry_on_worker_lost", False))  # since Celery 5.7

    def _stalled(self, told: Lost, reason: str) -> Any:
        store = Runtime.of(self._app).store
        return _info_of(stalled(str(self.id), told.stalls or 0, self._task.max_stalls, self._hostname, reason, store))


def _unwrap(exc_info: Any) -> BaseException:
    """Return the job's exception; where it was made in this process it is still wrapped, and its event would name the wrapper."""
    if isinstance(exc_info.exception, ExceptionWithTraceback):
        exc_info.exception = exc_info.exception.exc
    found: BaseException = exc_info.exception
    return found


def _worker_lost(exc: BaseException) -> Any:
    """Return what Celery makes of a process that its job has ended, since 5.7: one that was lost.

    Before, it was a failure of the job: acknowledged whatever `reject_on_worker_lost` says, and no result that could be stored.
    """
    status = type(exc).__name__
    if isinstance(exc, SystemExit):
        code = 0 if exc.code is None else exc.code
        status = human_status(code if isinstance(code, int) else 1)
    return _info_of(WorkerLostError(f"Worker exited prematurely: {status}."))


def _info_of(exc: Exception) -> Any:
    """Return what the pool would say of this exception."""
    try:
        raise exc  # an ExceptionInfo is made of the exception that is being handled
    except type(exc):
        info = ExceptionInfo()
    info.exception = exc  # not wrapped, as what comes from another process: the event shows its name
    return info
