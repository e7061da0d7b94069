"""The journal's batches: many entries in one value.

A batch is ``[attempt, base_ms, [entry, …]]``. A log entry is ``[level code, ms after base, message, meta, logger]``, other
entries are ``[code, ms after base, {…}]``. A reader leaves out what it cannot read and says so with a gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from taskora_celery.encoding import pack, unpack
from taskora_celery.records import Event, LogEntry, level_name
from taskora_celery.store.protocol import Batch

__all__ = ["STATE", "decode", "decode_logs", "encode"]

#: Codes below are log levels.
STATE = 10
#: So long a batch at most: the journal is trimmed by whole batches.
BATCH_ENTRIES = 500

#: ``(code, instant in ms, message or data, meta, logger)``, as the reporter hands them over; data for a code >= STATE.
Entry = tuple[int, int, Any, Any, str | None]


def encode(attempt: int, entries: Sequence[Entry], limit: int) -> tuple[Batch, ...]:
    """Return entries as batches of at most ``limit`` entries."""
    size = min(BATCH_ENTRIES, max(limit, 1))
    return tuple(_batch(attempt, entries[at : at + size]) for at in range(0, len(entries), size))


def _batch(attempt: int, entries: Sequence[Entry]) -> Batch:
    base = entries[0][1]
    items: list[tuple[Any, ...]] = []
    logs = 0
    for code, ms, message, meta, logger in entries:
        if code >= STATE:
            items.append((code, ms - base, message))
            continue
        logs += 1
        if logger is not None:
            items.append((code, ms - base, message, meta, logger))
        elif meta:
            items.append((code, ms - base, message, meta))
        else:
            items.append((code, ms - base, message))
    return Batch(len(entries), logs, pack((attempt, base, items)))


def decode(journal: Iterable[bytes], after: int = -1) -> list[Event]:
    """Return the entries behind position ``after`` as events, with a ``gap`` event wherever some are missing."""
    events: list[Event] = []
    expected: int | None = after + 1 if after >= 0 else None
    for raw in journal:
        first, entries, body = _head(raw)
        if first + entries <= after + 1:
            continue
        if body is None:
            continue  # the jump in the positions shows as a gap before the next batch
        attempt, base, items = body
        if expected is not None and first > expected:
            events.append(Event("gap", first - 1, base, {"count": first - expected}))
        for seq, item in enumerate(items, first):
            if seq > after:
                events.append(_event(attempt, base, seq, item))
        expected = first + entries
    return events


def decode_logs(journal: Iterable[bytes]) -> list[LogEntry]:
    """Return all log entries, oldest first: the quick way for readers that want nothing else."""
    logs = []
    for raw in journal:
        first, _, body = _head(raw)
        if body is None:
            continue
        attempt, base, items = body
        for seq, item in enumerate(items, first):
            if item[0] < STATE:
                logs.append(_log(attempt, base, seq, item))
    return logs


def _head(raw: bytes) -> tuple[int, int, Any]:
    """Return a stored batch's first position, its length, and its body; the body is None where it cannot be read."""
    try:
        first, entries, _, data = raw.split(b" ", 3)
        start, length = int(first), int(entries)
    except ValueError:
        return 0, 0, None
    try:
        attempt, base, items = unpack(data)
    except (ValueError, TypeError):
        return start, length, None
    return start, length, (attempt, base, items)


def _log(attempt: int, base: int, seq: int, item: Sequence[Any]) -> LogEntry:
    code, after_ms, message, *rest = item
    meta, logger = (*rest, None, None)[:2]
    return LogEntry(level_name(code), message, base + after_ms, attempt, seq, meta, logger)


def _event(attempt: int, base: int, seq: int, item: Sequence[Any]) -> Event:
    if item[0] < STATE:
        return Event("log", seq, base + item[1], _log(attempt, base, seq, item))
    return Event("state", seq, base + item[1], {"attempt": attempt, **item[2]})
