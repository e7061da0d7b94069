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
    broker_transport_options={
        # Seconds after which Redis delivers a message again that nobody keeps, so the longest that a dead worker's jobs wait.
        # With plain Celery it has to be longer than the longest job and the latest ETA, or both run twice. Here each worker
        # renews what it holds, so 30 s are safe however long a job takes. All consumers of one Redis database need the same.
        "visibility_timeout": 30,
        # Seconds between two looks for such messages, at every look: kombu's own pace is a look in 100 s. Celery 5.5 and 5.6 do
        # not know these two; there, as here, taskora_celery's workers look for themselves as soon as something is due.
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    },
    broker_connection_retry_on_startup=True,
    result_expires=24 * 3600,
)
