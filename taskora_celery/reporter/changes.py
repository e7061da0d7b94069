"""What the reporter tells the store of all jobs together: whose state has changed, and what is counted."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from taskora_celery.records import Outcome, level_name
from taskora_celery.store.journal import STATE
from taskora_celery.store.protocol import Begin, Ended
from taskora_celery.tally import Count, Tally, duration_counts

__all__ = ["Changes"]

#: Changes of state that wait for the index while the store is away, the newest.
CHANGES_KEPT = 10_000


class Changes:
    """Beginnings, ends and counts since the store was last told of them.

    Any thread adds to it: that is an append, without a lock, and the handler's thread pays for nothing more. The reporter's
    thread takes it all in and sums it up.
    """

    __slots__ = ("_counted", "_going", "_moved", "_tally")

    def __init__(self) -> None:
        self._moved: deque[tuple[Begin, Ended | None]] = deque(maxlen=CHANGES_KEPT)
        self._counted: deque[tuple[Count, int]] = deque(maxlen=CHANGES_KEPT)
        #: Whether each job goes on.
        self._going: dict[str, bool] = {}
        self._tally = Tally()

    def __bool__(self) -> bool:
        return bool(self._going or self._tally or self._moved or self._counted)

    def begun(self, begin: Begin) -> None:
        """Note that a delivery has begun."""
        self._moved.append((begin, None))

    def ended(self, begin: Begin, ended: Ended) -> None:
        """Note how a delivery has ended."""
        self._moved.append((begin, ended))

    def cancelled(self, name: str, seconds: float) -> None:
        """Note how long it took a running job to end, from the request to cancel it on."""
        self._counted.extend(duration_counts("cancel_latency", seconds, (name,)))

    def counted(self, counts: Iterable[tuple[Count, int]]) -> None:
        """Note what else is counted."""
        self._counted.extend(counts)

    def take(self) -> tuple[list[str], list[str], dict[str, int]]:
        """Return the jobs that go on, those that have ended, and the counts. For the reporter's thread."""
        self.gather()
        going, self._going = self._going, {}
        on = [job_id for job_id, goes_on in going.items() if goes_on]
        return on, [job_id for job_id, goes_on in going.items() if not goes_on], self._tally.take()

    def give_back(self, going: list[str], ended: list[str], counts: dict[str, int]) -> None:
        """Keep what could not be told, with what has come since."""
        later = self._going
        self._going = {**dict.fromkeys(going, True), **dict.fromkeys(ended, False), **later}
        self._tally.give_back(counts)

    def gather(self) -> None:
        """Sum up what has come: in an outage only the sums grow, and they are bounded. For the reporter's thread."""
        for begin, ended in [self._moved.popleft() for _ in range(len(self._moved))]:
            # Behind what is there: the newest are the last, and the oldest are given up.
            self._going.pop(begin.id, None)
            self._going[begin.id] = ended is None or ended.state not in Outcome.FINAL
            self._tally.add(begin_counts(begin) if ended is None else end_counts(begin, ended))
        while len(self._going) > CHANGES_KEPT:
            del self._going[next(iter(self._going))]
        self._tally.add([self._counted.popleft() for _ in range(len(self._counted))])


def begin_counts(begin: Begin) -> Sequence[tuple[Count, int]]:
    """Return what a beginning adds: how long the job waited in its queue, where that can be said."""
    if begin.attempt > 1 or begin.redelivered or not begin.created_ms or begin.queue is None:
        return ()
    return duration_counts("queue_wait", (begin.now_ms - begin.created_ms) / 1000, (begin.queue,))


def end_counts(begin: Begin, ended: Ended) -> Sequence[tuple[Count, int]]:
    """Return what an end adds: the attempt's outcome, its duration, and why it is tried again."""
    users = (begin.name,)
    duration = duration_counts("attempt_duration", (ended.at_ms - begin.now_ms) / 1000, users)
    attempt = (Count("attempts", (ended.state,), users), 1)
    if ended.state == Outcome.RETRY:
        return attempt, *duration, (Count("retries", (), (begin.name, ended.error or "none")), 1)
    return attempt, *duration


def log_counts(name: str, codes: Sequence[int], dropped: int) -> list[tuple[Count, int]]:
    """Return what log entries with these codes add, and those that were dropped before they could be stored."""
    found = [(Count("log_records", (level_name(code),), (name,)), codes.count(code)) for code in set(codes) if code < STATE]
    if dropped > 0:
        found.append((Count("dropped", ("log",)), dropped))
    return found
