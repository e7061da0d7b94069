"""Heartbeats and redelivery, with a visibility timeout of two seconds.

kombu's sweep runs in workers only, and under gevent and eventlet not even there while they are idle. So the tests sweep
themselves, by kombu's own code: a message that nobody renewed goes back into its queue at once, in every pool.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.support import gates, jobs
from tests.support.recorded import recorded
from tests.support.sweeping import sweeping
from tests.support.tuned_worker import VISIBILITY_TIMEOUT, TunedWorker
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

INTERVAL = VISIBILITY_TIMEOUT / 3  # seconds: the lease interval that follows from the timeout


@pytest.fixture
def broker(tuned_worker: TunedWorker) -> Iterator[redis.Redis]:
    """A client of the broker's database; the broker is empty after the test."""
    with gates.gate_client() as client:
        assert client.zcard("unacked_index") == 0, "an earlier test left a message"
        yield client
        wait_until(lambda: not _messages(client), "the end of all messages", timeout=20)


def _messages(client: redis.Redis) -> int:
    return cast("int", client.zcard("unacked_index")) + cast("int", client.hlen("unacked")) + cast("int", client.llen("celery"))


def _scores(client: redis.Redis) -> list[tuple[str, float]]:
    return cast("list[tuple[str, float]]", client.zrange("unacked_index", 0, -1, withscores=True))


@pytest.mark.parametrize("beats", [True, False])
def test_a_job_runs_once_however_long_it_takes(broker: redis.Redis, beats: bool) -> None:
    """D1, D2, D3: over three visibility timeouts; beaten without a pause, or silent, its score is renewed in each lease interval.

    Twice: by the process that runs it, and by the keeper of its worker.
    """
    with sweeping(jobs.app, VISIBILITY_TIMEOUT):
        handle = jobs.beat_until_open.delay(beats)
        scores: set[float] = set()
        wait_until(lambda: gates.counted(handle.id, "starts"), "the job's start")
        started = time.monotonic()

        def sampled() -> bool:
            held = _scores(broker)
            assert len(held) == 1, "the message was put back"
            scores.add(held[0][1])
            return time.monotonic() - started > 3.2 * VISIBILITY_TIMEOUT

        wait_until(sampled, "three visibility timeouts", interval=0.01)
        gates.open_gate(handle.id)
        assert handle.get(timeout=20) == 1
        elapsed = time.monotonic() - started
    assert len(scores) >= 4, "renewed again and again"
    assert len(scores) <= 2 * elapsed / INTERVAL + 4
    assert jobs.add.delay(1, 1).get(timeout=20) == 2  # whatever was in the queue before has run by now
    assert gates.counted(handle.id, "starts") == 1
    assert handle.record().delivery == 1


def test_a_heartbeat_of_a_job_that_was_acknowledged_early_is_no_error(broker: redis.Redis, tuned_worker: TunedWorker) -> None:
    """D8, D2: it is a sign of life, said once at DEBUG; no orphan appears in kombu's index.

    In a solo worker nothing is acknowledged while a job runs, so there the lease is there, and kept.
    """
    written = tuned_worker.log_size()
    handle = jobs.beat_without_lease.delay()
    if tuned_worker.pool != "solo":  # worker loops of greenlets come to it within two seconds, before Celery 5.7
        wait_until(lambda: _alive(handle) and not broker.zcard("unacked_index"), "the early acknowledgement", timeout=20)
    first = wait_until(lambda: _alive(handle), "the first sign of life", timeout=20)
    second = wait_until(lambda: _alive(handle) > first and _alive(handle), "the next sign of life", timeout=20)
    wait_until(lambda: _alive(handle) > second, "the sign of life after it", timeout=20)
    held = broker.zcard("unacked_index")
    gates.open_gate(handle.id)
    handle.get(timeout=20)
    wait_until(lambda: not _messages(broker), "the acknowledgement", timeout=5)
    told = tuned_worker.logs()[written:].count(f"job {handle.id}: its message was acknowledged early")
    assert (held, told) == ((1, 0) if tuned_worker.pool == "solo" else (0, 1))


def _alive(handle: Any) -> int:
    status = handle.record() if handle._reader._store.read(handle.id) else None
    return 0 if status is None else int(status.alive_ms)


def test_a_job_of_a_killed_worker_is_delivered_again(broker: redis.Redis, tuned_worker: TunedWorker) -> None:
    """B2, B3, B4, B6, E4, E8: the second delivery knows of the first, finds its checkpoint, and its reports were kept."""
    handle = jobs.save_and_stop.delay()
    gates.wait_at(handle.id)
    wait_until(lambda: handle.get_progress() == 10 and _checkpoint(broker, handle.id), "the report of the first delivery")
    tuned_worker.kill()
    with tuned_worker.twin(f"second-{tuned_worker.pool}@test") as second, sweeping(jobs.app, VISIBILITY_TIMEOUT):
        second.wait_ready()
        gates.wait_at(handle.id)
        wait_until(lambda: handle.get_progress() == 20, "the report of the second delivery")
        status = handle.record()
        gates.open_gate(handle.id)
        found = handle.get(timeout=20)
        # Nothing was said at the end, so the end itself goes out with the next flush.
        recorded(handle)
        wait_until(lambda: not _messages(broker), "the acknowledgement")
    assert (found["attempt"], found["delivery"]) == (1, 2)
    assert found["checkpoint"] == {"row": 100}
    (lost,) = found["history"]
    assert (lost["number"], lost["delivery"], lost["worker"]) == (1, 1, tuned_worker.hostname)
    # Whoever was first to see it: the second worker's keeper, or its next delivery behind the test's own sweep.
    assert lost["outcome"] == "LOST"
    assert lost["reason"] in {"its worker was not heard of in time", f"no outcome from {tuned_worker.hostname}"}
    assert lost["duration"] > 0
    assert (status.worker, status.delivery, status.created_ms) == (second.hostname, 2, found["timestamp"])
    assert [entry.meta for entry in handle.get_logs()] == [{"delivery": 1}, {"delivery": 2}]
    assert [(record.delivery, record.outcome) for record in handle.history()] == [(1, "LOST"), (2, "SUCCESS")]
    assert _checkpoint(broker, handle.id) is None, "cleared by the success"


def _checkpoint(client: redis.Redis, job_id: str) -> bytes | None:
    return cast("bytes | None", client.hget(f"taskora:{{{job_id}}}:job", "k"))
