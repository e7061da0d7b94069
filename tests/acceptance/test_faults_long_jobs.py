"""Jobs that take, or wait, many times as long as the broker keeps a message invisible: each runs once, with no code for it."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
from celery import group

from tests.support import fault_jobs, plain_jobs
from tests.support.apps import pointed_at
from tests.support.fault_jobs import starts
from tests.support.recorded import recorded
from tests.support.relay import VISIBILITY_TIMEOUT, held
from tests.support.sweeping import sweeping
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.relay import Relay

#: Seconds: how long jobs run, or wait, here.
LONG = 5 * VISIBILITY_TIMEOUT
#: Seconds that a job may be late on a loaded machine, and behind others.
LATE = 2 * VISIBILITY_TIMEOUT
PREFETCHED = 50


class LongRun:
    """What one worker was given at one time, and all of it has ended."""

    def __init__(self, relay: Relay) -> None:
        self.pool = relay.pool
        relay.worker()
        with relay.client() as client, sweeping(fault_jobs.app, VISIBILITY_TIMEOUT):
            self.due_at = time.time() + LONG
            eta = datetime.fromtimestamp(self.due_at, timezone.utc)
            self.waiting: dict[str, Any] = {
                "countdown": fault_jobs.mark.apply_async(countdown=LONG),
                "eta": fault_jobs.mark_early.apply_async(eta=eta),
                "watched": fault_jobs.mark_watched.apply_async(countdown=LONG),
                "retry": fault_jobs.retry_late.delay(LONG),
            }
            wait_until(lambda: self._retrying() and held(client) == len(self.waiting), "all that wait for their time")
            self.running = self._send_long(relay)
            wait_until(lambda: all(starts(handle.id) for handle in self.running.values()), "the long jobs' start")
            small = [fault_jobs.mark, fault_jobs.mark_early, fault_jobs.mark_watched]
            self.prefetched = list(group(small[n % 3].s() for n in range(PREFETCHED)).apply_async().results)
            if relay.pool in {"prefork", "threads"}:  # the others receive nothing more while all their slots are taken
                expected = len(self.waiting) + len(self.running) + PREFETCHED
                wait_until(lambda: held(client) == expected, "the messages behind the long jobs")
            for handle in [*self.running.values(), *self.prefetched, *self.waiting.values()]:
                handle.get(timeout=4 * LONG)
            # A copy that was put back would be in the queue, or in somebody's hands.
            wait_until(lambda: not held(client) and not client.llen("celery"), "the end of all messages", timeout=LONG)

    def _retrying(self) -> bool:
        return bool(self.waiting["retry"].state == "RETRY")

    def _send_long(self, relay: Relay) -> dict[str, Any]:
        if relay.pool == "solo":
            return {"silent": fault_jobs.sleep.delay(LONG - 1)}  # less: what waits is to be on time
        sent = {"silent": fault_jobs.sleep.delay(LONG), "watched": fault_jobs.beat.delay(LONG)}
        if relay.pool == "prefork":
            sent["in C"] = fault_jobs.sleep_in_c.delay(int(2.5 * VISIBILITY_TIMEOUT))
            sent["in C, watched"] = fault_jobs.sleep_in_c_watched.delay(int(2.5 * VISIBILITY_TIMEOUT))
        return sent | {f"more {n}": fault_jobs.sleep.delay(LONG) for n in range(relay.slots - len(sent))}


@pytest.fixture(scope="module")
def _long_runs() -> dict[str, LongRun]:
    return {}


@pytest.fixture
def long_run(swept: Relay, _long_runs: dict[str, LongRun]) -> LongRun:
    """One run for all tests of a pool."""
    if swept.pool not in _long_runs:
        _long_runs[swept.pool] = LongRun(swept)
    return _long_runs[swept.pool]


def test_a_job_of_five_visibility_timeouts_runs_once(long_run: LongRun) -> None:
    """Fault 1, D3: without a heartbeat and without any call of the context; also where a sign of life is wanted, and given."""
    assert {name: len(starts(handle.id)) for name, handle in long_run.running.items()} == dict.fromkeys(long_run.running, 1)
    assert {handle.record().delivery for handle in long_run.running.values()} == {1}
    assert all(handle.record().stalls == 0 for handle in long_run.running.values())


def test_fifty_jobs_prefetched_behind_long_ones_run_once_each(long_run: LongRun) -> None:
    """Fault 2, D3: what a worker has received and not begun is kept like what it runs."""
    assert [len(starts(handle.id)) for handle in long_run.prefetched] == [1] * PREFETCHED
    assert {recorded(handle).delivery for handle in long_run.prefetched} == {1}, "none was put back, and found out only then"


@pytest.mark.parametrize("name", ["countdown", "eta", "watched", "retry"])
def test_a_job_that_waits_for_five_visibility_timeouts_runs_once_and_on_time(long_run: LongRun, name: str) -> None:
    """Fault 3, D3, I5: a countdown, an ETA, and the delay of a retry."""
    found = starts(long_run.waiting[name].id)
    attempts = [1, 2] if name == "retry" else [1]
    assert [start["attempt"] for start in found] == attempts
    assert recorded(long_run.waiting[name]).delivery == 1
    late = found[-1]["at"] - (found[0]["at"] + LONG if name == "retry" else long_run.due_at)
    assert -0.1 < late < LATE


# --- controls ----------------------------------------------------------------------------------------------------------

in_two_pools = pytest.mark.parametrize("pool", ["prefork", "threads"], indirect=True, scope="session")


@pytest.fixture
def plain_runs(plain_swept: Relay) -> Iterator[Callable[[Any], int]]:
    """Counts the starts of a job on a worker without the library, when all copies of its message have run."""
    plain_swept.worker()

    def counted(handle: Any) -> int:
        handle.get(timeout=60)
        with plain_swept.client() as client:
            wait_until(lambda: not held(client) and not client.llen("celery"), "the end of all copies", timeout=60)
        found = starts(handle.id)
        assert not any(start["library"] for start in found)
        return len(found)

    with pointed_at(plain_jobs.app, plain_swept.redis_url, **plain_swept.settings):
        yield counted


@in_two_pools
def test_without_the_library_the_same_jobs_run_twice(plain_swept: Relay, plain_runs: Callable[[Any], int]) -> None:
    """Fault 1, 2, 3: the controls, all at one time: a long job, one behind it, and those that wait."""
    later = plain_jobs.mark.apply_async(countdown=LONG / 2)
    retried = plain_jobs.retry_late.delay(LONG / 2)
    running = [plain_jobs.sleep.delay(LONG / 2) for _ in range(plain_swept.slots)]
    wait_until(lambda: all(starts(handle.id) for handle in running), "the long jobs' start")
    behind = plain_jobs.mark.delay()
    assert plain_runs(running[0]) >= 2, "fault 1"
    assert plain_runs(behind) >= 2, "fault 2"
    assert plain_runs(later) >= 2, "fault 3: a countdown"
    assert plain_runs(retried) >= 3, "fault 3: a retry"
