"""The metrics: their names, types, labels and meaning, and from which of the store's counts each comes."""

from __future__ import annotations

from types import MappingProxyType

import msgspec

__all__ = ["FAMILIES", "FROM_COUNTS", "Family", "Sample", "family"]


class Family(msgspec.Struct, frozen=True):
    """One metric. A counter's name ends in ``_total``, and a duration is in seconds."""

    name: str
    kind: str
    help: str
    #: The labels from a closed set, then those that users choose, in the order of the store's counts.
    fixed: tuple[str, ...] = ()
    open: tuple[str, ...] = ()


class Sample(msgspec.Struct, frozen=True):
    """One line: of a histogram its bucket, sum or count, else the value alone."""

    family: Family
    labels: tuple[tuple[str, str], ...]
    value: float
    suffix: str = ""


FAMILIES = (
    Family("taskora_up", "gauge", "Whether the store of job records answers: 1 or 0. Where it is 0, nothing else is shown."),
    Family("taskora_jobs", "gauge", "Jobs that have begun and not ended, by state.", ("state",)),
    Family(
        "taskora_job_heartbeat_age_seconds", "gauge",
        "The longest time since a running job of this task showed a sign of life (what a job says is one, and so is its start).",
        (), ("name",),
    ),
    Family("taskora_job_attempts_total", "counter", "Attempts that ended, by outcome.", ("outcome",), ("name",)),
    Family("taskora_job_retries_total", "counter", "Attempts that ended in a retry, by exception.", (), ("name", "exception")),
    Family("taskora_job_attempt_duration_seconds", "histogram", "How long attempts ran.", (), ("name",)),
    Family(
        "taskora_job_queue_wait_seconds", "histogram",
        "From a job's creation to its start; first deliveries without a countdown or ETA.", (), ("queue_name",),
    ),
    Family(
        "taskora_job_stalled_total", "counter",
        "Deliveries that were lost with their process or worker, or showed no sign of life, by what was done.",
        ("action",), ("name",),
    ),
    Family(
        "taskora_job_cancel_latency_seconds", "histogram", "From the request to cancel a running job to its end.", (), ("name",),
    ),
    Family("taskora_job_log_records_total", "counter", "Log entries of jobs, by level.", ("level",), ("name",)),
    Family("taskora_dropped_records_total", "counter", "What was given up before it could be stored, by kind.", ("kind",)),
    Family("taskora_store_errors_total", "counter", "Times that a process that runs jobs could not reach the store."),
)  # fmt: skip

_BY_NAME = {known.name: known for known in FAMILIES}


def family(name: str) -> Family:
    """Return a metric by its name."""
    return _BY_NAME[name]


#: The metric of the store's counts, by their short name there.
FROM_COUNTS = MappingProxyType(
    {
        "attempts": family("taskora_job_attempts_total"),
        "retries": family("taskora_job_retries_total"),
        "attempt_duration": family("taskora_job_attempt_duration_seconds"),
        "queue_wait": family("taskora_job_queue_wait_seconds"),
        "stalled": family("taskora_job_stalled_total"),
        "cancel_latency": family("taskora_job_cancel_latency_seconds"),
        "log_records": family("taskora_job_log_records_total"),
        "dropped": family("taskora_dropped_records_total"),
        "store_errors": family("taskora_store_errors_total"),
    }
)
