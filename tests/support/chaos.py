"""Two hundred jobs at once, and cancels, kills and blips of Redis among them: seeded, so that what was seen can be seen again."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from celery import states

from taskora_celery import JobNotFoundError, StoreUnavailableError
from tests.support import chaos_jobs
from tests.support.outcome_watch import OutcomeWatch
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.redis_server import RedisServer
    from tests.support.tcp_proxy import TcpProxy

#: Jobs that are sent at once.
WAVE = 200
#: Seconds between two waves; a job runs for at most so long.
PERIOD = 8.0
_LONGEST = 3.0
#: Seconds within a period after which no worker is killed.
_KILL = 1.2
#: Seconds that a blip of Redis lasts at most.
_BLIP = 0.8
#: Seconds within which all is over behind the last action: pauses of at most 15 s, leases of 2 s, and a loaded machine.
_BACK = 90.0


@dataclass
class Life:
    """One job, when it is to be cancelled, in seconds behind its sending (None: not at all), and what that came to."""

    kind: str
    seconds: float
    cancel_at: float | None
    handle: Any = None
    receipt: str | None = None
    faults: list[str] = field(default_factory=list)


class Chaos:
    """What is done to one store and one worker while jobs run; the broker and another worker live on."""

    def __init__(self, seed: int, store: RedisServer, proxy: TcpProxy, kill: Callable[[], None]) -> None:
        """``kill`` ends a worker by SIGKILL and starts another in its place."""
        self._seed = seed
        self._store = store
        self._proxy = proxy
        self._kill = kill
        self._failures: list[BaseException] = []

    def run(self, url: str, seconds: float) -> list[str]:
        """Let it go on for so long; return what was wrong, each with its job. Empty when all is well."""
        waves = [self._wave(n) for n in range(max(int(seconds / PERIOD), 1))]
        plan = self._plan(PERIOD * len(waves))
        with OutcomeWatch(url) as watch:
            sending = threading.Thread(target=self._send, args=(waves,), name="sending")
            sending.start()
            self._act(plan)  # here: what a thread has started ends with it
            sending.join()
            assert not self._failures, self._failures
            lives = [life for wave in waves for life in wave]
            _wait_for_the_end(lives)
            for life in lives:
                life.faults += _faults(life, set(watch.stored[life.handle.id]))
        return [f"{fault}: {_shown(life)}" for life in lives for fault in life.faults]

    def _send(self, waves: list[list[Life]]) -> None:
        try:
            for number, wave in enumerate(waves):
                began = time.monotonic()
                self._send_and_cancel(wave)
                if number < len(waves) - 1:
                    threading.Event().wait(max(began + PERIOD - time.monotonic(), 0.0))  # the next wave's time
        except BaseException as exc:
            self._failures.append(exc)

    def _wave(self, number: int) -> list[Life]:
        rng = random.Random(f"{self._seed} wave {number}")
        return [
            Life(
                rng.choice(list(chaos_jobs.KINDS)),
                rng.uniform(0, _LONGEST),
                rng.uniform(0, _LONGEST) if rng.random() < 0.25 else None,
            )
            for _ in range(WAVE)
        ]

    def _plan(self, seconds: float) -> list[tuple[float, str, float]]:
        """When what is done, in seconds from the start, and for how long.

        In each period one kill, then blips: what a worker has to tell of jobs that ended in an outage dies with it.
        """
        rng = random.Random(f"{self._seed} plan")
        plan: list[tuple[float, str, float]] = []
        for start in (n * PERIOD for n in range(int(seconds / PERIOD))):
            plan.append((start + rng.uniform(0.3, _KILL), "kill", 0.0))
            at = start + _KILL
            for _ in range(3):
                at += rng.uniform(0.2, 1.0)
                plan.append((at, rng.choice(["restart", "refuse", "hold"]), rng.uniform(0.05, _BLIP)))
                at += plan[-1][2]
        return plan

    def _act(self, plan: list[tuple[float, str, float]]) -> None:
        began = time.monotonic()
        for at, what, seconds in plan:
            threading.Event().wait(max(began + at - time.monotonic(), 0.0))
            if what == "kill":
                self._kill()
            elif what == "restart":
                self._store.kill()
                threading.Event().wait(seconds)
                self._store.start()
            else:
                (self._proxy.refuse if what == "refuse" else self._proxy.hold)()
                threading.Event().wait(seconds)
                self._proxy.heal()

    def _send_and_cancel(self, wave: list[Life]) -> None:
        began = time.monotonic()
        for life in wave:
            life.handle = chaos_jobs.work.delay(life.kind, life.seconds)
        for life in sorted((life for life in wave if life.cancel_at is not None), key=lambda life: life.cancel_at or 0.0):
            threading.Event().wait(max(began + (life.cancel_at or 0.0) - time.monotonic(), 0.0))
            try:
                life.receipt = life.handle.cancel("chaos").outcome
            except StoreUnavailableError:
                life.receipt = "unknown"  # it may have been written before the answer was lost


def _wait_for_the_end(lives: list[Life]) -> None:
    waiting = list(lives)

    def over() -> bool:
        waiting[:] = [life for life in waiting if not _is_over(life)]
        return not waiting

    try:
        wait_until(over, "the end of all jobs", timeout=_BACK, interval=0.2)
    except AssertionError:
        for life in waiting:
            life.faults.append("never ended")


def _is_over(life: Life) -> bool:
    try:
        record = life.handle.record()
    except (JobNotFoundError, StoreUnavailableError):
        return False
    return record.state in states.READY_STATES and life.handle.state in states.READY_STATES


def _faults(life: Life, stored: set[str]) -> list[str]:
    if life.faults:
        return []
    record, own = life.handle.record(), chaos_jobs.KINDS[life.kind]
    entries = [(entry.meta["run"], entry.meta["n"]) for entry in life.handle.get_logs()]
    # Where Redis was away when the job ended, Celery has stored its outcome, and a cancel that comes before the store hears of it
    # is acknowledged in vain. That it counts wherever the store can be asked is shown by the races without outages.
    cancelled = life.receipt in {"requested", "cancelled", "unknown"}
    allowed = {"REVOKED", own} if cancelled else {own}
    checks = {
        "the record and the result backend disagree": record.state == life.handle.state,
        "more than one outcome": stored <= {record.state, "REVOKED"} if life.receipt == "cancelled" else stored == {record.state},
        f"not one of {sorted(allowed)}": record.state in allowed,
        "an entry is there twice": len(set(entries)) == len(entries),
        "the record counts another number of entries": record.logs == len(entries) + record.dropped_logs,
        "the entries of one run are out of order": all(
            numbers == sorted(numbers) for numbers in ([n for r, n in entries if r == run] for run in {run for run, _ in entries})
        ),
    }
    return [fault for fault, fine in checks.items() if not fine]


def _shown(life: Life) -> str:
    try:
        record = life.handle.record()
    except (JobNotFoundError, StoreUnavailableError) as exc:
        return f"{life}: {exc!r}, backend {life.handle.state}"
    return (
        f"{life.handle.id} {life.kind} {life.seconds:.2f} s, cancel {life.cancel_at} -> {life.receipt}, record {record.state} "
        f"attempt {record.attempt} delivery {record.delivery} logs {record.logs} dropped {record.dropped_logs}, "
        f"backend {life.handle.state}"
    )
