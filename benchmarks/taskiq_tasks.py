# mypy: allow-untyped-decorators
"""The app of taskiq's rows: the task of :mod:`benchmarks.tasks` that does nothing, as that library has it."""

from __future__ import annotations

import os

from taskiq import TaskiqState
from taskiq.events import TaskiqEvents
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

URL = os.environ.get("TASKORA_BENCH_REDIS", "redis://localhost:6379/0")
#: A key for each worker process that is ready.
READY = "ready"

# Streams: the broker of its that acknowledges, as Celery does with `acks_late`. Results stay for as long as in the other app.
broker = RedisStreamBroker(URL).with_result_backend(RedisAsyncResultBackend(URL, result_ex_time=600))


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def ready(_: TaskiqState) -> None:
    """Say that a worker process is there."""
    import redis

    redis.Redis.from_url(URL).incr(READY)


@broker.task(task_name="nothing")
async def nothing(x: int) -> int:
    """Do nothing."""
    return x
