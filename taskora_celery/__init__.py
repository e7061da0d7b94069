"""A context for every Celery task, and a handle to watch it by."""

from taskora_celery._version import __version__
from taskora_celery.adapters import abortable, run_process, start_process
from taskora_celery.app import Celery, shared_task
from taskora_celery.cancelling import cancel_job
from taskora_celery.context import Context, current_context
from taskora_celery.errors import (
    HandlerCancelledError,
    JobAbortedError,
    JobCancelledError,
    JobNotFoundError,
    JobStalledError,
    MaxRetriesExceededError,
    NoActiveJobError,
    NotSupportedError,
    RequeueError,
    RetryError,
    SettingsError,
    StoreNotConfiguredError,
    StoreUnavailableError,
    TaskoraError,
)
from taskora_celery.handle import EagerJobHandle, JobHandle
from taskora_celery.local import LocalContext, local_context
from taskora_celery.records import AttemptRecord, CancelReceipt, Event, JobStatus, LogEntry
from taskora_celery.signal import Signal
from taskora_celery.sse import server_sent_events
from taskora_celery.task import ContextTask

__all__ = [
    "AttemptRecord",
    "CancelReceipt",
    "Celery",
    "Context",
    "ContextTask",
    "EagerJobHandle",
    "Event",
    "HandlerCancelledError",
    "JobAbortedError",
    "JobCancelledError",
    "JobHandle",
    "JobNotFoundError",
    "JobStalledError",
    "JobStatus",
    "LocalContext",
    "LogEntry",
    "MaxRetriesExceededError",
    "NoActiveJobError",
    "NotSupportedError",
    "RequeueError",
    "RetryError",
    "SettingsError",
    "Signal",
    "StoreNotConfiguredError",
    "StoreUnavailableError",
    "TaskoraError",
    "__version__",
    "abortable",
    "cancel_job",
    "current_context",
    "local_context",
    "run_process",
    "server_sent_events",
    "shared_task",
    "start_process",
]
