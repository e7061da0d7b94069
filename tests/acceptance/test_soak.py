"""Half an hour of steady work, or as long as ``TASKORA_TEST_SOAK`` says (seconds); run by ``tox run -e soak``."""

from __future__ import annotations

import os
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import soak_jobs
from tests.support.apps import pointed_at
from tests.support.key_leaks import assert_keys_expire
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    import redis

    from tests.support.worker import Worker
    from tests.support.worker_fixtures import StartWorker

SECONDS = float(os.environ.get("TASKORA_TEST_SOAK", "1800"))
SAMPLES = 36
POOLS = {"prefork": 2, "threads": 4, "gevent": 20}
#: Jobs of a queue that wait at most: the workers have always something to do.
WAITING = 40
#: Keys that stay while workers run: queues and bindings, the lists and counts of jobs, what workers answer.
STANDING = 60
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True)
class Sample:
    """What all processes of a worker have, together."""

    resident: float
    threads: int
    files: int

    @classmethod
    def of(cls, worker: Worker) -> Sample:
        """Look at each of its processes."""
        homes = [Path(f"/proc/{pid}") for pid in worker.members()]
        return cls(
            sum(int((home / "statm").read_text().split()[1]) * PAGE_MB for home in homes),
            sum(len(list((home / "task").iterdir())) for home in homes),
            sum(len(list((home / "fd").iterdir())) for home in homes),
        )


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 300)
def test_half_an_hour_of_work_leaves_nothing_behind(
    start_worker: StartWorker, redis_url: str, redis_client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    """L3, A4: memory and threads of a worker in the last third are those of the third before; keys go with their jobs.

    How many keys there are in between follows the speed of the machine, so they are counted when the last job has ended. How many
    files are open follows the jobs of the moment, so they are counted behind each third, when nothing runs: then they are what
    pools of connections keep, which open one where all are in use, and close some again. A worker with 20 greenlets was seen to
    rest with 43 to 110, in no order (82, 85, 108; 84, 47, 43; 66, 110, 104), so each place has room for two more: less than if
    one job of five hundred left a file open.
    """
    rng = random.Random(7)
    app = "tests.support.soak_jobs:app"
    workers = {pool: start_worker(app, pool, places, queues=pool) for pool, places in POOLS.items()}
    thirds: list[dict[str, list[Sample]]] = []
    at_rest: list[dict[str, Sample]] = []
    jobs = 0
    with pointed_at(soak_jobs.app, redis_url):
        for _ in range(3):
            sent, found = _work(workers, redis_client, rng)
            jobs += sent
            thirds.append(found)
            wait_until(lambda: _is_at_rest(redis_client), "the end of all jobs", timeout=60, interval=0.2)
            at_rest.append({pool: Sample.of(worker) for pool, worker in workers.items()})
    wait_until(lambda: redis_client.dbsize() <= STANDING, "the keys of all jobs to go", timeout=4 * soak_jobs.KEPT, interval=0.5)
    files = {pool: [sample[pool].files for sample in at_rest] for pool in POOLS}
    with capsys.disabled():
        told = [f"\n{jobs} jobs in {SECONDS:.0f} s; keys behind the last job {redis_client.dbsize()}"]
        for pool in POOLS:
            most = [_most(third[pool]) for third in thirds[1:]]
            told.append(f"{pool}: second third at most {most[0]}, last {most[1]}; files at rest {files[pool]}")
        sys.stdout.write("\n".join(told) + "\n")
    for pool, places in POOLS.items():
        for what, room in (("resident", 4.0), ("threads", 0)):
            first, last = ([getattr(sample, what) for sample in third[pool]] for third in thirds[1:])
            assert max(last) <= max(first) + room, f"{what} of {pool} grow: {first} … {last}"
        assert files[pool][-1] <= max(files[pool][:-1]) + 2 * places, f"files of {pool} grow: {files[pool]}"
    assert_keys_expire(redis_client)


def _work(workers: dict[str, Worker], client: redis.Redis, rng: random.Random) -> tuple[int, dict[str, list[Sample]]]:
    """Keep the workers busy for a third of the time; return how many jobs were sent, and what was seen of each worker."""
    seen: dict[str, list[Sample]] = {pool: [] for pool in workers}
    jobs, started = 0, time.monotonic()
    while (elapsed := time.monotonic() - started) < SECONDS / 3:
        for pool in workers:
            if client.llen(pool) < WAITING:
                jobs += _send(pool, rng)
        time.sleep(0.2)
        if elapsed >= len(seen["prefork"]) * SECONDS / SAMPLES:
            for pool, worker in workers.items():
                seen[pool].append(Sample.of(worker))
    return jobs, seen


def _is_at_rest(client: redis.Redis) -> bool:
    """Say whether no job waits, and none runs; what was acknowledged before it ran ends in no time."""
    if client.hlen("unacked") or any(client.llen(pool) for pool in POOLS):
        return False
    return not any((soak_jobs.app.control.inspect(timeout=2).active() or {"": [None]}).values())


def _most(samples: list[Sample]) -> str:
    """Say the greatest that was seen of each."""
    return f"{max(one.resident for one in samples):.1f} MB, {max(one.threads for one in samples)} threads"


def _send(pool: str, rng: random.Random) -> int:
    """Send some jobs of all kinds to a queue, and cancel those that are for it."""
    kinds = [rng.choice(soak_jobs.KINDS) for _ in range(10)]
    for kind in kinds:
        task: Any = {"awaited": soak_jobs.awaited, "early": soak_jobs.early}.get(kind, soak_jobs.churn)
        handle = task.apply_async((kind,), queue=pool)
        if kind == "cancelled":
            handle.cancel("not needed")
    return len(kinds)
