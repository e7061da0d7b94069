"""The app: a plain Celery set-up, but for the ``task_cls``."""

from __future__ import annotations

import os

from celery import Celery

from taskora_celery import ContextTask

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")

app = Celery(
    "example_project",
    broker=REDIS_URL,
    backend=REDIS_URL,
    include=["example_project.tasks"],
    task_cls=ContextTask,
)

app.conf.update(
    # A queue of its own, so that the example may share a Redis with other apps.
    task_default_queue="example_project",
    # Jobs differ a lot in length: with 1, no short job waits behind a long one that a process has fetched in advance.
    worker_prefetch_multiplier=1,
    # Seconds until Redis delivers a message again that nobody acknowledged: Celery's default, longer than any job here.
    broker_transport_options={"visibility_timeout": 3600},
    broker_connection_retry_on_startup=True,
    result_expires=24 * 3600,
)
