"""A worker with wrong settings does not start, and says what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support import jobs

if TYPE_CHECKING:
    from tests.support.worker_fixtures import StartWorker

WRONG: list[tuple[dict[str, Any], list[str]]] = [
    ({"taskora_flush_intervall": 0.2}, ["'taskora_flush_intervall'", "did you mean 'taskora_flush_interval'?"]),
    ({"taskora_log_limit": "many"}, ["taskora_log_limit='many'", "a whole number"]),
    ({"taskora_redis_url": "localhost:6379"}, ["taskora_redis_url='localhost:6379'", "redis://localhost:6379/0"]),
    ({"taskora_flush_interval": -1}, ["taskora_flush_interval=-1", "0 or more seconds"]),
    ({"taskora_capture_logging": "some"}, ["taskora_capture_logging='some'", "one of True, False, 'root'"]),
    (
        {"taskora_lease_interval": 5, "broker_transport_options": {"visibility_timeout": 5}},
        ["taskora_lease_interval=5", "not below the broker's visibility_timeout=5"],
    ),
]


def test_wrong_settings_stop_the_worker_with_a_clear_message(pool: str, start_worker: StartWorker) -> None:
    """L4: it ends with an error; the message has the name, the value and what would be right, and there is no traceback."""
    # All at once: each of them ends before it has a pool, in the second that Celery needs to start.
    workers = [start_worker(pool=pool, env=jobs.configured(**settings), wait=False) for settings, _ in WRONG]
    for worker, (settings, expected) in zip(workers, WRONG, strict=True):
        assert worker.wait(60) not in {0, None}, settings
        output = worker.logs()
        for text in expected:
            assert text in output, output
        assert "Traceback" not in output
        lines = [line for line in output.splitlines() if "taskora_celery: " in line]
        assert len(lines) == 1, output
        assert " ready." not in output


def test_an_unlisted_name_without_the_prefix_is_not_our_business(start_worker: StartWorker) -> None:
    """L4: only ``taskora_*`` names are judged."""
    worker = start_worker(pool="solo", env=jobs.configured(my_taskora_setting=1, taskora_record_ttl=60))
    assert worker.running
