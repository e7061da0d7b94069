"""A bad network between the workers and the Redis that keeps their records: slow, cut off, silent."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from taskora_celery import JobNotFoundError
from tests.support import gates, jobs, outage_jobs
from tests.support.apps import pointed_at
from tests.support.key_leaks import assert_keys_expire
from tests.support.pools import pools
from tests.support.recorded import recorded
from tests.support.redis_server import RedisServer
from tests.support.tcp_proxy import TO_CLIENT, TO_SERVER, TcpProxy
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.worker_fixtures import StartWorker

APP = "tests.support.outage_jobs:app"
#: Seconds each way: whoever waits for the store waits twice as long.
DELAY = 0.2
#: Seconds: a pair of calls that took so long would have waited, and takes some microseconds as it is.
NO_WAIT = DELAY / 2
#: Seconds: what others of the process have under way, and the own round trip, on a loaded machine.
A_FEW = 10 * DELAY
FINAL_FLUSH = 0.5
#: Seconds from the gate to the result while nothing answers: two final flushes at most, and a loaded machine.
BOUND = 4 * FINAL_FLUSH
BUFFER = 100_000
BACK = 40.0


@pytest.fixture
def store(_redis_binary: str) -> Iterator[RedisServer]:
    """A Redis for job records alone."""
    with RedisServer(binary=_redis_binary) as server:
        yield server


@pytest.fixture
def proxy(store: RedisServer, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[TcpProxy]:
    """The way of the workers to it; the test goes another."""
    monkeypatch.setenv("GATE_URL", redis_url)
    settings = {"taskora_redis_url": store.url()}
    with TcpProxy(store.port) as made, pointed_at(jobs.app, redis_url, **settings):
        yield made
        with store.client() as client:
            assert_keys_expire(client)


def _environment(proxy: TcpProxy, redis_url: str, **settings: Any) -> dict[str, str]:
    return {"GATE_URL": redis_url, **jobs.configured(taskora_redis_url=proxy.url(), taskora_buffer_limit=BUFFER, **settings)}


def _is_whole(handle: Any, said: int) -> None:
    """Nothing of what a job has said is missing, and nothing of it is there twice."""
    wait_until(lambda: len(handle.get_logs()) >= said, "the last entries", BACK)
    status = recorded(handle, timeout=BACK)
    assert [entry.meta["n"] for entry in handle.get_logs()] == list(range(said))
    assert (status.logs, status.dropped_logs, status.delivery) == (said, 0, 1)
    assert [record.outcome for record in handle.history()] == ["SUCCESS"]


@pools("threads")
def test_a_slow_store_slows_no_report(
    pool: str, start_worker: StartWorker, redis_url: str, store: RedisServer, proxy: TcpProxy
) -> None:
    """Fault 14, L1, E1, F1: 200 ms each way: no call waits for it, everything arrives; begin and end take a few round trips."""
    start_worker(APP, pool=pool, concurrency=1, env=_environment(proxy, redis_url))
    recorded(outage_jobs.count.delay())
    proxy.delay = DELAY
    asked = time.monotonic()
    handle = outage_jobs.talk.delay(1000, 0.001)
    gates.wait_at(handle.id)
    assert time.monotonic() - asked < A_FEW
    gates.open_gate(handle.id, "burst")
    wait_until(lambda: outage_jobs.said(handle.id) > 1200, "many words")
    gates.open_gate(handle.id)
    asked = time.monotonic()
    result = handle.get(timeout=BACK)
    assert time.monotonic() - asked < A_FEW
    assert result["slowest"] < NO_WAIT, result
    _is_whole(handle, result["count"])


@pools("prefork")
def test_a_flush_that_was_cut_is_sent_again_and_nothing_is_there_twice(
    pool: str, start_worker: StartWorker, redis_url: str, store: RedisServer, proxy: TcpProxy
) -> None:
    """Fault 14, L1: cut in the middle of the scripts or of their answers, again and again: each entry is there, once."""
    slots = 1 if pool == "solo" else 3
    start_worker(APP, pool=pool, concurrency=slots + 1, env=_environment(proxy, redis_url))
    talking = [outage_jobs.talk.delay(0, 0.003) for _ in range(slots)]
    for handle in talking:
        gates.wait_at(handle.id)
    short = []
    for number, (size, direction) in enumerate(
        [(1, TO_CLIENT), (300, TO_SERVER), (5, TO_CLIENT), (2_000, TO_SERVER), (30, TO_CLIENT), (90, TO_CLIENT), (1, TO_SERVER)]
    ):
        proxy.cut_after(size, direction)
        short.append(outage_jobs.count.delay())
        wait_until(lambda: proxy.cuts > number, "a cut")  # noqa: B023
        heard = {handle: len(handle.get_logs()) for handle in talking}
        wait_until(lambda: all(len(handle.get_logs()) > heard[handle] for handle in talking), "more words", BACK)  # noqa: B023
    for handle in talking:
        gates.open_gate(handle.id)
    for handle in talking:
        _is_whole(handle, handle.get(timeout=BACK)["count"])
    for handle in short:
        assert handle.get(timeout=BACK) == 1
        _is_whole(handle, 1)


@pools("gevent")
def test_a_store_that_is_silent_holds_nobody_up(
    pool: str, start_worker: StartWorker, redis_url: str, store: RedisServer, proxy: TcpProxy
) -> None:
    """Fault 14, L1: a black hole: no call waits, begin and end wait for a bounded time, and what was held arrives once."""
    start_worker(APP, pool=pool, concurrency=1, env=_environment(proxy, redis_url, taskora_final_flush_timeout=FINAL_FLUSH))
    handle = outage_jobs.talk.delay(0, 0.005)
    gates.wait_at(handle.id)
    wait_until(handle.get_logs, "the first entries", BACK)
    proxy.hold()
    heard = outage_jobs.said(handle.id)
    wait_until(lambda: outage_jobs.said(handle.id) > heard + 200, "words that nobody hears")
    gates.open_gate(handle.id)
    asked = time.monotonic()
    result = handle.get(timeout=BACK)
    assert time.monotonic() - asked < BOUND
    assert result["slowest"] < NO_WAIT, result
    asked = time.monotonic()
    other = outage_jobs.count.delay()
    assert other.get(timeout=BACK) == 1
    assert time.monotonic() - asked < BOUND, "an outage that is known costs nothing"
    with pytest.raises(JobNotFoundError):
        other.record()
    proxy.heal()
    _is_whole(handle, result["count"])
    _is_whole(other, 1)


def test_a_fleet_does_not_come_back_in_one_beat(
    start_worker: StartWorker, redis_url: str, store: RedisServer, proxy: TcpProxy
) -> None:
    """Fault 14: connections that were lost at one instant are made anew at many: half of each pause is random."""
    processes = 6
    worker = start_worker(APP, pool="prefork", concurrency=processes, env=_environment(proxy, redis_url))
    holding = [outage_jobs.talk.delay(0, 0.05) for _ in range(processes)]
    for handle in holding:
        gates.wait_at(handle.id)
        gates.open_gate(handle.id)
    for handle in holding:
        _is_whole(handle, handle.get(timeout=BACK)["count"])
    # From here on each process listens, has nothing to say, and so notices at once when its connection is lost.
    wait_until(lambda: time.monotonic() - proxy.passed_at > 0.5, "silence")
    before = len(proxy.accepted)
    proxy.refuse()
    listeners = processes + 1  # the parent is one
    wait_until(lambda: len(proxy.accepted) >= before + 2 * listeners, "two tries of each process")
    proxy.heal()
    tries = [at - proxy.accepted[before] for at in proxy.accepted[before:]]
    # The first pause is 0.125 to 0.25 s, the second is 0.25 to 0.5 s and begins behind the first.
    assert tries[listeners - 1] < 0.25 < tries[listeners] + 0.15, tries
    spreads = [tries[listeners - 1] - tries[0], tries[2 * listeners - 1] - tries[listeners]]
    assert max(spreads) > 0.03, tries
    assert worker.running
