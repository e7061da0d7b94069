"""A result backend that is down, silent, another than Redis, or none: job records do not care."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from taskora_celery import StoreUnavailableError
from tests.support import gates, jobs, outage_jobs
from tests.support.apps import pointed_at
from tests.support.pools import pools
from tests.support.recorded import recorded
from tests.support.redis_server import HOST, RedisServer, free_port
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.worker import Worker
    from tests.support.worker_fixtures import StartWorker

APP = "tests.support.outage_jobs:app"
#: Celery's own patience with a backend on Redis, which is 20 tries by default.
IMPATIENT = {"retry_policy": {"max_retries": 1, "interval_start": 0.1, "interval_step": 0, "interval_max": 0.1}}
#: Seconds within which what a running job says can be read, whatever its result backend does: some flushes, on a loaded machine.
HEARD = 3.0


def _hears_more(handle: Any) -> None:
    said = outage_jobs.said(handle.id)

    def heard() -> bool:
        try:
            return any(entry.meta["n"] > said for entry in handle.get_logs()) and handle.get_progress() > said
        except StoreUnavailableError:
            return False

    wait_until(heard, "new words in the record", HEARD)


def _talks(start_worker: StartWorker, pool: str, redis_url: str, backend: str, **settings: Any) -> tuple[Worker, Any]:
    """Run a job with this result backend until it has been heard for a while; return its worker and its handle."""
    environment = {"RESULT_BACKEND": backend, "GATE_URL": redis_url, **jobs.configured(taskora_redis_url=redis_url, **settings)}
    worker = start_worker(APP, pool=pool, concurrency=2, env=environment)
    handle = outage_jobs.talk.delay(0, 0.01)
    gates.wait_at(handle.id)
    for _ in range(3):  # PROGRESS is written to the backend again and again meanwhile
        _hears_more(handle)
    gates.open_gate(handle.id)
    return worker, handle


def _is_recorded(handle: Any) -> int:
    """Wait for the end of a job; all that it has said is in its record."""
    said = int(recorded(handle, timeout=30).logs)
    assert [entry.meta["n"] for entry in handle.get_logs()] == list(range(said))
    assert handle.get_progress() == said - 1
    return said


@pools("threads")
@pytest.mark.parametrize("kind", ["db", "rpc", "none"])
def test_records_are_kept_whatever_keeps_the_results(
    pool: str, kind: str, start_worker: StartWorker, redis_url: str, tmp_path: Path
) -> None:
    """Fault 16, E4: progress and logs in Redis; the outcome is Celery's, where there is one."""
    if kind == "db":
        pytest.importorskip("sqlalchemy")
    backend = {"db": f"db+sqlite:///{tmp_path / 'results.sqlite'}", "rpc": "rpc://", "none": "disabled://"}[kind]
    with pointed_at(jobs.app, redis_url, backend, taskora_redis_url=redis_url):
        _, handle = _talks(start_worker, pool, redis_url, backend)
        said = _is_recorded(handle)
        if kind == "none":
            with pytest.raises(NotImplementedError):
                handle.get(timeout=1)
        else:
            assert handle.get(timeout=20)["count"] == said
            assert handle.state == "SUCCESS"


@pools("prefork")
def test_a_backend_that_is_down_takes_no_record_with_it(pool: str, start_worker: StartWorker, redis_url: str) -> None:
    """Fault 16, E5: refused connections: PROGRESS is lost with one warning, the record says how the job ended."""
    if pool == "solo":
        pytest.skip("Celery takes it for its broker that is lost, and begins anew, with this library or without")
    backend = f"redis://{HOST}:{free_port()}/0"
    with pointed_at(jobs.app, redis_url, taskora_redis_url=redis_url):
        worker, handle = _talks(start_worker, pool, redis_url, backend, result_backend_transport_options=IMPATIENT)
        _is_recorded(handle)
        told = [line for line in worker.logs().splitlines() if "progress cannot be written to the result backend" in line]
        assert [handle.id in line for line in told] == [True], told
        other = outage_jobs.count.delay()
        assert recorded(other, timeout=30).logs == 1


@pools("threads")
def test_a_backend_that_is_silent_takes_no_record_with_it(
    pool: str, start_worker: StartWorker, redis_url: str, redis_server: RedisServer
) -> None:
    """Fault 16, E5: a black hole, for which Celery waits two minutes: meanwhile what all jobs of the process say is read."""
    with TcpProxy(redis_server.port) as proxy:
        backend = proxy.url(int(redis_url.rpartition("/")[2]))
        with pointed_at(jobs.app, redis_url, taskora_redis_url=redis_url):
            proxy.hold()
            _, handle = _talks(start_worker, pool, redis_url, backend)
            _is_recorded(handle)
            if pool == "solo":  # which waits as Celery does, and runs nothing else meanwhile
                proxy.heal()
                assert handle.get(timeout=60)["count"] > 0
                return
            other = outage_jobs.talk.delay(0, 0.01)
            gates.wait_at(other.id)
            _hears_more(other)
            gates.open_gate(other.id)
            _is_recorded(other)
            proxy.heal()
            assert handle.get(timeout=60)["count"] > 0
            assert other.get(timeout=60)["count"] > 0
