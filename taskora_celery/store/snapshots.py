"""Records as Redis has them: what is asked for, and what the answer means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from taskora_celery.records import AttemptRecord
from taskora_celery.store.keys import RECORD_FIELDS, JobKeys
from taskora_celery.store.protocol import Snapshot

__all__ = ["attempts_in", "number_in", "read_arguments", "read_snapshot"]

_TEXT = frozenset("snwrzlT")
_PACKED = frozenset("pkj")
_NUMBER = re.compile(rb"-?[0-9]{1,16}")
#: Lua's numbers are exact up to here.
_GREATEST = 2**53
_attempt_decoder = msgspec.msgpack.Decoder(AttemptRecord)


def attempts_in(items: Sequence[bytes]) -> tuple[AttemptRecord, ...]:
    """Return packed records of attempts, less those that cannot be read."""
    records = []
    for item in items:
        try:
            records.append(_attempt_decoder.decode(item))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # another version's: the others still tell something
            continue
    return tuple(records)


def read_arguments(keys: JobKeys, job_id: str, skip: int | None, attempts: bool) -> list[str | int]:
    """Return the keys and arguments of ``read.lua``."""
    return [
        *keys.of(job_id), len(RECORD_FIELDS), *RECORD_FIELDS, "" if skip is None else skip, "1" if attempts else "",
    ]  # fmt: skip


def read_snapshot(answer: Any, names: Sequence[str] = RECORD_FIELDS) -> Snapshot | None:
    """Return what ``read.lua`` answered, or None where there is no record; ``names`` are the fields that were asked for."""
    values, removed, journal, attempts = answer
    fields: dict[str, Any] = {}
    for name, value in zip(names, values, strict=True):
        if value is None:
            continue
        data = value if isinstance(value, bytes) else str(value).encode()
        if name in _PACKED:
            fields[name] = data
        elif name in _TEXT:
            fields[name] = data.decode("utf-8", "replace")
        else:
            fields[name] = number_in(data)
    if not fields:
        return None
    return Snapshot(fields, int(removed), tuple(journal), attempts_in(attempts))


def number_in(data: bytes) -> int:
    """Return a number as a script writes it, 0 for anything else."""
    number = int(data) if _NUMBER.fullmatch(data) else 0
    return number if -_GREATEST <= number <= _GREATEST else 0
