"""The journal's batches: many entries in one value.

A batch is ``[attempt, base_ms, [entry, …]]``. A log entry is ``[level code, ms after base, message, meta, logger]``, other
entries are ``[code, ms after base, {…}]``. A reader leaves out what it cannot read and says so with a gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import NoneType
from typing import Any, NamedTuple

from taskora_celery.encoding import pack, pack_small, unpack
from taskora_celery.records import Event, LogEntry, Outcome, level_name
from taskora_celery.store.protocol import Batch, CancelRequest, Ended, Loss

__all__ = [
    "BATCH_ENTRIES", "CANCEL", "STALLED", "STATE", "LogColumns", "decode", "decode_logs", "encode", "encode_cancel",
    "encode_columns", "encode_loss", "encode_retry",
]  # fmt: skip

#: Codes below are log levels.
STATE = 10
#: A step of a cancel: requested, delivered, interrupted, killed, ended.
CANCEL = 11
#: The class of the error that ends a job which was lost or stalled too often.
STALLED = "JobStalledError"
#: So long a batch at most: the journal is trimmed by whole batches.
BATCH_ENTRIES = 500

#: What readers take as text or number in the data of a state or a cancel; what else is in it is a newer version's.
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("reason", "error", "worker", "by"), (str, NoneType)),
    **dict.fromkeys(("attempt", "delivery", "delay", "next_ms"), (int, float, NoneType)),
}

#: What a batch of another version, or a damaged one, may raise while it is taken apart.
_UNREADABLE = (ValueError, TypeError, LookupError)

#: Where a log entry has what it need not have.
_META, _LOGGER = 3, 4

#: ``(code, instant in ms, message or data, meta, logger)``, as the reporter hands them over; data for a code >= STATE.
Entry = tuple[int, int, Any, Any, str | None]


class LogColumns(NamedTuple):
    """Log entries as they are stored, field by field; each field has as many items as there are entries."""

    #: The instant of the first entry in milliseconds since the epoch, and how long after it each is.
    base: int
    offsets: Sequence[int]
    codes: Sequence[int]
    messages: Sequence[str]
    #: Mappings that are not empty, or None.
    metas: Sequence[dict[str, Any] | None]
    loggers: Sequence[str | None]


def encode(attempt: int, entries: Sequence[Entry], limit: int) -> tuple[Batch, ...]:
    """Return entries as batches of at most ``limit`` entries."""
    size = min(BATCH_ENTRIES, max(limit, 1))
    return tuple(_batch(attempt, entries[at : at + size]) for at in range(0, len(entries), size))


def encode_loss(loss: Loss) -> bytes:
    """Return the journal's entry of a lost delivery."""
    data = {"state": Outcome.LOST, "reason": loss.reason, "error": loss.error, "worker": loss.worker}
    return _batch(loss.attempt, [(STATE, loss.now_ms, data, None, None)]).data


def encode_retry(ended: Ended) -> bytes:
    """Return the journal's entry of an attempt that ends in a retry; empty for another end, which the record alone tells."""
    keep = ended.keep
    if keep is None or keep.outcome != Outcome.RETRY:
        return b""
    data = {
        "state": Outcome.RETRY, "reason": keep.reason, "error": keep.error, "delay": keep.delay, "next_ms": keep.next_ms,
    }  # fmt: skip
    return _batch(keep.number, [(STATE, ended.at_ms, data, None, None)]).data


def encode_cancel(request: CancelRequest) -> bytes:
    """Return the journal's entry of a request to cancel."""
    data: dict[str, Any] = {"phase": "requested", "reason": request.reason, "by": request.by}
    if request.gently:
        data["gently"] = True
    return _batch(0, [(CANCEL, request.now_ms, data, None, None)]).data


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


def encode_columns(attempt: int, logs: LogColumns, entry_bytes: int) -> Batch | None:
    """Return log entries as one batch, None where one of them has more than ``entry_bytes`` bytes.

    :raises TypeError: a part of it has no plain form.
    :raises ValueError: an integer has more than 64 bits, or a text has no UTF-8 form.
    """
    columns: list[Sequence[Any]] = [logs.codes, logs.offsets, logs.messages]
    # What no entry has takes no place; what some have is null in the others, and read as none.
    if any(logs.loggers):
        columns += [logs.metas, logs.loggers]
    elif any(logs.metas):
        columns.append(logs.metas)
    items = pack_small(list(zip(*columns, strict=True)), entry_bytes)
    return None if items is None else Batch(len(logs.codes), len(logs.codes), pack((attempt, logs.base, items)))


def decode(journal: Iterable[bytes], after: int = -1) -> list[Event]:
    """Return the entries after position ``after`` as events, with a ``gap`` event wherever some are missing."""
    events: list[Event] = []
    expected = after + 1
    for raw in journal:
        try:
            first, entries, body = _head(raw)
            if first + entries <= after + 1:
                continue
            attempt, base, items = _body(body)
            found = [_event(attempt, base, seq, item) for seq, item in enumerate(items, first) if seq > after]
        except _UNREADABLE:
            continue  # the jump in the positions shows as a gap before the next batch
        if first > expected:
            events.append(Event("gap", first - 1, base, {"count": first - expected}))
        events += found
        expected = first + entries
    return events


def decode_logs(journal: Iterable[bytes]) -> list[LogEntry]:
    """Return all log entries, oldest first: the quick way for readers that want nothing else."""
    logs: list[LogEntry] = []
    for raw in journal:
        try:
            first, _, body = _head(raw)
            attempt, base, items = _body(body)
            logs += [_log(attempt, base, seq, item) for seq, item in enumerate(items, first) if item[0] < STATE]
        except _UNREADABLE:
            continue
    return logs


def _body(body: bytes) -> tuple[int, int, list[Any]]:
    """Return a batch's attempt, its base, and its entries."""
    attempt, base, items = unpack(body)
    if type(attempt) is not int or type(base) is not int or type(items) is not list:
        raise ValueError("no batch")
    return attempt, base, items


def _head(raw: bytes) -> tuple[int, int, bytes]:
    """Return a stored batch's first position, its length, and its packed body."""
    first, entries, _, data = raw.split(b" ", 3)
    return int(first), int(entries), data


def _log(attempt: int, base: int, seq: int, item: Sequence[Any]) -> LogEntry:
    # By position, and no more than is there: a reader of a long log spends its time here.
    given = len(item)
    message = item[2]
    meta = item[_META] if given > _META else None
    logger = item[_LOGGER] if given > _LOGGER else None
    if type(message) is not str or not (meta is None or type(meta) is dict) or not (logger is None or type(logger) is str):
        raise ValueError("no log entry")
    return LogEntry(level_name(item[0]), message, base + item[1], attempt, seq, meta, logger)


def _event(attempt: int, base: int, seq: int, item: Sequence[Any]) -> Event:
    if item[0] < STATE:
        return Event("log", seq, base + item[1], _log(attempt, base, seq, item))
    kind, key = ("cancel", "phase") if item[0] == CANCEL else ("state", "state")
    data = {"attempt": attempt, **item[2]}
    if type(data[key]) is not str:
        raise ValueError(f"no {kind}")
    for name, kinds in _KINDS.items():
        if not isinstance(data.get(name), kinds):
            raise TypeError(f"{kind}: {name}")
    return Event(kind, seq, base + item[1], data)
