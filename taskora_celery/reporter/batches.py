"""From the log entries that were taken to the journal's batches.

Nearly all entries are plain as they are: a text, and a mapping of texts and numbers under names that are shown. That this is so
is found for hundreds of them at once, by calls that run over a whole column in C: 0.3 us per entry, where :func:`plain_entry`
takes 1.1. It has the others, and all that are in one batch with such.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat
from operator import add
from types import NoneType
from typing import Any

from taskora_celery.encoding import FLAT
from taskora_celery.redaction import REDACTED, TRACEBACK, Redactor
from taskora_celery.reporter.report import LOG_SLOTS, entries_in
from taskora_celery.reporter.taking import PlainEntry, plain_entry
from taskora_celery.store.journal import BATCH_ENTRIES, STATE, LogColumns, encode, encode_columns
from taskora_celery.store.protocol import Batch

__all__ = ["batches"]


def batches(
    attempt: int, taken: list[Any], redactor: Redactor, entry_bytes: int, log_limit: int
) -> Iterator[tuple[Batch, Iterable[PlainEntry]]]:
    """Yield batches of entries that are plain, redacted and bounded, each with the entries that are in it.

    ``taken`` is what :meth:`~taskora_celery.reporter.report.JobReport.take_logs` returns; its mappings are changed.
    """
    size = min(BATCH_ENTRIES, max(log_limit, 1)) * LOG_SLOTS
    for at in range(0, len(taken), size):
        fields = taken[at : at + size]
        logs = _plain_columns(fields, redactor)
        batch = None if logs is None else _packed(attempt, logs, entry_bytes)
        if logs is None or batch is None:
            entries = [plain_entry(entry, redactor, entry_bytes) for entry in entries_in(fields)]
            yield from ((one, entries) for one in encode(attempt, entries, log_limit))
        else:
            instants = map(add, repeat(logs.base), logs.offsets)
            yield batch, zip(logs.codes, instants, logs.messages, logs.metas, logs.loggers, strict=True)


def _packed(attempt: int, logs: LogColumns, entry_bytes: int) -> Batch | None:
    try:
        return encode_columns(attempt, logs, entry_bytes)
    except (TypeError, ValueError):  # a number of more than 64 bits, a text that has no UTF-8 form
        return None


def _plain_columns(fields: list[Any], redactor: Redactor) -> LogColumns | None:
    """Return entries that need no more than to be packed; None where one of them may."""
    codes, times, messages, metas, loggers = (fields[place::LOG_SLOTS] for place in range(LOG_SLOTS))
    if redactor.hook is not None or max(codes) >= STATE or set(map(type, messages)) != {str}:
        return None
    if any(metas) and not _are_plain(metas, redactor):
        return None
    if not all(metas):
        metas = [meta or None for meta in metas]
    base = int(times[0] * 1000)
    return LogColumns(base, [int(at * 1000) - base for at in times], codes, messages, metas, loggers)


def _are_plain(metas: Sequence[Any], redactor: Redactor) -> bool:
    """Say whether these are mappings of texts and numbers, or None; what is not to be seen in them is taken out."""
    if not set(map(type, metas)) <= {dict, NoneType}:
        return False
    found = metas if all(metas) else [meta for meta in metas if meta]
    # The types of all keys, not of those that differ: a derived one may be equal to a text and be stored as another.
    if set(map(type, chain.from_iterable(found))) != {str}:
        return False
    keys: set[str] = set().union(*found)
    if TRACEBACK in keys:
        return False
    hidden = {key for key in keys if redactor.hides(key)}
    if hidden:
        for meta in found:
            for key in meta.keys() & hidden:
                meta[key] = REDACTED
    return set(map(type, chain.from_iterable(map(dict.values, found)))) <= FLAT
