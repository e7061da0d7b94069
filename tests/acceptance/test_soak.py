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
    """L3, A4: memory, threads and sockets of a worker in the last third are those of the third before; keys go with their jobs.

    How many keys there are in between follows the speed of the machine, so they are counted when the last job has ended.
    """
    rng = random.Random(7)
    app = "tests.support.soak_jobs:app"
    workers = {pool: start_worker(app, pool, places, queues=pool) for pool, places in POOLS.items()}
    samples: dict[str, list[Sample]] = {pool: [] for pool in POOLS}
    keys: list[int] = []
    jobs = 0
    with pointed_at(soak_jobs.app, redis_url):
        started = time.monotonic()
        while (elapsed := time.monotonic() - started) < SECONDS:
            for pool in POOLS:
                if redis_client.llen(pool) < WAITING:
                    jobs += _send(pool, rng)
            time.sleep(0.2)
            if elapsed >= len(keys) * SECONDS / SAMPLES:
                keys.append(int(redis_client.dbsize()))
                for pool, worker in workers.items():
                    samples[pool].append(Sample.of(worker))
    wait_until(lambda: redis_client.dbsize() <= STANDING, "the keys of all jobs to go", timeout=4 * soak_jobs.KEPT, interval=0.5)
    thirds = {pool: (found[SAMPLES // 3 : 2 * SAMPLES // 3], found[2 * SAMPLES // 3 :]) for pool, found in samples.items()}
    with capsys.disabled():
        told = [f"\n{jobs} jobs in {SECONDS:.0f} s; keys at most {max(keys)}, behind the last job {redis_client.dbsize()}"]
        told += [f"{pool}: second third at most {_most(before)}, last {_most(after)}" for pool, (before, after) in thirds.items()]
        sys.stdout.write("\n".join(told) + "\n")
    for pool, (before, after) in thirds.items():
        for what, room in (("resident", 4.0), ("threads", 0), ("files", 2)):
            first, last = ([getattr(sample, what) for sample in part] for part in (before, after))
            assert max(last) <= max(first) + room, f"{what} of {pool} grow: {first} … {last}"
    assert_keys_expire(redis_client)


def _most(samples: list[Sample]) -> str:
    """Say the greatest that was seen of each."""
    most = [max(getattr(sample, what) for sample in samples) for what in ("resident", "threads", "files")]
    return f"{most[0]:.1f} MB, {most[1]} threads, {most[2]} files"


def _send(pool: str, rng: random.Random) -> int:
    """Send some jobs of all kinds to a queue, and cancel those that are for it."""
    kinds = [rng.choice(soak_jobs.KINDS) for _ in range(10)]
    for kind in kinds:
        task: Any = {"awaited": soak_jobs.awaited, "early": soak_jobs.early}.get(kind, soak_jobs.churn)
        handle = task.apply_async((kind,), queue=pool)
        if kind == "cancelled":
            handle.cancel("not needed")
    return len(kinds)
