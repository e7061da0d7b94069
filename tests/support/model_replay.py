"""The steps of :mod:`tests.support.protocol_model`, taken by the real stores, the real scripts and kombu's own channels."""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any

from taskora_celery.lease.fence import FencedChannel, RedisFence
from taskora_celery.lease.protocol import Held, Hold
from taskora_celery.lease.redis import RedisLease
from taskora_celery.records import AttemptRecord
from taskora_celery.store.memory import MemoryStore
from taskora_celery.store.protocol import Begin, CancelRequest, Ended, Loss, Report, Verdict
from tests.support.executions import NOW_MS
from tests.support.manual_clock import ManualClock
from tests.support.protocol_model import CANCELLED, RETRY, REVOKED, STALLED, Execution, Record, State, Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from taskora_celery.store.protocol import JobStore

JOB, NAME, WORKER = "job-1", "shop.work", "w1@host"
_WHY = {"JobCancelledError": CANCELLED, "JobStalledError": STALLED}


class StoreReplay:
    """What the steps do to a store, and whether that is what the model says.

    The model's ticks become instants in microseconds: those that a store chose are read from it, and all keep their order.
    """

    def __init__(self, store: JobStore, job_id: str, now_us: Callable[[], int]) -> None:
        self.store = store
        self.id = job_id
        self._now_us = now_us
        self._last = 0
        self._instants = {0: 0}

    def differs(self, state: State, step: Step) -> str | None:
        """Take a step that the model takes from this state; return what was otherwise than there."""
        answer = self._answered(step)
        if step.call is not None and step.answer is not None and answer != step.answer:
            return f"the answer is {answer}, expected {step.answer}"
        self._date(state, step.state)
        found, expected = self.record(), step.state.record
        return None if found == (expected and self._dated(expected)) else f"the record is {found}, expected {expected}"

    def _answered(self, step: Step) -> Any:
        """Make the round trip that a step is, and return the answer in the model's words; those to a broker are left out here."""
        if step.call is None:
            return None
        name, fields = step.call
        if name == "begin":
            return self._begin(fields["execution"])
        if name == "report":
            return self._report(fields["execution"], stands=fields["stands"])
        if name == "lose":
            token = fields["token"] and self._instants[fields["token"]]
            lost = self.store.lose(Loss(
                self.id, NAME, fields["attempt"], WORKER, self.tag(fields["tag"]), token, NOW_MS, "gone", limit=fields["limit"],
                created_ms=NOW_MS - 500,
            ))  # fmt: skip
            return lost.stalls, lost.ended, lost.cancelled
        if name == "cancel":
            return self.store.cancel(CancelRequest(self.id, NOW_MS, "no longer wanted"), queued=True).name
        if name == "wipe":
            self.wipe()
        if name == "look":
            return self._look(fields["tag"])
        return step.answer

    def _look(self, tag: int) -> int | None:
        found = self.record()
        if found is None or found.tag != tag:
            return None
        return next(tick for tick, instant in self._instants.items() if instant == found.token)

    def _begin(self, execution: Execution) -> tuple[Any, ...]:
        begun = self.store.begin(self._begin_of(execution, 0))
        verdict = "BEGUN" if begun.fence > 0 else Verdict(begun.fence).name
        return verdict, begun.delivery, begun.stalls, begun.cancel is not None

    def _begin_of(self, execution: Execution, fence: int, *, over: bool = False) -> Begin:
        return Begin(
            self.id, NAME, execution.attempt, WORKER, NOW_MS - 500, NOW_MS, redelivered=execution.redelivered, fence=fence,
            tag=self.tag(execution.tag), token=self._instants[execution.token], anyway=execution.anyway, over=over,
        )  # fmt: skip

    def _report(self, execution: Execution, *, stands: bool) -> str:
        fence = self._instants[execution.fence]
        begin = None
        if execution.asks:  # as `Reporter._register` does
            begun = self.store.begin(self._begin_of(execution, 0))
            if begun.fence <= 0:
                return "SUPERSEDED"
            fence = begun.fence
        elif execution.unregistered:
            begin = self._begin_of(execution, fence, over=stands)
        end = execution.end
        error = "JobCancelledError" if end == REVOKED else None
        keep = AttemptRecord(execution.attempt, 1, WORKER, NOW_MS, RETRY) if end == RETRY else None
        ended = Ended(end, NOW_MS, "why", error, keep, stands=stands) if end else None
        return self.store.report([Report(self.id, fence, NOW_MS, begin=begin, ended=ended)])[0].name

    def _date(self, state: State, following: State) -> None:
        """Give an instant to each tick that has passed; the fence of the record has one already."""
        found, record = self.record(), following.record
        for tick in range(state.tick, following.tick):
            instant = max(self._now_us(), self._last + 1)
            if record is not None and record.fence == tick and found is not None:
                instant = found.fence
                if instant <= self._last:
                    raise AssertionError("a fence grows with the time")
            self._instants[tick] = self._last = instant

    def _dated(self, record: Record) -> Record:
        return record._replace(fence=self._instants[record.fence], token=self._instants[record.token])

    def record(self) -> Record | None:
        """The record in the model's form, with real instants."""
        found = self.store.read(self.id)
        if found is None:
            return None
        told = found.fields
        return Record(
            told["s"], told.get("a", 0), told.get("d", 0), told.get("f", 0), told.get("x", 0), "j" in told,
            self.number(told.get("l", "")), told.get("o", 0), _WHY.get(told.get("z", ""), ""),
        )  # fmt: skip

    def tag(self, number: int) -> str:
        """The delivery tag of a message."""
        return f"t{number}"

    def number(self, tag: str) -> int:
        """The number of the message with this tag, 0 for none."""
        return int(tag[1:] or 0)

    def wipe(self) -> None:
        """Lose the record."""
        raise NotImplementedError


class MemoryReplay(StoreReplay):
    """The in-memory store; it can be copied, so that every step from every state can be taken."""

    store: MemoryStore

    def __init__(self) -> None:
        self._clock = ManualClock()
        super().__init__(MemoryStore(clock=self._clock), JOB, self._later)

    def _later(self) -> int:
        self._clock.advance(0.001)
        return int(self._clock.time() * 1_000_000)

    def fork(self) -> MemoryReplay:
        """Return another one that stands where this one does."""
        other = copy.copy(self)
        other._clock = ManualClock()
        other._clock.advance(self._clock.time() - other._clock.time() + 0.001)
        other.store = MemoryStore(clock=other._clock)
        other._now_us, other._instants = other._later, dict(self._instants)
        job = self.store._jobs.get(JOB)
        if job is not None:
            twin = other.store._jobs[JOB] = type(job)()
            twin.fields, twin.journal, twin.attempts = dict(job.fields), list(job.journal), list(job.attempts)
        return other

    def wipe(self) -> None:
        """Lose the record."""
        self.store._jobs.clear()


class RedisReplay(StoreReplay):
    """A Redis that is both broker and store, with kombu's channels: one for each worker, and one that brings back."""

    def __init__(self, app: Celery, store: JobStore, client: Any, workers: int) -> None:
        super().__init__(store, "", lambda: time.time_ns() // 1_000)
        self._client = client
        self._connection = app.connection_for_read()
        self._channels = [self._connection.channel() for _ in range(workers)]
        self._lease = RedisLease(self._connection, self._connection.channel())
        self._runs = 0
        self._tags: list[str] = []
        self._fenced: dict[int, FencedChannel] = {}

    def run(self, first: State, path: list[Step]) -> None:
        """Take all steps of a path, for a job of its own."""
        self._runs += 1
        self.id, self._last, self._instants, self._tags = f"job-{self._runs}", 0, {0: 0}, []
        self._client.flushdb()
        self._send(1)
        state = first
        for step in path:
            wrong = self.differs(state, step) or self._misplaced(step.state)
            assert wrong is None, wrong + "".join(f"\n  {taken.name}" for taken in path[: path.index(step) + 1])
            state = step.state

    def close(self) -> None:
        """Give up the connections."""
        self._client.flushdb()
        self._lease.close()

    def _send(self, number: int) -> None:
        channel = self._channels[0]
        channel._new_queue(f"model-{number}")
        message = channel.prepare_message("body", headers={}, properties={"delivery_mode": 2})
        tag = f"{self.id}-{number}"
        message["properties"].update(
            delivery_tag=tag, delivery_info={"exchange": "", "routing_key": f"model-{number}", "priority": 0}
        )
        channel._put(f"model-{number}", message)
        self._tags.append(tag)

    def tag(self, number: int) -> str:
        return self._tags[number - 1]

    def number(self, tag: str) -> int:
        return self._tags.index(tag) + 1 if tag else 0

    def wipe(self) -> None:
        self._client.delete(*self.store.keys.of(self.id))  # type: ignore[attr-defined]

    def _answered(self, step: Step) -> Any:
        if step.call is None:
            return None
        name, fields = step.call
        does = getattr(self, f"_do_{name.replace(' ', '_')}", None)
        return super()._answered(step) if does is None else does(**fields)

    def _do_send(self, tag: int, attempt: int) -> None:
        self._send(tag)

    def _do_receive(self, slot: int, tag: int, token: int) -> bool:
        channel = self._channels[slot]
        message = channel.basic_get(f"model-{tag}")
        instant = max(self._now_us(), self._last + 1)
        self._instants[token] = self._last = instant
        self._fenced[slot] = FencedChannel(channel, RedisFence(channel), Hold(self.tag(tag), instant))
        return bool(message.delivery_info.get("redelivered"))

    def _date(self, state: State, following: State) -> None:
        if state.tick in self._instants and following.tick == state.tick + 1:
            return  # the token of a reception
        super()._date(state, following)

    def _do_claim(self, slot: int) -> None:
        self._lease.claim(self._fenced[slot].hold)

    def _do_ask(self, slot: int) -> bool:
        return self._lease.renew([self._fenced[slot].hold]).held[0] is Held.HELD

    def _do_acknowledge(self, slot: int) -> str:
        fenced = self._fenced[slot]
        return RedisFence(fenced.channel).acknowledge(fenced.hold).name

    def _do_reject(self, slot: int) -> None:
        self._fenced[slot].basic_reject(self._fenced[slot].hold.tag, requeue=True)

    def _do_expire(self, tag: int) -> None:
        late = time.time() - (self._lease.visibility_timeout or 0.0) - 60
        self._client.zadd("unacked_index", {self.tag(tag): late}, xx=True)

    def _do_take(self, tag: int) -> bool:
        return self._lease.take(self.tag(tag))

    def _do_put_back(self, tag: int) -> None:
        self._lease.put_back(self.tag(tag))

    def _misplaced(self, state: State) -> str | None:
        for number, message in enumerate(state.messages, 1):
            queued = self._client.llen(f"model-{number}")
            held = self._client.hexists("unacked", self.tag(number))
            found = "both" if queued and held else "queue" if queued else "unacked" if held else "gone"
            if found != message.place:
                return f"message {number} is {found}, expected {message}"
        return None
