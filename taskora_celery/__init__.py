"""A context for every Celery task, and a handle to watch it by."""

from typing import TYPE_CHECKING

from taskora_celery._version import __version__

if TYPE_CHECKING:
    from taskora_celery.adapters import abortable, run_process, start_process
    from taskora_celery.app import Celery, shared_task
    from taskora_celery.cancelling import cancel_job
    from taskora_celery.context import Context, current_context
    from taskora_celery.eager import EagerJobHandle
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
    from taskora_celery.handle import JobHandle
    from taskora_celery.local import LocalContext, local_context
    from taskora_celery.logs import JobLog
    from taskora_celery.records import AttemptRecord, CancelReceipt, Event, JobStatus, LogEntry, Outcome
    from taskora_celery.signal import Signal
    from taskora_celery.sse import server_sent_events
    from taskora_celery.task import ContextTask

#: Where each public name is defined. It is imported when it is first asked for: the commands' plug-in, which every call of
#: `celery` imports, costs what it uses itself, and no more. A test compares this with the imports above.
_HOMES = {
    "adapters": ("abortable", "run_process", "start_process"),
    "app": ("Celery", "shared_task"),
    "cancelling": ("cancel_job",),
    "context": ("Context", "current_context"),
    "eager": ("EagerJobHandle",),
    "errors": (
        "HandlerCancelledError",
        "JobAbortedError",
        "JobCancelledError",
        "JobNotFoundError",
        "JobStalledError",
        "MaxRetriesExceededError",
        "NoActiveJobError",
        "NotSupportedError",
        "RequeueError",
        "RetryError",
        "SettingsError",
        "StoreNotConfiguredError",
        "StoreUnavailableError",
        "TaskoraError",
    ),
    "handle": ("JobHandle",),
    "local": ("LocalContext", "local_context"),
    "logs": ("JobLog",),
    "records": ("AttemptRecord", "CancelReceipt", "Event", "JobStatus", "LogEntry", "Outcome"),
    "signal": ("Signal",),
    "sse": ("server_sent_events",),
    "task": ("ContextTask",),
}

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
    "JobLog",
    "JobNotFoundError",
    "JobStalledError",
    "JobStatus",
    "LocalContext",
    "LogEntry",
    "MaxRetriesExceededError",
    "NoActiveJobError",
    "NotSupportedError",
    "Outcome",
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

if not TYPE_CHECKING:  # with it in sight, type checkers would take any name

    def __getattr__(name: str) -> object:
        """Return a public name, imported now."""
        for home, names in _HOMES.items():
            if name in names:
                from importlib import import_module

                value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        """Return the names that are here, and those that would be."""
        return sorted({*globals(), *__all__})
