"""Jobs go on while the store of their records is away, refuses, or does not exist."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from celery.result import AsyncResult

from taskora_celery import StoreNotConfiguredError, StoreUnavailableError
from tests.support import gates, jobs, reporting_jobs
from tests.support.apps import pointed_at
from tests.support.key_leaks import assert_keys_expire
from tests.support.recorded import recorded
from tests.support.redis_server import RedisServer, free_port
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.worker import Worker
    from tests.support.worker_fixtures import StartWorker

BUFFER = 20  # log entries that a job may have waiting
FINAL_FLUSH = 0.5  # seconds
#: Seconds from the gate to the result while the store is away: one final flush, the reports' own interval, and a loaded machine.
BOUND = 8 * FINAL_FLUSH


@pytest.fixture
def store(_redis_binary: str) -> Iterator[RedisServer]:
    """A Redis for job records alone, which the test may kill."""
    with RedisServer(binary=_redis_binary) as server:
        yield server


def _timed(handle: Any, *gate: str) -> tuple[Any, float]:
    """The result, and the seconds from here to it."""
    started = time.monotonic()
    for name in gate:
        gates.open_gate(handle.id, name)
    return handle.get(timeout=30), time.monotonic() - started


def test_jobs_go_on_while_the_store_is_away(pool: str, start_worker: StartWorker, redis_url: str, store: RedisServer) -> None:
    """L1, F4: killed in mid-job, away when jobs begin, back without its data: no job fails or waits long, losses are counted."""
    settings: dict[str, Any] = {
        "taskora_redis_url": store.url(),
        "taskora_buffer_limit": BUFFER,
        "taskora_final_flush_timeout": FINAL_FLUSH,
    }
    worker = start_worker(pool=pool, concurrency=1, env=jobs.configured(**settings))
    with pointed_at(jobs.app, redis_url, **settings):
        running = reporting_jobs.survive_outage.delay(before=5, after=100)
        gates.wait_at(running.id)
        wait_until(lambda: len(running.get_logs()) == 5, "the entries before the outage", timeout=10)
        store.kill()
        assert worker.running

        result, elapsed = _timed(running, "gate")
        assert (result, elapsed < BOUND) == (105, True), elapsed
        with pytest.raises(StoreUnavailableError):
            running.get_logs()
        second = reporting_jobs.survive_outage.delay(before=3, after=2)
        result, elapsed = _timed(second, "gate")
        assert (result, elapsed < BOUND) == (5, True), elapsed
        assert _errors(worker, "job records cannot be written") == 1, "an outage is told once, not once per job"

        store.start()
        third = reporting_jobs.survive_outage.delay(before=1, after=1)
        assert _timed(third, "gate")[0] == 2
        assert worker.wait_for_log("job records can be written again", timeout=30)
        _has_logs(third, [0, 1])
        _has_logs(second, [0, 1, 2, 3, 4])
        # Of what the first job wrote, the store lost five entries, and the buffer kept the newest.
        entries = wait_until(running.get_logs, "the entries that waited", timeout=30)
        numbers = [entry.meta["n"] for entry in entries]
        assert numbers == list(range(105 - len(numbers), 105))
        assert 1 <= len(numbers) <= BUFFER
        status = recorded(running)
        assert (status.logs, status.dropped_logs) == (105, 105 - len(numbers))
        assert running.get_progress() == 105
        with store.client() as client:
            assert_keys_expire(client)


def _has_logs(handle: Any, numbers: list[int]) -> None:
    wait_until(lambda: [entry.meta["n"] for entry in handle.get_logs()] == numbers, f"entries {numbers}", timeout=30)
    recorded(handle)


def _errors(worker: Worker, text: str) -> int:
    return sum(text in line and "ERROR" in line for line in worker.logs().splitlines())


@pytest.mark.parametrize("fault", ["wrong password", "dead port"])
def test_a_store_that_cannot_be_reached_stops_no_worker(
    pool: str, start_worker: StartWorker, redis_url: str, store: RedisServer, fault: str
) -> None:
    """L1: the worker starts and works; one clear error line says why there are no records, without the password."""
    if fault == "dead port" and pool not in {"prefork", "gevent"}:
        pytest.skip("the same as the outage above, but for the start; one pool with threads and one with greenlets")
    with store.client() as client:
        client.config_set("requirepass", "right")
        port = store.port if fault == "wrong password" else free_port()
        url = f"redis://:wr0ng-pass@127.0.0.1:{port}/0"
        worker = start_worker(pool=pool, concurrency=1, env=jobs.configured(taskora_redis_url=url))
        with pointed_at(jobs.app, redis_url, taskora_redis_url=url):
            for n in range(3):
                handle = reporting_jobs.report_and_return.delay(n)
                assert handle.get(timeout=20) == n
            handle = reporting_jobs.report_at_gates.delay([33])
            gates.wait_at(handle.id)
            result = AsyncResult(handle.id, app=jobs.app)
            wait_until(lambda: result.state == "PROGRESS", "progress in the result backend", timeout=10)
            gates.open_gate(handle.id)
            assert handle.get(timeout=20) == "done"
            with pytest.raises(StoreUnavailableError):
                handle.get_logs()
        told = [line for line in worker.logs().splitlines() if "job records cannot be written" in line]
        assert len(told) == 1, told
        assert re.search("invalid username-password|WRONGPASS|password" if fault == "wrong password" else "refused", told[0])
        assert "wr0ng-pass" not in worker.logs()
        assert "Traceback" not in worker.logs()


def test_without_any_redis_a_warning_names_the_setting(
    pool: str, start_worker: StartWorker, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L2: one warning at the start; progress is in the result backend, retries work, and reading logs says what is missing."""
    for name in ("broker", "processed", "control", "results"):
        (tmp_path / name).mkdir()
    options = {
        "data_folder_in": str(tmp_path / "broker"),
        "data_folder_out": str(tmp_path / "broker"),
        "processed_folder": str(tmp_path / "processed"),
        "control_folder": str(tmp_path / "control"),
    }
    backend = f"file://{tmp_path / 'results'}"
    monkeypatch.setenv("GATE_URL", redis_url)  # the gates need one; the library knows nothing of it
    environment = {"BROKER_URL": "filesystem://", "RESULT_BACKEND": backend, "GATE_URL": redis_url}
    environment |= jobs.configured(broker_transport_options=options)
    worker = start_worker(pool=pool, concurrency=1, env=environment, args=["--without-gossip"])
    with pointed_at(jobs.app, "filesystem://", backend, broker_transport_options=options):
        handle = reporting_jobs.report_at_gates.delay([33])
        gates.wait_at(handle.id)
        shown = {"progress": 33, "current": 33, "total": 100, "percent": 33.0}
        result = AsyncResult(handle.id, app=jobs.app)
        wait_until(lambda: (result.state, result.info) == ("PROGRESS", shown), "progress in the result backend", timeout=10)
        gates.open_gate(handle.id)
        assert handle.get(timeout=20) == "done"
        for read in (handle.get_logs, handle.get_progress, handle.record, handle.history, lambda: list(handle.follow_logs())):
            with pytest.raises(StoreNotConfiguredError, match="taskora_redis_url"):
                read()
        found = jobs.retry_with.delay([0]).get(timeout=20)
        assert (found["attempt"], found["delivery"], found["history"]) == (2, 1, [])
    told = [line for line in worker.logs().splitlines() if "taskora_redis_url" in line]
    assert len(told) == 1
    assert "WARNING" in told[0]
