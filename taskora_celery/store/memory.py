"""The store's in-memory twin: the same contract in one process, for tests, eager tasks and the test kit."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from queue import SimpleQueue

import msgspec

from taskora_celery.clock import SYSTEM_CLOCK, Clock
from taskora_celery.errors import JobCancelledError, StoreUnavailableError
from taskora_celery.records import Outcome
from taskora_celery.store.announcements import packed, unpacked
from taskora_celery.store.counting import counts_of_loss
from taskora_celery.store.journal import STALLED, encode_cancel, encode_loss, encode_retry
from taskora_celery.store.keys import BRIEF_FIELDS, CHECKPOINT
from taskora_celery.store.memory_job import (
    MemoryJob,
    add_entry,
    append,
    begins_again,
    created_ms,
    failed_by_loss,
    is_anew,
    is_gentle,
    losing,
    lost_attempt,
    may_end,
    not_begun,
    reason_of,
    runs_already,
    trim,
    trim_one,
    verdict_on,
)
from taskora_celery.store.protocol import (
    NO_COUNTS,
    Begin,
    Begun,
    CancelOutcome,
    CancelRequest,
    Loss,
    Lost,
    Reply,
    Report,
    Shutdown,
    Snapshot,
    Verdict,
)
from taskora_celery.tally import add_to

__all__ = ["MemoryStore"]

_ATTEMPTS_KEPT = 100


class MemoryStore:
    """Keeps job records in this process's memory. Safe to use from several threads.

    ``log_limit`` is the number of newest log entries to keep per job, ``index_limit`` that of jobs to list; records never expire.
    """

    def __init__(self, log_limit: int = 10_000, clock: Clock = SYSTEM_CLOCK, index_limit: int = 10_000) -> None:
        self._log_limit = log_limit
        self._clock = clock
        self._index_limit = index_limit
        self._recent: dict[str, int] = {}
        self._going: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self._jobs: dict[str, MemoryJob] = {}
        self._changed = threading.Condition()
        self._changes: dict[str, int] = {}
        self._listeners: list[SimpleQueue[bytes | None]] = []

    def begin(self, begin: Begin) -> Begun:
        """Count a delivery and take the job's fence."""
        with self._changed:
            return self._begin(begin)

    def report(self, reports: Sequence[Report]) -> list[Reply]:
        """Write many reports in one go, and say for each what became of it."""
        with self._changed:
            return [self._report(report) for report in reports]

    def lose(self, loss: Loss) -> Lost:
        """Record that a delivery is lost, and fence its execution off."""
        with self._changed:
            lost = self._lose(loss)
            if lost.stalls is not None:
                self._note(*(([], [loss.id]) if lost.ended else ([loss.id], [])), loss.now_ms)
                self._count(counts_of_loss(loss, lost))
            return lost

    def cancel(self, request: CancelRequest, *, queued: bool = False) -> CancelOutcome:
        """Decide what a request to cancel comes to, and announce it."""
        with self._changed:
            outcome = self._cancel(request, queued)
            if outcome is CancelOutcome.CANCELLED:
                self._note([], [request.id], request.now_ms)
            if outcome >= CancelOutcome.CANCELLED:
                self._tell(request)
                self._announce(request.id)
            return outcome

    def shut_down(self, worker: str) -> None:
        """Announce that a worker shuts down."""
        with self._changed:
            self._tell(Shutdown(worker))

    def listen(self) -> _MemoryAnnouncements:
        """Listen to announcements."""
        with self._changed:
            heard = _MemoryAnnouncements(self._listeners)
            self._listeners.append(heard.queue)
            return heard

    def read(self, job_id: str, skip: int | None = None, *, attempts: bool = False) -> Snapshot | None:
        """Return the record, the journal from batch ``skip`` on (None: without it), and the attempts; None if unknown."""
        with self._changed:
            job = self._jobs.get(job_id)
            if job is None:
                return None
            removed = job.fields.get("i", 0)
            journal = [] if skip is None else job.journal[max(skip - removed, 0) :]
            fields = {name: value for name, value in job.fields.items() if (name, value) != ("f", 0)}
            return Snapshot(
                fields, removed,
                tuple(b"%d %d 0 %b" % item for item in journal), tuple(job.attempts) if attempts else (),
            )  # fmt: skip

    def note(
        self, going: Sequence[str], ended: Sequence[str], now_ms: int, counts: Mapping[str, int] = NO_COUNTS
    ) -> None:  # fmt: skip
        """Note in the index that the state of these jobs has changed, and add to the counts."""
        with self._changed:
            self._note(going, ended, now_ms)
            self._count(counts)

    def counts(self) -> dict[str, int]:
        """Return all counts."""
        with self._changed:
            return dict(self._counts)

    def _count(self, counts: Mapping[str, int]) -> None:
        for name, number in counts.items():
            add_to(self._counts, name, number)

    def _note(self, going: Sequence[str], ended: Sequence[str], now_ms: int) -> None:
        for index, job_ids in ((self._going, going), (self._recent, [*going, *ended])):
            for job_id in job_ids:
                index[job_id] = now_ms
        for job_id in ended:
            self._going.pop(job_id, None)
        for job_id in sorted(self._recent, key=lambda found: (self._recent[found], found))[: -self._index_limit or None]:
            del self._recent[job_id]

    def listed(self, limit: int, *, going: bool = False) -> list[tuple[str, int]]:
        """Return the newest jobs, with the instant (ms) at which each changed its state last."""
        with self._changed:
            newest = sorted((self._going if going else self._recent).items(), key=lambda item: (-item[1], item[0]))
        return newest[: max(limit, 0)]

    def records(self, job_ids: Sequence[str], *, brief: bool = False, going: bool = False) -> list[Snapshot | None]:
        """Return each job's record with its last attempt, None where there is none; ``brief``: only how it stands.

        Those are taken off the index; with ``going`` also those that have ended, of those that have not.
        """
        found = [self.read(job_id, attempts=not brief) for job_id in job_ids]
        with self._changed:
            for job_id, record in zip(job_ids, found, strict=True):
                if record is None:
                    self._recent.pop(job_id, None)
                if record is None or (going and record.fields.get("s") in Outcome.FINAL):
                    self._going.pop(job_id, None)
        if brief:
            return [None if record is None else _brief(record) for record in found]
        return [None if record is None else _listed(record) for record in found]

    @contextmanager
    def watch(self, job_ids: Sequence[str]) -> Iterator[_MemoryWatch]:
        """Watch jobs for changes, from the moment that the context is entered."""
        yield _MemoryWatch(self._changed, self._changes, job_ids)

    def close(self) -> None:
        """Do nothing: there are no connections, and the records stay readable."""

    def _begin(self, begin: Begin) -> Begun:
        job = self._jobs.setdefault(begin.id, MemoryJob())
        state, attempt = job.fields.get("s"), job.fields.get("a", 0)
        if 0 < begin.fence == job.fields["f"]:
            # The same begin again: its answer was lost on the way.
            return Begun(begin.fence, job.fields["d"], job.fields["c"], stalls=job.fields.get("x", 0))
        again = begins_again(begin, job.fields)
        verdict = verdict_on(begin, job.fields)
        if verdict is not None:
            if verdict is Verdict.CANCELLED and job.fields["s"] != Outcome.REVOKED:
                self._announce(begin.id)
            return not_begun(verdict, begin, job.fields)
        if state == Outcome.IGNORED:
            attempt, state = 0, None
        elif state in Outcome.FINAL:
            if not runs_already(begin, job.fields) and is_anew(begin, job.fields):
                job = self._jobs[begin.id] = MemoryJob(job.fields["f"])
                attempt = 0
            state = None
        fields = job.fields
        fence = max(fields["f"] + 1, begin.fence or int(self._clock.time() * 1_000_000))
        delivery = fields.get("d", 0) + (not again) if attempt == begin.attempt else 2 if begin.redelivered else 1
        taken, unheard = fields["u"] if again else 0, False
        if attempt == begin.attempt and not again and (state == "STARTED" or failed_by_loss(fields)):
            job.attempts = [*job.attempts, lost_attempt(fields, begin.now_ms)][-_ATTEMPTS_KEPT:]
            unheard = state == "STARTED"
            fields["x"] = fields.get("x", 0) + unheard
        if state == Outcome.RETRY:
            fields.update(g=fields["f"], v=fields["u"])
        for name in "erz":
            fields.pop(name, None)
        fields.update(
            s="STARTED", n=begin.name, a=begin.attempt, d=delivery, f=fence, w=begin.worker,
            c=fields.get("c", created_ms(begin)), b=begin.now_ms, h=begin.now_ms, u=taken, l=begin.tag, o=begin.token,
            **({"T": begin.trace} if begin.trace else {}),
        )  # fmt: skip
        self._announce(begin.id)
        return Begun(
            fence, delivery, fields["c"], fields.get("k"), tuple(job.attempts), fields.get("x", 0), fields.get("j"), unheard
        )  # fmt: skip

    def _cancel(self, request: CancelRequest, queued: bool) -> CancelOutcome:
        job = self._jobs.get(request.id)
        state = None if job is None else job.fields.get("s")
        if job is None:
            if not queued:
                return CancelOutcome.UNKNOWN
            job = self._jobs[request.id] = MemoryJob()
        fields = job.fields
        if state == Outcome.REVOKED and "j" in fields and fields.get("z") == JobCancelledError.__name__:
            return CancelOutcome.ALREADY
        if state in Outcome.FINAL:
            return CancelOutcome.TOO_LATE
        add_entry(job, encode_cancel(request))
        trim_one(job, self._log_limit)
        if "j" not in fields or (is_gentle(fields["j"]) and not request.gently):
            fields["j"] = packed(request)
        if state == "STARTED":
            return CancelOutcome.REQUESTED
        if state == Outcome.REJECTED:  # given back after an early acknowledgement: it comes as another message
            fields.pop("l", None)
        fields.update(s=Outcome.REVOKED, r=request.reason or "", z="JobCancelledError", e=request.now_ms)
        return CancelOutcome.CANCELLED

    def _tell(self, announcement: CancelRequest | Shutdown) -> None:
        for listener in list(self._listeners):
            listener.put(packed(announcement))

    def _lose(self, loss: Loss) -> Lost:
        job = losing(loss, self._jobs.get(loss.id) or MemoryJob())
        if job is None:
            return Lost(None)
        self._jobs[loss.id] = job
        fields = job.fields
        stalls = fields.get("x", 0) + loss.counts
        cancelled = "j" in fields
        over = loss.state is None and loss.limit is not None and stalls > loss.limit and not cancelled
        state = Outcome.REVOKED if cancelled else Outcome.FAILURE if over else loss.state
        reason = reason_of(fields["j"]) if cancelled else loss.reason
        for name in "egvz":
            fields.pop(name, None)
        fields.update(
            s=state or Outcome.LOST, n=loss.name, c=fields.get("c", loss.created_ms or fields["b"]),
            h=fields.get("h", fields["b"]), x=stalls, f=max(fields["f"] + 1, int(self._clock.time() * 1_000_000)),
            l=loss.tag, r=reason, u=0, o=fields.get("o", 0) if loss.token is None else loss.token,
        )  # fmt: skip
        if over or loss.error or cancelled:
            fields["z"] = "JobCancelledError" if cancelled else STALLED if over else loss.error
        add_entry(job, encode_loss(loss))
        trim_one(job, self._log_limit)
        if state is not None:
            fields["e"] = loss.now_ms
        else:
            lost = msgspec.structs.replace(lost_attempt(fields, loss.now_ms), reason=loss.reason)
            job.attempts = [*job.attempts, lost][-_ATTEMPTS_KEPT:]
        self._announce(loss.id)
        return Lost(stalls, state is not None, cancelled)

    def _report(self, report: Report) -> Reply:
        if report.begin is not None:
            fence = self._begin(report.begin).fence
            refused = Reply.SUPERSEDED if fence == Verdict.CANCELLED else Reply.UNKNOWN
            if fence not in {Verdict.SUPERSEDED, report.fence}:
                self._write(report)  # refused likewise, and counted
                return refused
        return self._write(report)

    def _write(self, report: Report) -> Reply:
        job = self._jobs.get(report.id)
        if job is None or not job.fields["f"]:
            return Reply.UNKNOWN
        fields = job.fields
        current = fields["f"] == report.fence
        if not current and fields.get("g") != report.fence:
            fields["y"] = fields.get("y", 0) + 1
            return Reply.SUPERSEDED
        before = len(job.journal)
        append(job, report, "u" if current else "v")
        answer = self._take(job, report) if current else Reply.ACCEPTED
        if len(job.journal) > before:
            trim(job, self._log_limit)
        self._announce(report.id)
        return answer

    def _take(self, job: MemoryJob, report: Report) -> Reply:
        """Take what the holder of the fence says, besides its entries."""
        fields = job.fields
        if report.now_ms:
            fields["h"] = report.now_ms
        if report.progress is not None:
            fields["p"] = report.progress
        if report.checkpoint is not None:
            fields["k"] = report.checkpoint
        if "j" in fields and report.ended is not None and not may_end(report.ended, fields["j"]):
            return Reply.CANCELLED
        self._end(job, report)
        return Reply.STOPPING if "j" in fields else Reply.ACCEPTED

    def _end(self, job: MemoryJob, report: Report) -> None:
        ended, fields = report.ended, job.fields
        if ended is None:
            return
        fields.update(s=ended.state, e=ended.at_ms)
        if ended.reason is not None:
            fields["r"] = ended.reason
        if ended.error is not None:
            fields["z"] = ended.error
        if ended.state == Outcome.SUCCESS:
            fields.pop("k", None)
        if ended.keep is not None and job.attempts[-1:] != [ended.keep]:  # else it is the same end again
            job.attempts = [*job.attempts, ended.keep][-_ATTEMPTS_KEPT:]
            add_entry(job, encode_retry(ended))

    def _announce(self, job_id: str) -> None:
        self._changes[job_id] = self._changes.get(job_id, 0) + 1
        self._changed.notify_all()


def _listed(record: Snapshot) -> Snapshot:
    fields = {**record.fields, CHECKPOINT: b""} if CHECKPOINT in record.fields else record.fields
    return Snapshot(fields, 0, (), record.attempts[-1:])


def _brief(record: Snapshot) -> Snapshot:
    return Snapshot({name: record.fields[name] for name in BRIEF_FIELDS if name in record.fields}, 0)


class _MemoryWatch:
    def __init__(self, changed: threading.Condition, changes: dict[str, int], job_ids: Sequence[str]) -> None:
        self._changed = changed
        self._changes = changes
        self._seen = {job_id: changes.get(job_id, 0) for job_id in job_ids}

    def wait(self, timeout: float) -> bool:
        with self._changed:
            changed = self._changed.wait_for(self._news, timeout)
            self._seen.update({job_id: self._changes.get(job_id, 0) for job_id in self._seen})
            return changed

    def _news(self) -> bool:
        return any(self._changes.get(job_id, 0) != seen for job_id, seen in self._seen.items())


class _MemoryAnnouncements:
    def __init__(self, listeners: list[SimpleQueue[bytes | None]]) -> None:
        self.queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._listeners = listeners

    def next(self) -> CancelRequest | Shutdown | None:
        data = self.queue.get()
        if data is None:
            raise StoreUnavailableError("closed")
        return unpacked(data)

    def close(self) -> None:
        with suppress(ValueError):  # it is closed already
            self._listeners.remove(self.queue)
        self.queue.put(None)
