"""One run of one job: its message goes out, is delivered until nothing of it is left, and is told of."""

from __future__ import annotations

from typing import Any

from celery import states
from celery.local import maybe_evaluate

from taskora_celery.cancelling import cancel_job
from taskora_celery.delivery import CREATED_HEADER
from taskora_celery.errors import JobCancelledError
from taskora_celery.handle import JobHandle
from taskora_celery.records import CancelReceipt
from taskora_celery.runtime import Runtime
from taskora_celery.standin import standing_in
from taskora_celery.stopping import JobStop
from taskora_celery.store.memory import MemoryStore
from taskora_celery.store.protocol import Loss
from taskora_celery.testing.app import StandInApp
from taskora_celery.testing.conditions import Conditions, NotReachedError
from taskora_celery.testing.context import RecordedContext
from taskora_celery.testing.course import Course
from taskora_celery.testing.outlet import Message, Outlet, SentTask
from taskora_celery.testing.result import JobRun
from taskora_celery.testing.runtime import KitRuntime
from taskora_celery.testing.store import RemoteStore
from taskora_celery.testing.worker import Delivered, KitWorker

__all__ = ["Rehearsal"]


class Rehearsal:
    """Plays one job through, under some conditions. Used once, by one thread."""

    def __init__(self, task: Any, conditions: Conditions) -> None:
        self._task = task
        self._conditions = conditions
        self._course = Course(conditions)
        self._memory = MemoryStore(clock=self._course.clock)
        self._store = RemoteStore(self._memory, self._course.store_is_down)
        self._outlet = Outlet()
        self._apps: dict[int, tuple[Any, StandInApp]] = {}
        app = maybe_evaluate(task.app)
        original = app.original if isinstance(app, StandInApp) else app  # a run in the handler of another run
        self._app = self.stand_in(original)
        self._worker = KitWorker(self._app, original)
        self._id = ""
        self._message: Message | None = None
        self._last = Delivered(states.PENDING, None)
        self._delays: list[float] = []
        self._receipt: CancelReceipt | None = None

    def stand_in(self, app: Any) -> StandInApp:
        """Return what stands in for an app; one for each."""
        app = maybe_evaluate(app)
        if isinstance(app, StandInApp):
            return app
        if id(app) not in self._apps:
            made = StandInApp(app, self._outlet, self._course.clock)
            Runtime.use(made, KitRuntime(made, self._store, self._course))
            self._apps[id(app)] = app, made  # with the app itself: its id is another's once it is gone
        return self._apps[id(app)][1]

    def play(self, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]) -> JobRun:
        """Send the job and deliver it until it has ended.

        :raises NotReachedError: something was to happen, and the job had ended before.
        :raises RuntimeError: it goes on for ever.
        """
        runtime = self._runtime()
        self._store.hear = runtime.stopper.announced
        self._plan()
        try:
            with standing_in(self.stand_in):
                headers = {**(options.pop("headers", None) or {}), CREATED_HEADER: int(self._course.clock.time() * 1000)}
                handle = self._task.apply_async(args, kwargs, headers=headers, **options)
                self._id = str(handle.id)
                self._drive()
                return self._told(handle)
        finally:
            self._course.close()
            self._store.hear = None
            runtime.close()

    # --- its way -------------------------------------------------------------------------------------------------------

    def _drive(self) -> None:
        self._course.before_the_first()
        while (message := self._outlet.take(self._id)) is not None:
            task = self._task if message.headers["task"] == self._task.name else self._app.tasks.get(message.headers["task"])
            if task is None:  # it was replaced by what only another process knows
                self._outlet.put(message)
                return
            self._task, self._message = task, message
            if self._last.state == states.RETRY:
                self._delays.append(message.delay)
            self._course.clock.advance(message.wait(self._course.clock.time()))
            while not message.settled:
                self._settle(message, self._deliver(message))
        if self._message is not None and "deliver_twice" in self._course.pending:
            del self._course.pending["deliver_twice"]
            self._deliver(self._again(self._message))  # after the end

    def _deliver(self, message: Message) -> Delivered:
        if self._worker.deliveries >= self._conditions.max_deliveries:
            raise RuntimeError(
                f"{self._task.name} was delivered {self._worker.deliveries} times and has not ended: it goes on for ever, or "
                "max_deliveries is too small"
            )
        return self._worker.deliver(self._task, message)

    def _settle(self, message: Message, delivered: Delivered) -> None:
        if message.settled:
            return  # another delivery has had it: this one counts no more
        self._last = delivered
        if delivered.requeued:
            self._worker.number += 1
            self._again(message)
        else:
            message.settled = True

    @staticmethod
    def _again(message: Message) -> Message:
        message.redelivered = True
        return message

    # --- what happens to it --------------------------------------------------------------------------------------------

    def _plan(self) -> None:
        moments = self._conditions.moments()
        for name in ("lease_lost_at", "deliver_twice"):
            if name in moments and not self._task.acks_late:
                raise ValueError(
                    f"{name}: {self._task.name} is acknowledged before it runs (acks_late is off), so its message is not "
                    "delivered again"
                )
        self._course.plan("cancel_at", self._cancel)
        self._course.plan("timeout_at", lambda ctx: _stop_of(ctx).reach_limit())
        self._course.plan("shutdown_at", lambda ctx: self._store.shut_down(_stop_of(ctx).worker))
        self._course.plan("lease_lost_at", self._lose)
        self._course.plan("deliver_twice", self._deliver_twice)

    def _cancel(self, _: RecordedContext | None) -> None:
        conditions = self._conditions
        self._receipt = cancel_job(
            self._app, self._id, conditions.cancel_reason, grace=conditions.cancel_grace, queued=True, by="test"
        )  # fmt: skip

    def _lose(self, ctx: RecordedContext | None) -> None:
        """Another worker takes the message for lost, and says so in the record: this execution counts no more."""
        if ctx is None or ctx.hold is None:
            return
        now_ms = int(self._course.clock.time() * 1000)
        self._store.lose(
            Loss(ctx.id, ctx.name, ctx.attempt, _stop_of(ctx).worker, ctx.hold.tag, ctx.hold.token, now_ms, "its lease was lost")
        )
        self._runtime().reporter.look()

    def _deliver_twice(self, _: RecordedContext | None) -> None:
        message = self._message
        if message is not None:
            self._settle(message, self._worker.deliver_beside(self._task, self._again(message)))

    # --- what is told of it --------------------------------------------------------------------------------------------

    def _told(self, handle: JobHandle) -> JobRun:
        course, notes = self._course, self._course.notes
        elapsed = round(course.clock.monotonic(), 6)
        if not course.store_is_down():
            self._runtime().reporter.settle()
        course.over = True
        for option, moment in course.unreached():
            raise NotReachedError(option, moment, course.steps, elapsed)
        state, result, exception = self._outcome(handle)
        return JobRun(
            id=self._id, state=state, result=result, exception=exception, reason=self._reason(), attempts=self._attempts(),
            deliveries=self._worker.deliveries, progress=tuple(notes.progress), logs=tuple(notes.logs),
            checkpoints=tuple(notes.checkpoints), heartbeats=notes.heartbeats, sleeps=tuple(notes.sleeps),
            delays=tuple(self._delays), history=tuple(handle.history()), sent=self._sent(), steps=course.steps,
            elapsed=elapsed, receipt=self._receipt, handle=handle,
        )  # fmt: skip

    def _outcome(self, handle: JobHandle) -> tuple[str, Any, BaseException | None]:
        """Return the state, the result and the exception, as the result backend has them; else as the tracer had."""
        last, stored = self._last, handle.state in states.READY_STATES
        state = handle.state if stored else last.state
        value = handle.result if stored else last.value
        if state == states.SUCCESS:
            return state, value, None
        if state == states.REVOKED and not stored:
            value = JobCancelledError(self._id, self._reason())
        elif state == last.state and state == states.FAILURE:
            value = last.value  # the object itself, with its traceback
        return state, None, value if isinstance(value, BaseException) else None

    def _attempts(self) -> int:
        ran = [ctx.attempt for ctx in self._course.contexts if ctx.control is not None]
        if self._course.contexts or self._message is None:
            return max(ran, default=0)
        return int(self._message.headers["retries"]) + 1  # it is not tracked

    def _reason(self) -> str | None:
        found = self._memory.read(self._id)
        return None if found is None else found.fields.get("r") or None

    def _sent(self) -> tuple[SentTask, ...]:
        return tuple(message.told(self._app.conf.accept_content) for message in self._outlet.rest())

    def _runtime(self) -> KitRuntime:
        runtime = Runtime.of(self._app)
        assert isinstance(runtime, KitRuntime)
        return runtime


def _stop_of(ctx: RecordedContext | None) -> JobStop:
    assert ctx is not None
    assert isinstance(ctx.control, JobStop)
    return ctx.control
