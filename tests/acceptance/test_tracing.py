"""OpenTelemetry in a real worker, instrumented in the usual way."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.apps import pointed_at
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.worker_fixtures import StartWorker

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")
pytest.importorskip("opentelemetry.instrumentation.celery", reason="opentelemetry-instrumentation-celery is not installed")


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_each_attempt_s_span_says_how_it_ended(start_worker: StartWorker, redis_url: str, tmp_path: Path, pool: str) -> None:
    """K6: two attempts, two spans, one trace, and its id in the record."""
    from tests.support import traced_jobs

    path = tmp_path / "spans"
    # One place: the instrumentation keeps a span by the job's id, so attempts of one job must not overlap in a process.
    start_worker("tests.support.traced_jobs:app", pool, concurrency=1, env={"SPANS": str(path)})

    def runs() -> list[dict[str, Any]]:
        spans = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [span for span in spans if span["name"].startswith("run/")]

    with pointed_at(traced_jobs.app, redis_url):
        handle = traced_jobs.flaky.delay()
        trace = handle.get(timeout=30)
        wait_until(lambda: len(runs()) == 2, "both spans have ended")
        assert handle.record().trace_id == trace
    first, second = runs()
    assert second["trace"] == trace
    own = [{name: value for name, value in span["attributes"].items() if name.startswith(("taskora.", "error."))}
           for span in (first, second)]  # fmt: skip
    assert own == [
        {
            "taskora.job.attempt": 1, "taskora.job.outcome": "retry", "taskora.retry.reason": "not yet",
            "error.type": "TimeoutError",
        },
        {"taskora.job.attempt": 2, "taskora.job.outcome": "success"},
    ]  # fmt: skip
