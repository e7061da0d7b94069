"""``ctx.log``: structured log entries of one job."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from typing import Any

from taskora_celery.reporter.report import JobReport

__all__ = ["JobLog", "merged"]

_DEBUG, _INFO, _WARN, _ERROR = 1, 2, 3, 4


def merged(meta: Any, fields: dict[str, Any]) -> Any:
    """Return a snapshot of ``meta``, with ``fields`` over it: the handler may change its mapping the moment after."""
    if type(meta) is dict:
        return {**meta, **fields} if fields else meta.copy()
    if meta is None:
        return fields or None
    return {**meta, **fields} if isinstance(meta, Mapping) else {"value": meta, **fields}


class JobLog:
    """Writes log entries. Each call stores a tuple in memory: no I/O, no error of a store. Safe to use from any thread.

    ``meta`` is a mapping; ``fields`` are merged over it. Both are copied one level deep. The settings
    ``taskora_log_limit``, ``taskora_log_entry_bytes`` and ``taskora_redact_keys`` say what is kept and what is hidden.
    """

    __slots__ = ("_logs", "_report")

    def __init__(self, report: JobReport) -> None:
        self._report = report
        self._logs = report.logs

    def debug(self, message: str, meta: Mapping[str, Any] | None = None, **fields: Any) -> None:
        """Write an entry of level ``"debug"``."""
        self.write(_DEBUG, message, merged(meta, fields))

    # Written out, since this is the method that loops call, and the call of `write` is a fifth of what it costs.
    def info(self, message: str, meta: Mapping[str, Any] | None = None, **fields: Any) -> None:
        """Write an entry of level ``"info"``."""
        if fields:
            meta = merged(meta, fields)
        elif meta is not None:
            meta = meta.copy() if type(meta) is dict else merged(meta, fields)
        report = self._report
        logs = self._logs
        clock = report.time  # fetched before it is called: `report.time()` looks for a method first, 5 ns more
        logs.extend((_INFO, clock(), message, meta, None))
        # One look at both: whether the reporter is to be woken, and whether there is room. Two looks take 4 ns more.
        if len(logs) > report.log_room:
            report.crowded()

    def warning(self, message: str, meta: Mapping[str, Any] | None = None, **fields: Any) -> None:
        """Write an entry of level ``"warn"``."""
        self.write(_WARN, message, merged(meta, fields))

    warn = warning

    def error(self, message: str, meta: Mapping[str, Any] | None = None, **fields: Any) -> None:
        """Write an entry of level ``"error"``."""
        self.write(_ERROR, message, merged(meta, fields))

    def exception(self, message: str, meta: Mapping[str, Any] | None = None, **fields: Any) -> None:
        """Write an entry of level ``"error"`` with the traceback of the exception that is being handled, as ``traceback``."""
        if sys.exc_info()[0] is not None:
            fields.setdefault("traceback", traceback.format_exc())
        self.write(_ERROR, message, merged(meta, fields))

    def write(self, code: int, message: Any, meta: Any, logger: str | None = None, at: float | None = None) -> None:
        """Store an entry as it is; ``logger`` names the logger it was captured from, ``at`` is in seconds since the epoch."""
        report = self._report
        self._logs.extend((code, report.time() if at is None else at, message, meta, logger))
        if len(self._logs) > report.log_room:
            report.crowded()
