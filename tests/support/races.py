"""Random races of a cancel with a job's life: seeded, so that what was seen once can be seen again."""

from __future__ import annotations

import random
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from celery import states

from taskora_celery import JobCancelledError, JobHandle, JobNotFoundError
from tests.support import stopping_jobs
from tests.support.outcome_watch import OutcomeWatch
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from celery import Celery

#: Behind a receipt, a handler that began in the moment before may still tell that it has; in seconds.
MOMENT = 1.0
#: So long before its time a scheduled job was surely not begun; in seconds.
MARGIN = 0.05


@dataclass
class Race:
    """One job, and what came of each request to cancel it."""

    kind: str
    ms: int
    countdown: float
    #: Seconds from the sending to each request; none at all for some.
    offsets: list[float]
    handle: Any = None
    sent_at: float = 0.0
    receipts: list[Any] = field(default_factory=list)
    answered_at: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def race(app: Celery, url: str, seed: int, number: int, threads: int, spread: float) -> list[str]:
    """Run ``number`` races from several threads; return what was wrong, each with its race. Empty when all is well.

    ``spread`` is the longest time in seconds between a job's sending and its cancel.
    """
    races = [_drawn(random.Random(f"{seed} {n}"), spread) for n in range(number)]
    failures: list[BaseException] = []

    def run(own: list[Race], rng: random.Random) -> None:
        try:
            while own:
                size = rng.choice([1, 1, 1, 3, 10])
                _run(own[:size])
                own = own[size:]
        except BaseException as exc:
            failures.append(exc)

    with OutcomeWatch(url) as watch:
        workers = [
            threading.Thread(target=run, args=(races[n::threads], random.Random(f"{seed} thread {n}"))) for n in range(threads)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not failures, failures
        unknown = JobHandle(str(uuid.uuid4()), app=app).cancel()
        _wait_for_the_end(races)
        _judge(races, watch)
    faults = [f"{fault}: {_shown(race)}" for race in races for fault in race.faults]
    return faults + ([] if unknown.outcome == "unknown" else [f"an id that was never sent: {unknown}"])


def _drawn(rng: random.Random, spread: float) -> Race:
    countdown = rng.choice([0.0, 0.0, 0.0, rng.uniform(0.05, 0.5)])
    times, ms = rng.choice([0, 1, 1, 1, 1, 1, 1, 2]), rng.randint(0, 30)
    offsets = []
    for _ in range(times):
        # At any time; or about when the handler ends, which is where the two meet.
        offset = rng.choice([rng.uniform(0, spread), ms / 1000 + rng.uniform(0, 0.02)])
        offsets.append(offset + rng.choice([0, countdown, countdown]))
    return Race(rng.choice(stopping_jobs.KINDS), ms, countdown, sorted(offsets))


def _run(burst: list[Race]) -> None:
    """Send some jobs, and cancel each when its time has come."""
    for race in burst:
        race.sent_at = time.time()
        race.handle = stopping_jobs.race.apply_async((race.kind, race.ms), countdown=race.countdown or None)
    due = sorted((race.sent_at + offset, n) for n, race in enumerate(burst) for offset in race.offsets)
    for at, n in due:
        threading.Event().wait(max(at - time.time(), 0.0))  # the race itself: nothing is waited for
        race = burst[n]
        race.receipts.append(race.handle.cancel(reason="raced"))
        race.answered_at.append(time.time())


def _wait_for_the_end(races: list[Race]) -> None:
    waiting = list(races)

    def over() -> bool:
        waiting[:] = [race for race in waiting if not _is_over(race)]
        return not waiting

    try:
        while waiting:  # as long as some end: on a loaded machine all of them take their time
            left = len(waiting)
            wait_until(lambda left=left: over() or len(waiting) < left, "the end of one more", timeout=60, interval=0.1)  # type: ignore[misc]
    except AssertionError:
        for race in waiting:
            race.faults.append("never ended")
    # What is late may come now: messages of jobs that were cancelled before they began.
    probe = stopping_jobs.race.apply_async(("silent", 0), countdown=1.0)
    wait_until(lambda: probe.state == states.SUCCESS, "the end of a job behind them all", timeout=60)


def _is_over(race: Race) -> bool:
    try:
        record = race.handle.record().state
    except JobNotFoundError:
        return False
    return record in states.READY_STATES and (race.handle.state in states.READY_STATES or _was_overwritten(race, record))


def _was_overwritten(race: Race, record: str) -> bool:
    """Whether Celery's tracer wrote RETRY over the next attempt's SUCCESS: it looks first and writes then, with no delay between.

    That is so without this library, too, and of no concern here, unless the job was cancelled.
    """
    return (record, race.handle.state) == ("SUCCESS", states.RETRY) and race.kind.endswith("retrying")


def _judge(races: list[Race], watch: OutcomeWatch) -> None:
    for race in races:
        record, backend = race.handle.record().state, race.handle.state
        told, seen = stopping_jobs.story(race.handle.id), set(watch.stored[race.handle.id])
        outcomes = [receipt.outcome for receipt in race.receipts]
        stops = [outcome in {"cancelled", "requested"} for outcome in outcomes]
        checks = {
            "the record and the result backend disagree": record == backend or _was_overwritten(race, record),
            "more than one outcome": seen == {record},
            "acknowledged, and not REVOKED": not any(stops) or record == "REVOKED",
            "too late, and REVOKED": any(stops) or record != "REVOKED",
            "unknown, and it was sent": "unknown" not in outcomes,
            "cleaned up more than once": told.count("cleaned") <= (1 if record == "REVOKED" else 0),
            "began long after it was cancelled": not any(stops) or not _began_after(race, stops),
            "ran, though it was cancelled before its time": not _cancelled_before(race, stops) or not told,
            "no reason": record != "REVOKED" or _reason(race) == "raced",
        }
        race.faults += [fault for fault, fine in checks.items() if not fine]


def _began_after(race: Race, stops: list[bool]) -> bool:
    answered = min(at for at, stop in zip(race.answered_at, stops, strict=True) if stop)
    return any(at > answered + MOMENT for at in stopping_jobs.told_at(race.handle.id, "started"))


def _cancelled_before(race: Race, stops: list[bool]) -> bool:
    return any(stop and at < race.sent_at + race.countdown - MARGIN for at, stop in zip(race.answered_at, stops, strict=True))


def _reason(race: Race) -> str | None:
    try:
        race.handle.get(timeout=5)
    except JobCancelledError as exc:
        return exc.reason
    return None


def _shown(race: Race) -> str:
    record = race.handle.record()
    lines = stopping_jobs.story(race.handle.id)
    return (
        f"{race.handle.id} {race.kind} {race.ms} ms, countdown {race.countdown:.3f}, cancels "
        f"{[(round(offset, 3), receipt.outcome) for offset, receipt in zip(race.offsets, race.receipts, strict=False)]}, "
        f"record {record.state} attempt {record.attempt} delivery {record.delivery}, backend {race.handle.state}, told {lines}"
    )
