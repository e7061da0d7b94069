"""A Hypothesis state machine that drives both stores with all that the protocol has, and knows what the rules say of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from taskora_celery.encoding import pack, unpack
from taskora_celery.reading import progress_of, status_of
from taskora_celery.records import AttemptRecord, Outcome
from taskora_celery.store.journal import decode, decode_logs, encode
from taskora_celery.store.memory import MemoryStore
from taskora_celery.store.protocol import Begin, CancelOutcome, CancelRequest, Ended, Loss, Reply, Report, Shutdown
from tests.support.executions import NOW_MS
from tests.support.twins import Held, Twins

if TYPE_CHECKING:
    import redis

    from taskora_celery.store.redis import RedisStore

__all__ = ["INDEX_LIMIT", "LOG_LIMIT", "TTL", "StoreMachine"]

LOG_LIMIT, INDEX_LIMIT, TTL = 4, 1, 600.0
IDS = ("job-1", "job {2}")
NAME, WORKER = "shop.work", "w1@host"
_INFO = 2

ids = st.sampled_from(IDS)
values = st.one_of(
    st.integers(0, 9), st.floats(allow_nan=False), st.text(max_size=3), st.fixed_dictionaries({"current": st.integers(-99, 99)})
)
graces = st.sampled_from([None, 0.5])


@dataclass
class Story:
    """What the rules say that one job's record must show."""

    created_ms: int
    #: The message of the attempt that is next: its number, its tag, and whether it was delivered.
    attempt: int = 1
    tag: str = "t1"
    delivered: bool = False
    executions: list[Held] = field(default_factory=list)
    holder: Held | None = None
    state: str | None = None
    progress: Any = None
    checkpoint: Any = None
    entries: list[str] = field(default_factory=list)
    written: int = 0
    rows: int = 0
    stalls: int = 0
    refused: int = 0
    #: The request that counts, and whether it only fires the signal.
    asked: CancelRequest | None = None
    #: The last report that was taken, to be sent again.
    sent: tuple[Held, dict[str, Any], Reply] | None = None


class StoreMachine(RuleBasedStateMachine):
    """Two jobs, each with one message per attempt, among workers that die, people who cancel, and time that passes."""

    redis_store: RedisStore
    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.client.flushdb()
        self.memory = MemoryStore(log_limit=LOG_LIMIT, index_limit=INDEX_LIMIT)
        self.twins = Twins(self.memory, self.redis_store)
        self.heard = tuple(store.listen() for store in self.twins.stores)
        self.now = NOW_MS
        self.token = 0
        self.sendings = 0
        self.stories: dict[str, Story] = {}

    def teardown(self) -> None:
        """Stop listening."""
        if hasattr(self, "heard"):
            self.heard[1].close()

    def _later(self, ms: int = 1) -> int:
        self.now += ms
        return self.now

    def _story(self, job_id: str) -> Story:
        if job_id not in self.stories:
            self.stories[job_id] = Story(self.now - 500)
        return self.stories[job_id]

    def _begun(self, job_id: str) -> Story:
        """Return a job's story, with an execution if it can have one: most rules have nothing to do without."""
        if not self._story(job_id).executions:
            self.deliver(job_id)
        return self.stories[job_id]

    # --- deliveries ----------------------------------------------------------------------------------------------------

    @rule(job_id=ids)
    def deliver(self, job_id: str) -> None:
        """B2, B3: the message of the attempt comes, for the first time or again."""
        story = self._story(job_id)
        self.token += 1
        begin = Begin(
            job_id, NAME, story.attempt, WORKER, story.created_ms, self._later(), redelivered=story.delivered, tag=story.tag,
            token=self.token, trace="ab" * 16 if self.token % 2 else "",
        )  # fmt: skip
        story.delivered = True
        held = self.twins.begin(begin)
        if not held.runs:
            self._not_begun(story, held)
            return
        begun = held.begun[0]
        known = story.holder is not None and story.holder.begin.attempt == story.attempt
        assert begun.created_ms == story.created_ms, "B4"
        assert (None if begun.checkpoint is None else unpack(begun.checkpoint)) == story.checkpoint, "E8"
        if story.state == "STARTED" and known:
            story.rows, story.stalls = story.rows + 1, story.stalls + 1  # nobody has told how the one before ended
        assert len(begun.attempts) == story.rows, "B6"
        assert begun.stalls == story.stalls, "D6"
        assert story.state not in Outcome.FINAL, "G2, G7: what has ended does not begin"
        assert not story.asked, "G2: what is cancelled does not begin"
        story.holder, story.state = held, "STARTED"
        story.executions.append(held)

    def _not_begun(self, story: Story, held: Held) -> None:
        assert story.asked or story.state in Outcome.FINAL, "only what is cancelled or has ended does not begin"
        if story.asked and story.state not in Outcome.FINAL:
            story.state = Outcome.REVOKED
        assert (held.begun[0].cancel is not None) == (story.state == Outcome.REVOKED and story.asked is not None)

    @rule(job_id=ids)
    def deliver_twice(self, job_id: str) -> None:
        """A beginning whose answer was lost is sent again: it is the same delivery."""
        story = self._story(job_id)
        if story.holder is None or story.state != "STARTED" or story.asked:
            return
        before = self._seen(job_id)
        again = self.twins.begin(story.holder.begin)
        assert again.begun[0].delivery == story.holder.begun[0].delivery
        story.holder = again
        story.executions.append(again)
        after = self._seen(job_id)
        assert {**after[0], "b": 0} == {**before[0], "b": 0, "h": after[0]["h"]}
        story.sent = None

    # --- what executions say -------------------------------------------------------------------------------------------

    @rule(
        job_id=ids, data=st.data(), entries=st.integers(0, 3), lost=st.integers(0, 2), progress=st.none() | values,
        checkpoint=st.none() | values, looks=st.booleans(), twice=st.booleans(),
    )  # fmt: skip
    def report(
        self, job_id: str, data: st.DataObject, entries: int, lost: int, progress: Any, checkpoint: Any, looks: bool, twice: bool
    ) -> None:
        """E3, E8, F2, F3: any execution says something, be it one that counts no more; some entries never came here."""
        story = self._begun(job_id)
        if not story.executions:
            return
        held = data.draw(st.sampled_from(story.executions[::-1]))
        texts = [f"{job_id} {story.written + n}" for n in range(entries)]
        fields = self._said(held, texts, lost if texts else 0)
        if progress is not None:
            fields["progress"] = pack((progress, self.now, None))
        if checkpoint is not None:
            fields["checkpoint"] = pack(checkpoint)
        only_looks = looks and not (texts or progress is not None or checkpoint is not None)
        reply = self.twins.report(held, now_ms=0 if only_looks else self._later(), **fields)
        self._took(story, held, fields, reply, texts, lost if texts else 0)
        if twice:
            self.report_twice(job_id)
        if reply in {Reply.ACCEPTED, Reply.STOPPING} and self._counts(story, held):
            story.progress = progress if progress is not None else story.progress
            story.checkpoint = checkpoint if checkpoint is not None else story.checkpoint
        assert (reply is Reply.STOPPING) == (self._counts(story, held) and story.asked is not None)

    def _said(self, held: Held, texts: list[str], lost: int) -> dict[str, Any]:
        entries = [(_INFO, self.now + n, text, None, None) for n, text in enumerate(texts)]
        return {"first": held.number + lost, "batches": encode(held.begin.attempt, entries, LOG_LIMIT) if entries else ()}

    def _counts(self, story: Story, held: Held) -> bool:
        return held is story.holder

    def _took(self, story: Story, held: Held, fields: dict[str, Any], reply: Reply, texts: list[str], lost: int) -> None:
        if reply is Reply.SUPERSEDED:
            assert not self._counts(story, held), "D7"
            story.refused += 1
            return
        if reply is Reply.UNKNOWN:
            assert story.state is None, "only what has no record is unknown"
            return
        assert self._counts(story, held) or held.has_ended, "D7: of who counts no more at most the last words of a retry"
        held.number += lost + len(texts)
        story.entries += texts
        story.written += lost + len(texts)
        story.sent = (held, {**fields, "now_ms": self.now}, reply) if self._counts(story, held) else None

    @rule(job_id=ids)
    def report_twice(self, job_id: str) -> None:
        """A report whose answer was lost is sent again, and changes nothing more."""
        story = self._story(job_id)
        if story.sent is None or not self._counts(story, story.sent[0]):
            return
        held, fields, reply = story.sent
        before = self._seen(job_id)
        again = self.twins.report(held, **fields)
        assert again in {reply, Reply.STOPPING, Reply.CANCELLED}
        after = self._seen(job_id)
        assert {**after[0], "h": 0} == {**before[0], "h": 0}
        assert after[1:] == before[1:]

    @rule(
        job_id=ids, data=st.data(), unaware=st.booleans(), last=st.booleans(),
        state=st.sampled_from([Outcome.SUCCESS, Outcome.FAILURE, Outcome.RETRY, Outcome.REJECTED]),
    )  # fmt: skip
    def end(self, job_id: str, data: st.DataObject, unaware: bool, last: bool, state: str) -> None:
        """G3, I4: an execution ends; where the store says so, it ends as cancelled."""
        story = self._begun(job_id)
        if not story.executions:
            return
        held = data.draw(st.sampled_from(story.executions[::-1]))
        if held.has_ended:
            return
        at, texts = self._later(), ["the last word"] if last else []
        keep = None
        if state in {Outcome.RETRY, Outcome.REJECTED}:
            keep = AttemptRecord(held.begin.attempt, held.begun[0].delivery, WORKER, at, state, 0.1, "why")
        ended = Ended(state, at, "why", "OSError", keep, unaware and state in {Outcome.SUCCESS, Outcome.FAILURE})
        fields = {**self._said(held, texts, 0), "ended": ended}
        reply = self.twins.report(held, now_ms=at, **fields)
        self._took(story, held, fields, reply, texts, 0)
        if reply is Reply.CANCELLED:
            assert story.asked is not None
            assert not (ended.unaware and story.asked.gently)
            state = Outcome.REVOKED
            story.sent = None
            reply = self.twins.report(held, now_ms=at, ended=Ended(state, at, "no longer wanted", "JobCancelledError"))
            keep = None
        if reply not in {Reply.ACCEPTED, Reply.STOPPING} or not self._counts(story, held):
            return
        held.has_ended = True
        story.state, story.rows = state, story.rows + (keep is not None)
        story.sent = None  # its row would be kept again: an end is sent again only with its beginning
        if state == Outcome.SUCCESS:
            story.checkpoint = None
        if state == Outcome.RETRY:
            story.attempt, story.delivered = held.begin.attempt + 1, False
            self.sendings += 1
            story.tag = f"t{story.attempt}-{self.sendings}"

    @rule(job_id=ids, limit=st.sampled_from([None, 0, 1]), counts=st.booleans(), final=st.booleans(), known=st.booleans())
    def lose(self, job_id: str, limit: int | None, counts: bool, final: bool, known: bool) -> None:
        """D6: the process of a delivery, or its worker, dies; sent twice it counts once."""
        story = self._begun(job_id)
        if not story.executions:
            return
        held = story.executions[-1]
        loss = Loss(
            job_id, NAME, held.begin.attempt, WORKER, held.begin.tag, held.begin.token if known else None, self._later(), "gone",
            Outcome.FAILURE if final else None, "WorkerLostError" if final else None, limit, counts, story.created_ms,
        )  # fmt: skip
        lost = self.twins.lose(loss)
        assert (lost.stalls is not None) == (self._counts(story, held) and story.state == "STARTED")
        if lost.stalls is None:
            return
        story.stalls += counts
        assert lost.stalls == story.stalls
        assert lost.cancelled == (story.asked is not None)
        over = limit is not None and story.stalls > limit
        assert lost.ended == (final or over or lost.cancelled)
        story.state = Outcome.REVOKED if lost.cancelled else Outcome.FAILURE if lost.ended else Outcome.LOST
        story.rows += not lost.ended
        story.holder, story.sent = None, None
        assert self.twins.lose(loss).stalls is None, "the same loss again"
        if story.state == Outcome.FAILURE and not final:  # its message may come all the same, and fails then
            del self.stories[job_id]
            self._forget(job_id)

    # --- cancels -------------------------------------------------------------------------------------------------------

    @rule(job_id=ids, queued=st.booleans(), gently=st.booleans(), grace=graces, twice=st.booleans())
    def cancel(self, job_id: str, queued: bool, gently: bool, grace: float | None, twice: bool) -> None:
        """G1, G2, G7: somebody cancels; what counts is announced to all, and only that."""
        story = self._story(job_id)
        for _ in range(1 + twice):
            request = CancelRequest(job_id, self._later(), "no longer wanted", grace, gently, "ops@desk")
            outcome = self.twins.cancel(request, queued=queued)
            if outcome >= CancelOutcome.CANCELLED:
                assert all(heard.next() == request for heard in self.heard)
            self._cancelled(story, request, outcome, queued=queued)

    def _cancelled(self, story: Story, request: CancelRequest, outcome: CancelOutcome, *, queued: bool) -> None:
        if story.state is None:
            assert outcome is (CancelOutcome.CANCELLED if queued else CancelOutcome.UNKNOWN)
        elif story.state in Outcome.FINAL:
            mine = story.state == Outcome.REVOKED and story.asked is not None
            assert outcome is (CancelOutcome.ALREADY if mine else CancelOutcome.TOO_LATE)
        else:
            assert outcome is (CancelOutcome.REQUESTED if story.state == "STARTED" else CancelOutcome.CANCELLED)
        if outcome >= CancelOutcome.CANCELLED:
            if story.asked is None or (story.asked.gently and not request.gently):
                story.asked = request
            story.state = Outcome.REVOKED if outcome is CancelOutcome.CANCELLED else story.state
            story.sent = None

    @rule()
    def shut_down(self) -> None:
        """I3: a shutdown is announced."""
        for store in self.twins.stores:
            store.shut_down(WORKER)
        assert all(heard.next() == Shutdown(WORKER) for heard in self.heard)

    # --- the same id again, and time -----------------------------------------------------------------------------------

    @rule(job_id=ids)
    def send_anew(self, job_id: str) -> None:
        """Somebody sends a job under the id of one that has ended: a job of its own, with nothing of the other's."""
        story = self._story(job_id)
        if story.state not in Outcome.FINAL or story.holder is None:
            return
        self._later(10_000)
        self.sendings += 1
        self.stories[job_id] = Story(self.now, tag=f"anew-{self.sendings}")
        self.deliver(job_id)

    @rule(job_id=ids, part=st.sampled_from([0.4, 0.7, 1.0]))
    def time_passes(self, job_id: str, part: float) -> None:
        """L3: a part of the records' lifetime passes for one job; what is not written meanwhile is gone all at once."""
        self._later(int(part * TTL * 1000))
        for key in self.redis_store.keys.of(job_id):
            left = int(self.client.pttl(key))
            assert left != -1, f"{key} lives for ever"
            if left > 0:
                self.client.pexpire(key, max(left - int(part * TTL * 1000), 0))
        if not self.client.exists(self.redis_store.keys.of(job_id)[0]):
            self.stories.pop(job_id, None)
            self._forget(job_id)

    def _forget(self, job_id: str) -> None:
        """Let the record expire in both; who still runs finds none."""
        self.client.delete(*self.redis_store.keys.of(job_id))
        self.memory._jobs.pop(job_id, None)
        for store in self.twins.stores:
            assert store.report([Report(job_id, 1, self.now)]) == [Reply.UNKNOWN]

    # --- the index -----------------------------------------------------------------------------------------------------

    @rule(going=st.lists(ids, max_size=2), ended=st.lists(ids, max_size=2), number=st.integers(1, 3))
    def note(self, going: list[str], ended: list[str], number: int) -> None:
        """K3, K5: what has changed is listed, and what is counted adds up."""
        at = self._later()
        before = self.memory.counts().get("ended", 0)
        for store in self.twins.stores:
            store.note(going, ended, at, {"ended": number})
        assert [store.counts().get("ended") for store in self.twins.stores] == [before + number] * 2
        self._same_index()

    @rule(brief=st.booleans(), going=st.booleans(), limit=st.integers(0, 3))
    def list_jobs(self, brief: bool, going: bool, limit: int) -> None:
        """K3: the same jobs in the same order, capped; what has no record, or has ended, is taken off."""
        listed, same = (store.listed(limit, going=going) for store in self.twins.stores)
        # Of two with one instant either may be the first.
        assert sorted(listed) == sorted(same) or [at for _, at in listed] == [at for _, at in same]
        assert len(listed) <= (limit if going else min(limit, INDEX_LIMIT))
        records = [store.records(IDS, brief=brief, going=going) for store in self.twins.stores]
        for one, other in zip(*records, strict=True):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                assert {name: one.fields.get(name) for name in "snhwerz"} == {name: other.fields.get(name) for name in "snhwerz"}
                assert one.attempts == other.attempts
        self._same_index()

    def _same_index(self) -> None:
        for going in (False, True):
            listed, same = (sorted(store.listed(100, going=going)) for store in self.twins.stores)
            assert listed == same
            assert going or len(listed) <= INDEX_LIMIT

    # --- what must always hold -----------------------------------------------------------------------------------------

    def _seen(self, job_id: str) -> tuple[dict[str, Any], tuple[bytes, ...], Any]:
        found = self.redis_store.read(job_id, 0, attempts=True)
        assert found is not None
        return {**found.fields, "f": 0}, found.journal, found.attempts

    @precondition(lambda self: hasattr(self, "stories"))
    @invariant()
    def the_records_say_what_was_said(self) -> None:
        """E6, E8, F2, F3, F4, B6, D6, G7: both stores alike, and as the rules have it."""
        for job_id, story in self.stories.items():
            self.twins.compare(job_id)
            found = self.redis_store.read(job_id, 0, attempts=True)
            if found is None:
                assert story.state is None
                continue
            status = status_of(job_id, found, LOG_LIMIT)
            assert status.state == story.state
            assert progress_of(found)[0] == story.progress
            assert (None if "k" not in found.fields else unpack(found.fields["k"])) == story.checkpoint
            assert len(found.attempts) == story.rows
            assert (status.stalls, status.refused) == (story.stalls, story.refused)
            if story.state == "STARTED":
                assert story.holder is not None
                assert (status.attempt, status.delivery) == (story.holder.begin.attempt, story.holder.begun[0].delivery)
            self._check_logs(job_id, story)
            if story.asked is not None and not story.asked.gently:
                assert story.state in {"STARTED", Outcome.REVOKED}, "G7"

    def _check_logs(self, job_id: str, story: Story) -> None:
        found = self.redis_store.read(job_id, 0)
        assert found is not None
        entries = decode_logs(found.journal)
        texts = [entry.message for entry in entries]
        assert texts == story.entries[len(story.entries) - len(texts) :], "F2, F3: the newest, in call order, none twice"
        assert len(texts) >= min(LOG_LIMIT, len(story.entries)), "F3: not fewer than are to be kept"
        assert len(texts) <= LOG_LIMIT + 2, "F3: not more than a batch beyond them"
        status = status_of(job_id, found, LOG_LIMIT)
        assert status.logs == story.written
        assert status.dropped_logs == story.written - min(len(texts), LOG_LIMIT), "F3: what is not there is counted"
        seqs = [event.seq for event in decode(found.journal) if event.kind != "gap"]
        assert seqs == sorted(set(seqs))
