"""Real workers on SQS, with results and records in Redis: what every job needs works on a broker that is not Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support import gates, jobs, reporting_jobs
from tests.support.apps import pointed_at
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    import pytest

    from tests.support.sqs import SqsServer
    from tests.support.worker_fixtures import StartWorker


def test_a_job_on_sqs_reports_while_it_runs(
    pool: str, start_worker: StartWorker, redis_url: str, sqs_server: SqsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D10: the worker consumes over HTTP, and the job says how far it is before it ends."""
    monkeypatch.setenv("GATE_URL", redis_url)
    start_worker(pool=pool, concurrency=1, env=sqs_server.worker_env(redis_url, visibility_timeout=30))
    with pointed_at(jobs.app, **sqs_server.settings(redis_url, visibility_timeout=30)):
        handle = reporting_jobs.report_at_gates.delay([{"stage": "a"}])
        gates.wait_at(handle.id)
        wait_until(lambda: handle.get_progress() == {"stage": "a"}, "its progress")
        gates.open_gate(handle.id)
        assert handle.get(timeout=30) == "done"
        assert handle.get_progress() == 100
