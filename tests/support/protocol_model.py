"""The protocol between a broker, the workers, the record of one job and whoever cancels it, as a model that can be searched.

What is modelled: one job; a message per attempt, with its claim and whether its lease has run out; the record, as far as it
decides something; a few workers, each in one step of one delivery; somebody who brings back what is due; the result backend, as
the outcomes that were stored. A step is one round trip (or one thing that happens to a process), so every order of the round
trips of all who take part is one path. A process that sleeps, and one that is only slow, are the same here: whatever is not
stepped, waits. What is left out: log entries, time (a lease may run out whenever there is a fault left to spend), and jobs that
are replaced or sent anew under their id. Two pairs of round trips, which follow one another at once, count as not being torn
apart by a sleep as long as a lease: receiving a message and claiming it, and the look at the lease and the beginning.

:func:`moves` returns all that may happen next. Each step has the call that it is in reality, and the answer that is expected, so
that a path can be replayed with the real stores and the real scripts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

__all__ = [
    "FINAL", "FIRST", "NOBODY", "Bounds", "Call", "Execution", "Message", "Record", "Rules", "State", "Step", "begin", "cancel",
    "lose", "moves", "report",
]  # fmt: skip

STARTED, RETRY, LOST, REJECTED = "STARTED", "RETRY", "LOST", "REJECTED"
SUCCESS, FAILURE, REVOKED = "SUCCESS", "FAILURE", "REVOKED"
FINAL = frozenset({SUCCESS, FAILURE, REVOKED})
#: Why a record has ended: as cancelled, or by a loss too many.
CANCELLED, STALLED = "cancelled", "stalled"
MAX_STALLS = 1
#: The claim of a message that was put back: no delivery's.
NOBODY = -1


class Record(NamedTuple):
    """The fields of a record that decide something. Instants are ticks; 0 where there is none."""

    state: str
    attempt: int
    delivery: int
    fence: int
    stalls: int = 0
    asked: bool = False
    #: The message, told by its attempt, and the delivery of it.
    tag: int = 0
    token: int = 0
    why: str = ""


class Message(NamedTuple):
    """A message of one attempt: in its ``"queue"``, ``"unacked"`` with a worker, or ``"gone"``. Its tag is its number."""

    attempt: int = 1
    place: str = "queue"
    delivered: bool = False
    #: The token of the delivery that received it last, and of the one that has claimed it.
    receiver: int = 0
    claim: int = 0
    due: bool = False


class Execution(NamedTuple):
    """One delivery in a worker; ``phase`` is what it does next."""

    attempt: int
    tag: int
    token: int
    redelivered: bool
    phase: str
    fence: int = 0
    end: str = ""
    #: The store does not know its beginning, or its end: it is told with the next report.
    unregistered: bool = False
    untold: bool = False
    #: The fence that it took for itself could not be had.
    asks: bool = False
    anyway: bool = False

    @property
    def over(self) -> bool:
        """Whether nothing is left to be done."""
        return self.phase == "done" and not self.untold


class Recovery(NamedTuple):
    """Somebody brings a message back that is due; ``token`` is that of the delivery which the record showed."""

    phase: str
    tag: int
    token: int | None
    receiver: int


class Bounds(NamedTuple):
    """How much may still happen."""

    workers: int = 2
    retries: int = 0
    cancels: int = 0
    #: Processes or workers that die, or leases that run out while their worker lives.
    faults: int = 0
    #: Round trips to the store whose answer is lost, and those that do not even reach it.
    lost_answers: int = 0
    lost_requests: int = 0
    #: How often the store loses its data, or the record expires.
    wipes: int = 0
    requeues: int = 0


class State(NamedTuple):
    """All there is at one moment."""

    left: Bounds
    tick: int = 1
    record: Record | None = None
    messages: tuple[Message, ...] = (Message(),)
    slots: tuple[Execution | None, ...] = ()
    recovery: Recovery | None = None
    #: What was stored in the result backend, each once; what who cancelled was told; whether he has REVOKED still to store.
    outcomes: tuple[str, ...] = ()
    receipts: tuple[str, ...] = ()
    revokes: bool = False
    #: How often a handler was called, and for how many of these calls there was a reason.
    runs: int = 0
    reasons: int = 1
    #: How many faults there were.
    faults: int = 0
    #: A beginning or an end was not known to the store when the job went on.
    unheard: bool = False
    #: A job that had ended was run again, since the result backend did not know of its end.
    rerun: bool = False
    #: An attempt's message was sent twice.
    twice: bool = False

    @property
    def excused(self) -> bool:
        """Whether something happened behind which the job may run, and end, more than once; see docs/reliability.md."""
        return self.unheard or self.rerun or self.twice


class Call(NamedTuple):
    """A round trip: to whom, what, and for which execution or message."""

    name: str
    fields: dict[str, Any]


class Step(NamedTuple):
    """One thing that may happen: its name, what comes of it, the round trip that it is, and the expected answer."""

    name: str
    state: State
    call: Call | None = None
    answer: Any = None


class Rules(NamedTuple):
    """What may be switched off, to see that the search finds what it is for."""

    fence: bool = True
    claim: bool = True
    cancel_decides_end: bool = True
    put_back_is_nobodys: bool = True


FIRST = Rules()


# --- what the scripts decide ------------------------------------------------------------------------------------------------


def begin(record: Record | None, tick: int, execution: Execution, wanted: int = 0) -> tuple[Record | None, tuple[Any, ...]]:
    """Return the record behind ``begin.lua``, and ``(verdict or "BEGUN", delivery, stalls, asked)``.

    ``wanted`` is the fence that the caller has taken already.
    """
    attempt = execution.attempt
    held = record or Record("", 0, 0, 0)
    if wanted and held.fence == wanted:
        return record, ("BEGUN", held.delivery, held.stalls, False)
    verdict = _verdict(held, execution, wanted)
    if verdict == "CANCELLED":
        ended = held._replace(state=REVOKED, tag=execution.tag, attempt=attempt, why=CANCELLED)
        return ended, (verdict, 0, held.stalls, True)
    if verdict:
        return record, (verdict, 0, held.stalls, False)
    if held.state in FINAL and not _runs_already(held, execution, wanted) and _is_anew(held, execution):
        held = Record("", 0, 0, held.fence)
    again = _is_again(held, execution)
    delivery, stalls = 2 if execution.redelivered else 1, held.stalls
    if held.attempt == attempt:
        delivery = held.delivery + (not again)
        stalls += held.state == STARTED and not again
    taken = Record(
        STARTED, attempt, delivery, max(held.fence + 1, wanted or tick), stalls, held.asked, execution.tag, execution.token
    )  # fmt: skip
    return taken, ("BEGUN", delivery, stalls, held.asked)


def _verdict(record: Record, execution: Execution, wanted: int) -> str:
    """Return why a delivery does not begin; empty where it does."""
    attempt, behind = execution.attempt, 0 < wanted < record.fence
    if _is_again(record, execution):
        return "FENCE_TAKEN" if behind else ""
    if record.asked and record.state in {REVOKED, STARTED, LOST}:
        another = record.tag not in {0, execution.tag} and attempt <= record.attempt
        if not another and not _runs_already(record, execution, wanted):
            return "CANCELLED"
        if record.state == REVOKED and _runs_already(record, execution, wanted):
            return "SUPERSEDED" if behind else ""
    if execution.redelivered and record.attempt > attempt:
        return "RETRIED"
    if record.state in FINAL:
        if wanted > 0 and attempt < record.attempt:
            return "SUPERSEDED"  # an earlier attempt, of which the store is told only now
        if (record.tag, record.attempt) == (execution.tag, attempt) and not execution.anyway:
            return "ENDED" if execution.redelivered else "SUPERSEDED"
        return "FENCE_TAKEN" if _is_anew(record, execution) and 0 < wanted <= record.fence else ""
    return "SUPERSEDED" if behind else ""


def _is_again(record: Record, execution: Execution) -> bool:
    """Whether this is the beginning that the record is of: its answer was lost on the way."""
    of = record.state, record.attempt, record.tag, record.token
    return of == (STARTED, execution.attempt, execution.tag, execution.token)


def _runs_already(record: Record, execution: Execution, wanted: int) -> bool:
    """Whether it was cancelled as one that had not begun, while it ran unregistered, or had run."""
    over = execution.untold and execution.end in FINAL
    return record.asked and wanted > 0 and (over or not record.tag)


def _is_anew(record: Record, execution: Execution) -> bool:
    """Whether it counts as a job that was sent anew under the id of one that has ended."""
    if execution.attempt == record.attempt:
        return record.tag not in {0, execution.tag} or not execution.redelivered
    return not execution.redelivered and execution.attempt < record.attempt


def report(record: Record | None, fence: int, end: str, *, stands: bool, rules: Rules = FIRST) -> tuple[Record | None, str]:
    """Return the record behind ``report.lua``, and its reply."""
    if record is None or not record.fence:
        return record, "UNKNOWN"
    if record.fence != fence and rules.fence:
        return record, "SUPERSEDED"
    if end and record.asked and end != REVOKED and not stands and rules.cancel_decides_end:
        return record, "CANCELLED"
    why = CANCELLED if end == REVOKED else ""
    ended = record._replace(state=end, why=why or record.why) if end else record
    return ended, "STOPPING" if record.asked else "ACCEPTED"


def lose(
    record: Record | None, tick: int, attempt: int, tag: int, token: int | None, limit: int | None
) -> tuple[Record | None, tuple[Any, ...]]:
    """Return the record behind ``lose.lua``, and ``(losses or None, has it ended, as cancelled)``."""
    over = (None, False, False)
    held = record or Record("", 0, 0, 0)
    if held.tag == tag and token in {None, held.token}:
        if held.state != STARTED:
            return record, over
    else:
        if (
            token is None
            or held.fence >= token
            or held.attempt > attempt
            or (held.state in FINAL and (held.tag or not held.asked))
        ):
            return record, over
        delivery = held.delivery + 1 if held.attempt == attempt else 1
        held = held._replace(attempt=attempt, delivery=delivery, tag=tag, token=token)
    stalls = held.stalls + 1
    state, why = (REVOKED, CANCELLED) if held.asked else (LOST, "")
    if not held.asked and limit is not None and stalls > limit:
        state, why = FAILURE, STALLED
    lost = held._replace(state=state, stalls=stalls, why=why, fence=max(held.fence + 1, tick))
    return lost, (stalls, state != LOST, held.asked)


def cancel(record: Record | None) -> tuple[Record, str]:
    """Return the record behind ``cancel.lua``, of a job that is known to have been sent, and the outcome."""
    if record is None:
        return Record(REVOKED, 0, 0, 0, asked=True, why=CANCELLED), "CANCELLED"
    if record.state in FINAL:
        return record, "ALREADY" if record.asked and record.why == CANCELLED and record.state == REVOKED else "TOO_LATE"
    if record.state == STARTED:
        return record._replace(asked=True), "REQUESTED"
    tag = 0 if record.state == REJECTED else record.tag
    return record._replace(state=REVOKED, asked=True, tag=tag, why=CANCELLED), "CANCELLED"


# --- what may happen ----------------------------------------------------------------------------------------------------------


def moves(state: State, rules: Rules = FIRST) -> Iterator[Step]:
    """Yield all that may happen next."""
    for slot, execution in enumerate(state.slots):
        if execution is None or execution.over:
            yield from _receives(state, slot)
        else:
            yield from _goes_on(state, slot, execution, rules)
    yield from _brings_back(state, rules)
    yield from _cancels(state)
    if state.left.wipes and state.record is not None:
        left = state.left._replace(wipes=state.left.wipes - 1)
        yield Step("wipe", state._replace(record=None, left=left, unheard=True), Call("wipe", {}))


def _receives(state: State, slot: int) -> Iterator[Step]:
    for at, message in enumerate(state.messages):
        if message.place == "queue":
            token = state.tick
            phase = "claims" if message.delivered else "begins"
            execution = Execution(message.attempt, at + 1, token, message.delivered, phase)
            taken = message._replace(place="unacked", delivered=True, receiver=token, due=False)
            after = _with(state, slot, execution, messages=_put(state.messages, at, taken), tick=token + 1)
            call = Call("receive", {"slot": slot, "tag": at + 1, "token": token})
            yield Step(f"receive {slot} {at + 1}", after, call, message.delivered)


def _goes_on(state: State, slot: int, execution: Execution, rules: Rules) -> Iterator[Step]:
    yield from _PHASES[execution.phase](state, slot, execution, rules)
    if execution.untold:
        yield from _tells(state, slot, execution, rules)
    if state.left.faults and execution.phase != "done":
        spent = _fault(state)
        yield Step(f"die {slot}", _with(spent, slot, None))
        if execution.phase in {"begins", "runs", "ends", "stores", "sends"}:
            died = execution._replace(phase="lost", untold=False, unregistered=False)
            yield Step(f"kill {slot}", _with(spent, slot, died))


def _claims(state: State, slot: int, execution: Execution, _: Rules) -> Iterator[Step]:
    at = execution.tag - 1
    claimed = state.messages[at]._replace(claim=execution.token)
    after = _with(state, slot, execution._replace(phase="begins"), messages=_put(state.messages, at, claimed))
    yield Step(f"claim {slot}", after, Call("claim", {"slot": slot}))


def _begins(state: State, slot: int, execution: Execution, rules: Rules) -> Iterator[Step]:
    message = state.messages[execution.tag - 1]
    if message.place != "unacked" or (rules.claim and message.claim not in {0, execution.token}):
        yield Step(
            f"too late {slot}", _with(state, slot, execution._replace(phase="rejects")), Call("ask", {"slot": slot}), False
        )
        return
    record, answer = begin(state.record, state.tick, execution)
    call = Call("begin", {"slot": slot, "execution": execution, "wanted": 0})
    known = state._replace(record=record, tick=state.tick + 1)
    yield Step(f"begin {slot}", _begun(known, slot, execution, answer), call, answer)
    unregistered = execution._replace(phase="runs", fence=state.tick + 1, unregistered=True)
    for name, unheard in _unheard(state):
        after = _with(unheard, slot, unregistered, tick=state.tick + 2, runs=state.runs + 1)
        if name == "answer":
            yield Step(f"begin {slot}, answer lost", after._replace(record=record), call, answer)
        else:
            yield Step(f"begin {slot}, request lost", after)


def _begun(state: State, slot: int, execution: Execution, answer: tuple[Any, ...]) -> State:
    verdict, _, stalls, _ = answer
    if verdict == "BEGUN":
        assert state.record is not None
        held = execution._replace(fence=state.record.fence)
        if stalls > MAX_STALLS:
            return _with(state, slot, held._replace(phase="ends", end=FAILURE))
        return _with(state, slot, held._replace(phase="runs"), runs=state.runs + 1)
    if verdict == "CANCELLED":
        return _with(state, slot, execution._replace(phase="stores", end=REVOKED))
    if verdict == "ENDED" and not state.outcomes:
        return _with(state, slot, execution._replace(anyway=True), rerun=True)
    return _with(state, slot, execution._replace(phase="acks" if verdict in {"ENDED", "RETRIED"} else "rejects"))


def _runs(state: State, slot: int, execution: Execution, rules: Rules) -> Iterator[Step]:
    yield from _ends(state, slot, execution._replace(end=""), rules)
    yield from _ends(state, slot, execution._replace(end=SUCCESS), rules)
    if execution.attempt <= state.left.retries:
        yield from _ends(state, slot, execution._replace(end=RETRY), rules)
    if state.left.requeues:
        left = state.left._replace(requeues=state.left.requeues - 1)
        yield from _ends(state._replace(left=left, reasons=state.reasons + 1), slot, execution._replace(end=REJECTED), rules)


def _ends(state: State, slot: int, execution: Execution, rules: Rules) -> Iterator[Step]:
    """One report of a running execution: a word, or its end."""
    name = f"report {slot} {execution.end}".rstrip()
    call = Call("report", {"slot": slot, "execution": execution, "stands": False})
    told, reply, after = _sent(state, slot, execution, rules, stands=False)
    yield Step(name, _replied(after, slot, told, reply), call, reply)
    if not execution.end:
        return
    for what, unheard in _unheard(state):
        gone = execution._replace(untold=True)
        if what == "answer":
            applied = unheard._replace(record=after.record, tick=after.tick)
            yield Step(f"{name}, answer lost", _replied(applied, slot, gone, "ACCEPTED"), call, reply)
        else:
            yield Step(f"{name}, request lost", _replied(unheard, slot, gone, "ACCEPTED"))


def _sent(
    state: State, slot: int, execution: Execution, rules: Rules, *, stands: bool
) -> tuple[Execution, str, State]:  # fmt: skip
    """Send a report, with the beginning where that is not known; return the execution, the reply, and the state."""
    record, tick = state.record, state.tick
    if execution.asks:
        record, answer = begin(record, tick, execution)
        tick += 1
        if answer[0] != "BEGUN":
            return execution._replace(asks=False), "SUPERSEDED", state._replace(record=record, tick=tick)
        assert record is not None
        execution = execution._replace(asks=False, unregistered=False, fence=record.fence)
    reply = ""
    if execution.unregistered:
        record, answer = begin(record, tick, execution, execution.fence)
        tick += 1
        if answer[0] == "CANCELLED":
            reply = "SUPERSEDED"
        elif answer[0] != "SUPERSEDED" and (answer[0] != "BEGUN" or record is None or record.fence != execution.fence):
            reply = "UNKNOWN"
    record, written = report(record, execution.fence, execution.end, stands=stands, rules=rules)
    reply = reply or written
    if reply == "UNKNOWN":
        execution = execution._replace(asks=execution.unregistered, unregistered=True, fence=max(execution.fence + 1, tick))
        tick += 1
    else:
        execution = execution._replace(unregistered=False)
    return execution, reply, state._replace(record=record, tick=tick)


def _replied(state: State, slot: int, execution: Execution, reply: str) -> State:
    """Return what an execution does behind the reply to its report."""
    if reply == "SUPERSEDED":
        other = state.record is not None and state.record.tag not in {0, execution.tag}
        return _with(state, slot, execution._replace(phase="acks" if other else "rejects", end="", untold=False))
    if not execution.end:
        return _with(state, slot, execution)
    if reply == "CANCELLED":
        return _with(state, slot, execution._replace(phase="ends", end=REVOKED))
    if reply == "UNKNOWN":
        execution, state = execution._replace(untold=True), state._replace(unheard=True)
    phase = {RETRY: "sends", REJECTED: "rejects"}.get(execution.end, "stores")
    return _with(state, slot, execution._replace(phase=phase))


def _tells(state: State, slot: int, execution: Execution, rules: Rules) -> Iterator[Step]:
    """What an end that the store may not know is told of by the reporter's thread, behind the job."""
    stands = execution.end in FINAL
    call = Call("report", {"slot": slot, "execution": execution, "stands": stands})
    told, reply, after = _sent(state, slot, execution, rules, stands=stands)
    yield Step(f"tell {slot}", _with(after, slot, told._replace(untold=reply == "UNKNOWN")), call, reply)


def _stores(state: State, slot: int, execution: Execution, _: Rules) -> Iterator[Step]:
    outcomes = tuple(dict.fromkeys([*state.outcomes, execution.end]))
    yield Step(f"store {slot} {execution.end}", _with(state, slot, execution._replace(phase="acks"), outcomes=outcomes))


def _sends(state: State, slot: int, execution: Execution, _: Rules) -> Iterator[Step]:
    attempt = execution.attempt + 1
    # A delivery before this one may have sent it, and died before its own message was acknowledged: nobody can know.
    twice = state.twice or any(message.attempt == attempt for message in state.messages)
    after = _with(
        state, slot, execution._replace(phase="acks"), messages=(*state.messages, Message(attempt)), reasons=state.reasons + 1,
        twice=twice,
    )  # fmt: skip
    yield Step(f"send {slot}", after, Call("send", {"tag": len(after.messages), "attempt": attempt}))


def _acks(state: State, slot: int, execution: Execution, rules: Rules) -> Iterator[Step]:
    at = execution.tag - 1
    message, answer = state.messages[at], "GONE"
    if message.claim not in {0, execution.token} and rules.claim:
        answer = "TAKEN"
    else:
        answer = "HELD" if message.place == "unacked" else "GONE"
        message = message._replace(claim=0, place="gone" if message.place == "unacked" else message.place, due=False)
    after = _with(state, slot, execution._replace(phase="done"), messages=_put(state.messages, at, message))
    yield Step(f"ack {slot}", after, Call("acknowledge", {"slot": slot}), answer)


def _rejects(state: State, slot: int, execution: Execution, rules: Rules) -> Iterator[Step]:
    at = execution.tag - 1
    message = state.messages[at]
    if message.place == "unacked" and (message.claim in {0, execution.token} or not rules.claim):
        message = message._replace(place="queue", due=False)
    after = _with(state, slot, execution._replace(phase="done"), messages=_put(state.messages, at, message))
    yield Step(f"reject {slot}", after, Call("reject", {"slot": slot}))


def _is_lost(state: State, slot: int, execution: Execution, rules: Rules) -> Iterator[Step]:
    """Its process was killed: the worker's parent tells of it, and gives the message back."""
    record, answer = lose(state.record, state.tick, execution.attempt, execution.tag, execution.token, MAX_STALLS)
    call = Call("lose", {"attempt": execution.attempt, "tag": execution.tag, "token": execution.token, "limit": MAX_STALLS})
    known = state._replace(record=record, tick=state.tick + 1)
    _, ended, cancelled = answer
    follows = execution._replace(phase="rejects")
    if ended:
        follows = execution._replace(phase="stores", end=REVOKED if cancelled else FAILURE)
    yield Step(f"lose {slot}", _with(known, slot, follows), call, answer)
    for what, unheard in _unheard(state):
        after = _with(unheard, slot, execution._replace(phase="rejects"), tick=state.tick + 1)
        if what == "answer":
            yield Step(f"lose {slot}, answer lost", after._replace(record=record), call, answer)
        else:
            yield Step(f"lose {slot}, request lost", after)


def _nothing(_state: State, _slot: int, _execution: Execution, _rules: Rules) -> Iterator[Step]:
    return iter(())


_PHASES = {
    "claims": _claims, "begins": _begins, "runs": _runs, "ends": _ends, "stores": _stores, "sends": _sends, "acks": _acks,
    "rejects": _rejects, "lost": _is_lost, "done": _nothing,
}  # fmt: skip


def _brings_back(state: State, rules: Rules) -> Iterator[Step]:
    """A lease runs out; somebody sees it, and puts the message back."""
    living = {execution.token for execution in state.slots if execution is not None and execution.phase != "done"}
    unclaimed = {execution.token for execution in state.slots if execution is not None and execution.phase == "claims"}
    for at, message in enumerate(state.messages):
        if message.place == "unacked" and not message.due and (state.recovery is None or state.recovery.tag != at + 1):
            dead = message.receiver not in living
            if dead or (state.left.faults and not unclaimed & {message.receiver}):
                late = _put(state.messages, at, message._replace(due=True))
                after = (state if dead else _fault(state))._replace(messages=late)
                yield Step(f"expire {at + 1}", after, Call("expire", {"tag": at + 1}))
        if message.due and state.recovery is None:
            shown = state.record.token if state.record is not None and state.record.tag == at + 1 else None
            found = Recovery("takes", at + 1, shown, message.receiver)
            yield Step(f"look {at + 1}", state._replace(recovery=found), Call("look", {"tag": at + 1}), shown)
    if state.recovery is not None:
        yield _RECOVERY[state.recovery.phase](state, state.recovery, rules)


def _takes(state: State, recovery: Recovery, _: Rules) -> Step:
    at = recovery.tag - 1
    message = state.messages[at]
    mine = message.due and message.place == "unacked"
    after = state._replace(
        recovery=recovery._replace(phase="loses", receiver=message.receiver) if mine else None,
        messages=_put(state.messages, at, message._replace(due=False)),
    )
    return Step(f"take {recovery.tag}", after, Call("take", {"tag": recovery.tag}), mine)


def _loses(state: State, recovery: Recovery, rules: Rules) -> Step:
    attempt = state.messages[recovery.tag - 1].attempt
    record, answer = lose(state.record, state.tick, attempt, recovery.tag, recovery.token, None)
    after = state._replace(record=record, tick=state.tick + 1, recovery=recovery._replace(phase="puts back"))
    call = Call("lose", {"attempt": attempt, "tag": recovery.tag, "token": recovery.token, "limit": None})
    return Step(f"give up {recovery.tag}", after, call, answer)


def _puts_back(state: State, recovery: Recovery, rules: Rules) -> Step:
    at = recovery.tag - 1
    message = state.messages[at]
    if message.place == "unacked" and message.receiver == recovery.receiver:
        message = message._replace(place="queue", claim=NOBODY if rules.put_back_is_nobodys else message.claim)
    after = state._replace(recovery=None, messages=_put(state.messages, at, message))
    return Step(f"put back {recovery.tag}", after, Call("put back", {"tag": recovery.tag}))


_RECOVERY = {"takes": _takes, "loses": _loses, "puts back": _puts_back}


def _cancels(state: State) -> Iterator[Step]:
    if state.left.cancels:
        record, outcome = cancel(state.record)
        left = state.left._replace(cancels=state.left.cancels - 1)
        told = {"ALREADY": "cancelled"}.get(outcome, outcome.lower())
        receipts, revokes = (*state.receipts, told), state.revokes or outcome == "CANCELLED"
        after = state._replace(record=record, left=left, receipts=receipts, revokes=revokes)
        yield Step("cancel", after, Call("cancel", {}), outcome)
        for what, unheard in _unheard(state):
            if what == "answer":  # who cancels is told nothing, and asks again
                yield Step("cancel, answer lost", unheard._replace(record=record), Call("cancel", {}), outcome)
    if state.revokes:
        stored = state.outcomes or (REVOKED,)
        yield Step("store REVOKED", state._replace(revokes=False, outcomes=stored))


def _unheard(state: State) -> Iterator[tuple[str, State]]:
    if state.left.lost_answers:
        left = state.left._replace(lost_answers=state.left.lost_answers - 1)
        yield "answer", state._replace(left=left, unheard=True)
    if state.left.lost_requests:
        left = state.left._replace(lost_requests=state.left.lost_requests - 1)
        yield "request", state._replace(left=left, unheard=True)


def _fault(state: State) -> State:
    left = state.left._replace(faults=state.left.faults - 1)
    return state._replace(left=left, faults=state.faults + 1, reasons=state.reasons + 1)


def _with(state: State, slot: int, execution: Execution | None, **fields: Any) -> State:
    return state._replace(slots=_put(state.slots, slot, execution), **fields)


def _put(items: tuple[Any, ...], at: int, item: Any) -> tuple[Any, ...]:
    return (*items[:at], item, *items[at + 1 :])
