"""From a report's slots to packed, redacted, bounded data: the work that the handler's thread is spared."""

from __future__ import annotations

import logging
from typing import Any

from taskora_celery.encoding import CUT, pack, to_flat, to_plain
from taskora_celery.progress import progress_value
from taskora_celery.redaction import Redactor
from taskora_celery.reporter.report import LogTuple
from taskora_celery.store.journal import STATE
from taskora_celery.texts import visible

__all__ = ["MARK", "PlainEntry", "emit", "plain_entry", "plain_progress"]

#: ``(code, instant in ms, message, meta, logger)``; for a code >= STATE the message is a mapping.
PlainEntry = tuple[int, int, Any, Any, str | None]

#: Marks a logging record that is an entry already. Formatters that show what came in with ``extra=`` leave out such names.
MARK = "_taskora_entry"

_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}


def plain_entry(entry: LogTuple, redactor: Redactor, limit: int) -> PlainEntry:
    """Return a log entry as it is stored, of about ``limit`` bytes at most."""
    code, at, message, meta, logger = entry
    if code >= STATE:
        return code, int(at * 1000), message, None, None
    if type(message) is not str:
        message = to_plain(message, redactor, limit).value
        message = message if isinstance(message, str) else repr(message)
    if len(message) > limit:
        message = message[:limit] + CUT
    if redactor.hook is not None:
        message = str(redactor.value("message", message))
    if not message.isascii():
        message = message.encode("utf-8", "backslashreplace").decode("utf-8")
    if meta:
        room = max(limit - len(message), 64)
        flat = to_flat(meta, redactor, room) if type(meta) is dict else None
        if flat is None:
            plain = to_plain(meta, redactor, room).value
            flat = plain if isinstance(plain, dict) else {"value": plain}
        meta = flat
    return code, int(at * 1000), message, meta or None, logger


def plain_progress(latest: tuple[Any, Any, Any], redactor: Redactor, limit: int, now_ms: int) -> tuple[Any, str | None, bytes]:
    """Return progress as plain data, its mark, and both packed with the instant."""
    plain = to_plain(progress_value(*latest), redactor, limit)
    return plain.value, plain.mark, pack((plain.value, now_ms, plain.mark))


def _on_a_console(text: str) -> str:
    """Return text whose characters move no cursor and forge no line; tabs stay."""
    return "\t".join([visible(part) for part in text.split("\t")])


def emit(logger: logging.Logger, job_id: str, task_name: str, entry: PlainEntry) -> None:
    """Repeat a stored entry to Python logging, with its own time and the task's id and name for Celery's formatter."""
    code, ms, message, meta, _ = entry
    level = _LEVELS.get(code, logging.INFO)
    if not logger.isEnabledFor(level):
        return
    text = message if not meta else message + " " + " ".join(f"{key}={value!r}" for key, value in meta.items())
    record = logger.makeRecord(
        logger.name, level, "(task)", 0, _on_a_console(text), (), None,
        extra={"task_id": job_id, "task_name": task_name, MARK: True},
    )  # fmt: skip
    record.created = ms / 1000
    record.msecs = ms % 1000
    logger.handle(record)
