"""An exhaustive search through :mod:`tests.support.protocol_model`, with what must hold in every state and in every step."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from tests.support.protocol_model import FINAL, FIRST, NOBODY, REVOKED, SUCCESS, Bounds, Record, Rules, State, Step, moves

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What who cancels is told where his request counts.
ACKNOWLEDGED = {"cancelled", "requested"}


class BrokenError(AssertionError):
    """Something that must hold does not; the text has the path to it."""


def alike(state: State) -> State:
    """Return what stands for all states that go on alike: instants by their order, workers without their places."""
    record, recovery = state.record, state.recovery
    ticks = {0}
    if record is not None:
        ticks |= {record.fence, record.token}
    for message in state.messages:
        ticks |= {message.receiver, message.claim}
    for execution in state.slots:
        if execution is not None and not execution.over:
            ticks |= {execution.token, execution.fence}
    if recovery is not None:
        ticks |= {recovery.token or 0, recovery.receiver}
    rank = {tick: at for at, tick in enumerate(sorted(ticks - {NOBODY}))} | {NOBODY: NOBODY}
    slots = [
        None if execution is None or execution.over
        else execution._replace(token=rank[execution.token], fence=rank[execution.fence])
        for execution in state.slots
    ]  # fmt: skip
    return state._replace(
        tick=0,
        runs=state.runs - state.reasons,
        reasons=0,
        record=record and record._replace(fence=rank[record.fence], token=rank[record.token]),
        messages=tuple(m._replace(receiver=rank[m.receiver], claim=rank[m.claim]) for m in state.messages),
        slots=tuple(sorted(slots, key=repr)),
        recovery=recovery
        and recovery._replace(token=recovery.token and rank[recovery.token], receiver=rank[recovery.receiver]),
    )  # fmt: skip


def is_over(state: State) -> bool:
    """Whether the job has an outcome, and nobody is left who would do anything about it."""
    return (
        bool(state.outcomes)
        and all(message.place == "gone" for message in state.messages)
        and all(execution is None or execution.over for execution in state.slots)
        and not state.revokes
    )  # fmt: skip


def wrong_in(state: State) -> str | None:
    """Return which rule a state breaks, None where it keeps them all."""
    outcomes, receipts = state.outcomes, state.receipts
    if not outcomes and all(message.place == "gone" for message in state.messages):
        return "nothing is lost: it has no outcome, and no message"
    if state.excused:
        return None  # what was told before Celery's outcome was known to the record, or behind lost data, may come too late
    if state.runs > state.reasons:
        return "D3: a handler was called without a reason"
    if state.record is not None and state.record.stalls > state.faults:
        return "D6: losses are counted that were none"
    if len(outcomes) > 1:
        return "one outcome: it has several"
    if ACKNOWLEDGED & set(receipts) and outcomes not in {(), (REVOKED,)}:
        return "G7: a cancel was acknowledged, and it ended otherwise"
    if receipts[:1] == ("too_late",) and REVOKED in outcomes:
        return "G7: a cancel came too late, and it ended as cancelled"
    if is_over(state) and state.record is not None and state.record.state != outcomes[0]:
        return "the record tells of another end than the result"
    return None


def wrong_between(state: State, step: Step) -> str | None:
    """Return which rule a step breaks, None where it keeps them all."""
    before, after = state.record, step.state.record
    if _is_of_nobody(before, step) and after != before:
        return "D7: an execution that counts no more changed the record"
    for message, following in zip(state.messages, step.state.messages, strict=False):
        removed = message.place == "unacked" and following.place == "gone"
        settled = state.outcomes or len(state.messages) > 1
        if removed and not settled:
            return "D7: a message was removed before the job had an outcome or a next attempt"
        if message.place == "queue" and following.place == "gone":
            return "D7: a message was removed that waits"
    if step.state.excused:
        return None
    if "cancelled" in state.receipts and step.state.runs > state.runs:
        return "G2: a handler was called behind a cancel that was acknowledged"
    return None if before is None or after is None else _wrong_in_record(before, after)


def _wrong_in_record(before: Record, after: Record) -> str | None:
    if before.state in FINAL and after.attempt < before.attempt:
        return f"one outcome: attempt {before.attempt} had ended the job, and then attempt {after.attempt} was put over it"
    if {before.state, after.state} <= FINAL and after.state != before.state:
        return f"one outcome: {before.state} was written, and then {after.state}"
    if before.state == SUCCESS and after.asked and not before.asked:
        return "G7: a cancel was taken behind the success"
    return None


def _is_of_nobody(record: Record | None, step: Step) -> bool:
    """Whether a step is the report of an execution that does not hold the fence, and does not ask for it."""
    if step.call is None or step.call.name != "report":
        return False
    sender = step.call.fields["execution"]
    return not (sender.unregistered or sender.asks) and (record is None or record.fence != sender.fence)


class Twin(Protocol):
    """The real thing at one state."""

    def fork(self) -> Twin:
        """Return another one at the same state."""

    def differs(self, state: State, step: Step) -> str | None:
        """Take a step, and return what was otherwise than in the model; None where nothing was."""


@dataclass
class Found:
    """What a search has seen: each state with the one before it and the step between, and how many steps there are in all."""

    came_from: dict[State, tuple[State | None, Step | None]] = field(default_factory=dict)
    steps: int = 0
    before: dict[State, list[State]] = field(default_factory=dict)
    ends: list[State] = field(default_factory=list)

    def path(self, state: State) -> list[Step]:
        """Return the steps to a state, from the first."""
        taken: list[Step] = []
        at: State | None = state
        while at is not None:
            at, step = self.came_from[at]
            if step is not None:
                taken.append(step)
        return taken[::-1]

    def paths(self) -> Iterator[list[Step]]:
        """Yield paths that together go through every state: one to each from which no new one was found."""
        inner = {before for before, _ in self.came_from.values()}
        for state in self.came_from:
            if state not in inner:
                yield self.path(state)

    def stuck(self) -> list[State]:
        """Return the states from which no end can be reached."""
        alive, waiting = set(self.ends), deque(self.ends)
        while waiting:
            for earlier in self.before.get(waiting.popleft(), ()):
                if earlier not in alive:
                    alive.add(earlier)
                    waiting.append(earlier)
        return [state for state in self.came_from if state not in alive]


def first_of(bounds: Bounds) -> State:
    """Return the state in which a job has just been sent."""
    return State(bounds, slots=(None,) * bounds.workers)


def search(bounds: Bounds, rules: Rules = FIRST, *, twin: Twin | None = None) -> Found:
    """Go through all that may happen within these bounds, breadth first: the first path to what is broken is a shortest one.

    ``twin`` is the real thing, which takes every step from every state, too.

    :raises BrokenError: something that must hold does not, or the real thing does something else.
    """
    found, first = Found(), first_of(bounds)
    found.came_from[alike(first)] = (None, None)
    waiting = deque([(alike(first), first, twin)])
    while waiting:
        key, state, real = waiting.popleft()
        if is_over(state):
            found.ends.append(key)
        for step in moves(state, rules):
            found.steps += 1
            following = alike(step.state)
            found.before.setdefault(following, []).append(key)
            is_new = following not in found.came_from
            if is_new:
                found.came_from[following] = (key, step)
            wrong = wrong_between(state, step) or (wrong_in(step.state) if is_new else None)
            following_real = None
            if real is not None:
                following_real = real.fork()
                wrong = wrong or following_real.differs(state, step)
            if wrong is not None:
                names = [taken.name for taken in found.path(key)] + [step.name]
                raise BrokenError(f"{wrong}\n  " + "\n  ".join(names) + f"\n{step.state}")
            if is_new:
                waiting.append((following, step.state, following_real))
    stuck = found.stuck()
    if stuck:
        names = [taken.name for taken in found.path(stuck[0])]
        raise BrokenError("nothing is lost: from here no end can be reached\n  " + "\n  ".join(names) + f"\n{stuck[0]}")
    return found
