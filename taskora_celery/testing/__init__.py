"""The test kit: run a handler with no broker and no Redis, and see all that it does."""

from taskora_celery.store.memory import MemoryStore
from taskora_celery.testing.clock import VirtualClock
from taskora_celery.testing.conditions import At, NotReachedError
from taskora_celery.testing.fake import FakeContext, advance, fake_context
from taskora_celery.testing.outlet import SentTask
from taskora_celery.testing.result import JobRun
from taskora_celery.testing.runner import JobRunner, run_job

__all__ = [
    "At",
    "FakeContext",
    "JobRun",
    "JobRunner",
    "MemoryStore",
    "NotReachedError",
    "SentTask",
    "VirtualClock",
    "advance",
    "fake_context",
    "run_job",
]
