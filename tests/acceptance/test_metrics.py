"""The metrics of real workers: what they did is what Prometheus is shown."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from taskora_celery.metrics.collect import Collector
from taskora_celery.metrics.text import exposition
from taskora_celery.runtime import Runtime
from tests.support import fault_jobs, gates, jobs, stopping_jobs
from tests.support.apps import pointed_at
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from celery import Celery

    from tests.support.worker_fixtures import SharedWorker, StartWorker

NAME = "faults.stand_rejected"


def scraped(app: Celery) -> dict[str, float]:
    """All series by name and label values, as Prometheus reads them."""
    text = exposition(Collector(Runtime.of(app).readable()).samples())
    return {
        f"{sample.name}{list(sample.labels.values())}": sample.value
        for metric in text_string_to_metric_families(text) for sample in metric.samples
    }  # fmt: skip


def grown(app: Celery, before: dict[str, float], series: str) -> float:
    return scraped(app).get(series, 0) - before.get(series, 0)


def test_attempts_retries_and_logs_are_counted_in_every_pool(start_worker: StartWorker, jobs_app: Celery, pool: str) -> None:
    """K5: by whoever runs the jobs, in processes that may be gone when somebody looks."""
    start_worker(pool=pool)
    name = jobs.retry_with.name
    for handle in [jobs.retry_with.delay([0.0]) for _ in range(3)]:
        handle.get(timeout=30)
    expected = {
        f"taskora_job_attempts_total['{name}', 'success']": 3,
        f"taskora_job_attempts_total['{name}', 'retry']": 3,
        f"taskora_job_retries_total['{name}', 'ConnectionError']": 3,
        f"taskora_job_attempt_duration_seconds_count['{name}']": 6,
        "taskora_job_queue_wait_seconds_count['celery']": 3,
        "taskora_jobs['running']": 0,
    }
    wait_until(lambda: expected.items() <= scraped(jobs_app).items(), "all is counted", 10)


def test_a_cancel_is_counted_with_the_time_that_it_took(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """K5, G3: from the request to the job's end; while it runs it is a job that runs."""
    before = scraped(jobs_app)
    name = stopping_jobs.obey.name
    handle = stopping_jobs.obey.delay("sleep")
    wait_until(lambda: grown(jobs_app, before, "taskora_jobs['running']") >= 1, "it is among those that run")
    wait_until(lambda: "started" in stopping_jobs.story(handle.id), "it runs")
    assert f"taskora_job_heartbeat_age_seconds['{name}']" in scraped(jobs_app)
    handle.cancel("enough")
    wait_until(lambda: grown(jobs_app, before, f"taskora_job_attempts_total['{name}', 'revoked']") == 1, "it is counted")
    assert grown(jobs_app, before, f"taskora_job_cancel_latency_seconds_count['{name}']") == 1
    assert 0 <= grown(jobs_app, before, f"taskora_job_cancel_latency_seconds_sum['{name}']") < 10


def test_a_killed_process_is_counted_as_a_stall(start_worker: StartWorker, redis_url: str) -> None:
    """K5, D5: by the worker's parent, since the process cannot; and the job goes on."""
    start_worker("tests.support.fault_jobs:app", "prefork")
    with pointed_at(fault_jobs.app, redis_url) as app:
        handle = fault_jobs.stand_rejected.delay()
        wait_until(lambda: len(fault_jobs.starts(handle.id)) == 1 and handle.get_progress() == 1, "it runs")
        os.kill(fault_jobs.starts(handle.id)[0]["pid"], signal.SIGKILL)
        wait_until(lambda: scraped(app).get(f"taskora_job_stalled_total['{NAME}', 'redelivered']") == 1, "the stall is counted")
        wait_until(lambda: len(fault_jobs.starts(handle.id)) == 2, "it runs again")
        gates.open_gate(handle.id, "delivery2")
        handle.get(timeout=30)
        wait_until(lambda: scraped(app).get(f"taskora_job_attempts_total['{NAME}', 'success']") == 1, "its end is counted")
        assert scraped(app)[f"taskora_job_attempts_total['{NAME}', 'lost']"] == 1
