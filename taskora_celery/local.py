"""A context that needs no broker and no Redis: for direct calls, ``task.apply()`` and ``task_always_eager`` (rule A5)."""

from __future__ import annotations

import time
from collections import deque
from typing import Any
from uuid import uuid4

from taskora_celery.context import Context, JobInfo
from taskora_celery.encoding import to_plain
from taskora_celery.progress import progress_value
from taskora_celery.records import LogEntry, level_name
from taskora_celery.redaction import Redactor
from taskora_celery.reporter.report import UNSET, JobReport

__all__ = ["LocalContext", "local_context"]

#: Progress values kept, the newest.
_VALUES_KEPT = 10_000


class _LocalReport(JobReport):
    """Keeps everything: ``dirty`` is never set, so each report passes through :meth:`touch`."""

    __slots__ = ("values",)

    def __init__(self, job_id: str, name: str, attempt: int) -> None:
        super().__init__(job_id, name, attempt, time=time.time)
        self.values: deque[Any] = deque(maxlen=_VALUES_KEPT)

    def touch(self) -> None:
        value = self.progress
        if value is not UNSET:
            self.progress = UNSET
            self.values.append(progress_value(value))


class LocalContext(Context):
    """A context whose reports stay in memory, and can be read from it under the names that a handle has."""

    __slots__ = ()

    def get_progress(self) -> Any:
        """Return the last progress value, or None."""
        values = self._local.values
        return values[-1] if values else None

    def get_logs(self) -> list[LogEntry]:
        """Return the log entries in call order."""
        redactor = Redactor()
        return [
            LogEntry(level_name(code), str(message), int(at * 1000), self.attempt, seq, _plain(meta, redactor), logger)
            for seq, (code, at, message, meta, logger) in enumerate(list(self._report.logs))
        ]

    @property
    def _local(self) -> _LocalReport:
        assert isinstance(self._report, _LocalReport)
        return self._report


def local_context(
    name: str = "local", job_id: str | None = None, *, attempt: int = 1, max_attempts: int | None = None
) -> LocalContext:
    """Return a context that keeps what is reported in memory; pass it to a direct call as ``task(data, ctx=…)``."""
    job_id = job_id or str(uuid4())
    info = JobInfo(job_id, name, attempt=attempt, max_attempts=max_attempts, timestamp=int(time.time() * 1000))
    return LocalContext(info, _LocalReport(job_id, name, attempt))


def _plain(meta: Any, redactor: Redactor) -> dict[str, Any] | None:
    return to_plain(meta, redactor, 65_536).value if meta else None
