"""The Celery app whose tasks the acceptance tests run, in the worker and in the test process alike."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery

try:
    from taskora_celery import ContextTask
except ImportError:
    ContextTask = None

_options: dict[str, Any] = {} if ContextTask is None else {"task_cls": ContextTask}

app = Celery(
    "jobs",
    broker=os.environ.get("BROKER_URL", "memory://"),
    backend=os.environ.get("RESULT_BACKEND", "cache+memory://"),
    **_options,
)


@app.task
def add(x: float, y: float) -> float:
    """Return the sum."""
    return x + y


@app.task
def sleep_for(seconds: float) -> float:
    """Keep a worker busy."""
    time.sleep(seconds)
    return seconds
