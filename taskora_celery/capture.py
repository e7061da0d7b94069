"""Python logging inside a handler becomes log entries of its job (rule F6)."""

from __future__ import annotations

import logging
import traceback
from typing import Any

from taskora_celery.context import current_context
from taskora_celery.encoding import encodable
from taskora_celery.reporter.taking import MARK

__all__ = ["CaptureHandler", "install_capture"]

#: The end of the year 9999, in seconds since the epoch: a record's own time may be anything.
_LAST = 253_402_300_799
#: Celery's parent of all loggers of ``get_task_logger``.
_TASK_LOGGERS = "celery.task"

#: What every record has; the rest came in with ``extra=`` and becomes meta.
_ORDINARY = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "task_id",
    "task_name",
}
#: These loggers work for the reports themselves: to capture them would feed the reporter with its own noise.
_OWN = ("taskora_celery", "redis", "kombu", "amqp", "celery.app.trace", "celery.worker", "celery.redirected")


class CaptureHandler(logging.Handler):
    """Turns a record that the handler's code emits into an entry of the job that runs in the same thread or coroutine."""

    def emit(self, record: logging.LogRecord) -> None:
        """Append the record to the current job's log; do nothing outside a job, or for what ``ctx.log`` itself emitted."""
        ctx = current_context(None)
        if ctx is None or hasattr(record, MARK):
            return
        try:
            # A record may be made by hand. What cannot be stored would take all entries beside it along.
            name = encodable(str(record.name))
            if _is_own(name):
                return
            at = record.created if 0 <= record.created <= _LAST else None
            ctx.log.write(_code(record.levelno), record.getMessage(), _meta(record), name, at)
            vars(record)[MARK] = True  # should it come to the other logger's handler, too
        except Exception:  # noqa: BLE001 - logging's own convention for a handler that fails
            self.handleError(record)


def install_capture(mode: bool | str) -> None:
    """Put the handler where ``taskora_capture_logging`` says, once; called when Celery has set up logging in this process."""
    if not mode:
        return
    # Celery's task loggers do not propagate: what they log never comes to the root logger.
    for name in (_TASK_LOGGERS, "root") if mode == "root" else (_TASK_LOGGERS,):
        logger = logging.getLogger(name)
        if not any(isinstance(handler, CaptureHandler) for handler in logger.handlers):
            logger.addHandler(CaptureHandler())


def _is_own(name: str) -> bool:
    return any(name == own or name.startswith(own + ".") for own in _OWN)


def _code(level: int) -> int:
    if level >= logging.ERROR:
        return 4
    if level >= logging.WARNING:
        return 3
    return 2 if level >= logging.INFO else 1


def _meta(record: logging.LogRecord) -> dict[str, Any] | None:
    meta = {key: value for key, value in vars(record).items() if key not in _ORDINARY}
    if record.exc_info and record.exc_info[0] is not None:
        meta["traceback"] = "".join(traceback.format_exception(*record.exc_info))
    return meta or None
