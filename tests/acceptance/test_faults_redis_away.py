"""Redis goes away and comes back, with and without what it held, while jobs run."""

from __future__ import annotations

import shutil
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from taskora_celery import StoreUnavailableError
from tests.support import gates, jobs, outage_jobs
from tests.support.apps import pointed_at
from tests.support.key_leaks import assert_keys_expire
from tests.support.pools import pools
from tests.support.recorded import recorded
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.worker import Worker
    from tests.support.worker_fixtures import StartWorker

#: Log entries that a job may have waiting: more than it says in an outage at its ease, fewer than its burst.
BUFFER = 600
BURST = 2 * BUFFER
#: Seconds between two words of the job.
PAUSE = 0.01
#: Seconds for which a message that nobody renews stays invisible: what kombu cannot put back at a lost connection is swept.
VISIBILITY_TIMEOUT = 3.0
#: Seconds that a loaded machine may need until all is as before: the pauses of the library (at most 15 s) and of kombu.
BACK = 40.0
#: Seconds of the longer outage, in which the pauses between two tries have grown; and until a job in it has its outcome.
OUTAGE, PROMPTLY = 10.0, 5.0
APP = "tests.support.outage_jobs:app"


@pytest.fixture(
    params=[
        pytest.param(("prefork", "same"), id="prefork-broker-too"),
        pytest.param(("threads", "other"), id="threads-store-alone"),
        pytest.param(("gevent", "other"), id="gevent-store-alone", marks=pytest.mark.repeated_pool),
        pytest.param(("prefork", "other"), id="prefork-store-alone", marks=pytest.mark.repeated_pool),
        pytest.param(("threads", "same"), id="threads-broker-too", marks=pytest.mark.repeated_pool),
        pytest.param(("solo", "other"), id="solo-store-alone", marks=pytest.mark.repeated_pool),
        pytest.param(("eventlet", "other"), id="eventlet-store-alone", marks=pytest.mark.repeated_pool),
    ]
)
def pool_and_place(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A pool, and whether the broker is in the Redis that dies (``"same"``), or lives on in another (``"other"``).

    Greenlets stand still while Celery looks for its broker, with this library or without: they have the store alone.
    """
    pool, place = request.param
    return pool, place


@pytest.fixture
def lasting(_redis_binary: str) -> Iterator[RedisServer]:
    """A Redis that keeps what it has acknowledged, until `_lose` makes it another."""
    with RedisServer("appendonly yes", binary=_redis_binary) as server:
        yield server


def _lose(server: RedisServer) -> None:
    """While it is down: throw away what it held, and let it keep nothing from now on."""
    server.config = ()
    shutil.rmtree(server.directory / "appendonlydir", ignore_errors=True)
    (server.directory / "appendonly.aof").unlink(missing_ok=True)


def _numbers(handle: Any) -> list[int]:
    """The numbers of the entries that can be read just now."""
    try:
        return [entry.meta["n"] for entry in handle.get_logs()]
    except StoreUnavailableError:
        return []


def _supervise(worker: Worker) -> None:
    """Start the worker again where Celery has given it up: kombu may fail over the lost connection of its broker.

    A worker of plain Celery ends in the same way. Its jobs were finished, and what it held comes back.
    """
    if "Unrecoverable error" in worker.logs():
        worker.kill()
        worker.log_path.unlink()
        worker.restart()


def _hears_more(handle: Any) -> list[int]:
    """Wait until what the job says from now on can be read, and return all that can."""
    from_now = outage_jobs.said(handle.id)

    def heard() -> list[int]:
        found = _numbers(handle)
        return found if found and found[-1] > from_now else []

    return wait_until(heard, "new reports", BACK)


@pytest.mark.timeout(240)
def test_jobs_go_on_and_reports_resume_when_redis_was_away(
    pool_and_place: tuple[str, str], start_worker: StartWorker, redis_url: str, lasting: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Fault 13, L1: killed in mid-job: back with its data nothing is lost; back without, the loss is counted; no job fails."""
    pool, place = pool_and_place
    broker = lasting.url() if place == "same" else redis_url
    settings: dict[str, Any] = {
        "taskora_redis_url": lasting.url(),
        "taskora_buffer_limit": BUFFER,
        "broker_transport_options": {"visibility_timeout": VISIBILITY_TIMEOUT},
    }
    monkeypatch.setenv("GATE_URL", redis_url)
    environment = {"BROKER_URL": broker, "RESULT_BACKEND": broker, "GATE_URL": redis_url, **jobs.configured(**settings)}
    worker = start_worker(APP, pool=pool, concurrency=1, env=environment)
    with pointed_at(jobs.app, broker, **settings):
        running = outage_jobs.talk.delay(0, PAUSE)
        gates.wait_at(running.id)
        waiting = [outage_jobs.count.delay() for _ in range(3)]
        _kill_while_it_talks(lasting, running)
        lasting.start()
        _hears_more(running)
        gates.open_gate(running.id)
        said = running.get(timeout=BACK)["count"]
        _supervise(worker)
        assert _numbers(running) == list(range(said)), "nothing is missing, and nothing is there twice"
        status = recorded(running)
        assert (status.logs, status.dropped_logs, running.get_progress()) == (said, 0, said - 1)
        assert [handle.get(timeout=BACK) for handle in waiting] == [1, 1, 1], "what waited runs once"

        losing = outage_jobs.talk.delay(BURST, PAUSE)
        gates.wait_at(losing.id)
        _kill_while_it_talks(lasting, losing)
        gates.open_gate(losing.id, "burst")
        wait_until(lambda: outage_jobs.said(losing.id) > BURST, "more than the buffer holds")
        _lose(lasting)
        lasting.start()
        _hears_more(losing)
        gates.open_gate(losing.id)
        said = losing.get(timeout=BACK)["count"]
        _supervise(worker)
        kept = _numbers(losing)
        assert kept == list(range(said - len(kept), said)), "the newest, without a gap"
        assert len(kept) < said
        status = recorded(losing)
        assert (status.logs, status.dropped_logs, losing.get_progress()) == (said, said - len(kept), said - 1)

        after = outage_jobs.count.delay()
        assert after.get(timeout=BACK) == 1
        assert [gates.counted(handle.id, "starts") for handle in (running, losing)] == [1, 1]
        assert [record.outcome for record in running.history()] == [], "the store lost it with all the rest"
        assert [record.outcome for record in losing.history()] == ["SUCCESS"]
        assert worker.running
        with lasting.client() as client:
            assert_keys_expire(client)


def _kill_while_it_talks(server: RedisServer, handle: Any) -> None:
    """Kill Redis where the job has been heard, and come back when it has said more, which nobody hears."""
    _hears_more(handle)
    server.kill()
    heard = outage_jobs.said(handle.id)
    wait_until(lambda: outage_jobs.said(handle.id) > heard + 50, "more words, in the outage")


@pools("gevent")
def test_ten_seconds_without_redis_lose_nothing_that_finds_room(
    pool: str, start_worker: StartWorker, redis_url: str, lasting: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 13, L1: killed for 10 s: jobs begin and end meanwhile, none waits for it or fails; then all of them are recorded."""
    monkeypatch.setenv("GATE_URL", redis_url)
    settings: dict[str, Any] = {"taskora_redis_url": lasting.url()}
    slots = 1 if pool == "solo" else 2
    worker = start_worker(APP, pool=pool, concurrency=slots, env={"GATE_URL": redis_url, **jobs.configured(**settings)})
    with pointed_at(jobs.app, redis_url, **settings):
        running = outage_jobs.talk.delay(0, 0.05)
        gates.wait_at(running.id)
        _hears_more(running)
        lasting.kill()
        back_at, short = time.monotonic() + OUTAGE, []
        while time.monotonic() < back_at:
            if slots > 1:  # one after the other, all through the outage
                asked = time.monotonic()
                short.append(outage_jobs.count.delay())
                assert short[-1].get(timeout=OUTAGE) == 1
                assert time.monotonic() - asked < PROMPTLY
            threading.Event().wait(0.5)  # the outage itself: nothing is waited for
        lasting.start()
        _hears_more(running)
        gates.open_gate(running.id)
        said = running.get(timeout=BACK)["count"]
        for handle, count in ((running, said), *((handle, 1) for handle in short)):
            status = recorded(handle, timeout=BACK)
            assert _numbers(handle) == list(range(count))
            assert (status.logs, status.dropped_logs, status.delivery) == (count, 0, 1)
            assert gates.counted(handle.id, "starts") == 1
        assert worker.logs().count("job records cannot be written") <= slots, "once for each process"
        with lasting.client() as client:
            assert_keys_expire(client)
