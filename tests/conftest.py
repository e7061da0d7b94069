"""Fixtures for all tests; they live in `tests.support`."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

#: Generated cases are the same in each run; with ``TASKORA_TEST_MODEL=1`` they are others each time.
settings.register_profile("repeatable", derandomize=not os.environ.get("TASKORA_TEST_MODEL"))
settings.load_profile("repeatable")

pytest_plugins = [
    "pytest_taskora_celery",
    "tests.support.reports",
    "tests.support.redis_fixtures",
    "tests.support.store_fixtures",
    "tests.support.worker_fixtures",
    "tests.support.tuned_worker",
    "tests.support.relay",
    "tests.support.sqs",
    "tests.support.rabbitmq",
    "tests.support.flower_server",
    "tests.support.commands",
    "tests.support.scripted_jobs",
    "tests.support.boards",
    "tests.support.hostile",
]


def pytest_configure() -> None:
    """Let what the tests start be interrupted, also where a shell runs them in its background and has it ignore Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
