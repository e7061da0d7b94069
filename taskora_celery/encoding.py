"""From whatever a user reports to plain data of bounded size, and from there to bytes and back.

Values are kept as MessagePack: it holds NaN and infinities, needs no escaping, and is decoded into typed records at C speed.
"""

from __future__ import annotations

import dataclasses
import enum
import numbers
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from types import NoneType
from typing import Any
from uuid import UUID

import msgspec

from taskora_celery.redaction import REDACTED, TRACEBACK, Redactor

__all__ = [
    "CUT", "FLAT", "Plain", "as_json", "encodable", "pack", "pack_small", "to_flat", "to_plain", "unpack", "unpack_all",
]  # fmt: skip

#: Ends a text that was cut.
CUT = "…[cut]"

_encoder = msgspec.msgpack.Encoder(decimal_format="string")
_decoder = msgspec.msgpack.Decoder()

#: Nesting deeper than this is shown as its repr; msgspec itself would recurse on.
_MAX_DEPTH = 32
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
#: Most log entries take fewer bytes.
_USUAL_ITEM = 128
#: An array of so many items has a head of one byte.
_FIXARRAY = 15
#: What is stored as it is, as far as its size allows. Exact types: what is derived from one may hold anything.
FLAT = frozenset({str, int, float, bool, NoneType})
#: A value from elsewhere that JSON has no form for is shown up to this size.
_SHOWN_BYTES = 1_000_000
#: More than what a text and its key, or a number, take besides their characters.
_ROOM = 16


class Plain(msgspec.Struct, frozen=True):
    """A value as it is stored: JSON-like data, and what had to be done to it."""

    value: Any
    #: None: as reported. ``"repr"``: a part could not be serialised and is its repr. ``"cut"``: it was too large.
    mark: str | None = None


def pack(value: Any) -> bytes:
    """Return plain data as bytes.

    :raises TypeError: a part of it has no plain form.
    :raises ValueError: it is nested too deeply (a circular value), or an integer has more than 64 bits.
    """
    try:
        return _encoder.encode(value)
    except (RecursionError, OverflowError) as exc:
        raise ValueError(f"cannot be serialised: {exc}") from exc


def pack_small(items: Sequence[Any], limit: int) -> msgspec.Raw | None:
    """Return a sequence of plain data as bytes for :func:`pack`, None where one item alone has more than ``limit`` bytes.

    Items are packed many in one call, since the bytes of all bound those of each: a third of what it costs one by one.

    :raises TypeError: a part of it has no plain form.
    :raises ValueError: an integer has more than 64 bits, or a text has no UTF-8 form.
    """
    step = max(limit // _USUAL_ITEM, 1)
    parts = [_array_head(len(items))]
    for at in range(0, len(items), step):
        piece = items[at : at + step]
        data = pack(piece)
        if len(data) <= limit:
            parts.append(data[len(_array_head(len(piece))) :])
            continue
        singly = [pack(item) for item in piece]
        if max(map(len, singly)) > limit:
            return None
        parts += singly
    return msgspec.Raw(b"".join(parts))


def _array_head(items: int) -> bytes:
    """Return what MessagePack puts before the items of an array of less than 65 536 (in its words: fixarray, array 16)."""
    return bytes((0x90 | items,)) if items <= _FIXARRAY else b"\xdc" + items.to_bytes(2, "big")


def unpack(data: bytes) -> Any:
    """Return the data of :func:`pack`.

    :raises ValueError: these are not the bytes of one packed value, or it is nested too deeply.
    """
    try:
        return _decoder.decode(data)
    except RecursionError as exc:
        raise ValueError(f"cannot be read: {exc}") from exc


def unpack_all(items: list[bytes]) -> list[Any]:
    """Return the packed values that can be read; one that cannot be is left out, since it tells nothing."""
    values = []
    for item in items:
        try:
            values.append(unpack(item))
        except ValueError:
            continue
    return values


def as_json(value: Any) -> bytes:
    """Return what was read from elsewhere as JSON; what JSON has no form for (a key that is no text, say) is its repr there."""
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError):
        return msgspec.json.encode(to_plain(value, Redactor(), _SHOWN_BYTES).value)


def encodable(text: str) -> str:
    """Return text that has a UTF-8 form: lone surrogates, which JSON from elsewhere may hold, are written out."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def to_plain(value: Any, redactor: Redactor, limit: int) -> Plain:
    """Return ``value`` as plain, redacted data of about ``limit`` bytes at most. Never raises for what a value holds."""
    kind = type(value)
    if kind is float or value is None or kind is bool or (kind is int and _INT_MIN <= value <= _INT_MAX):
        return Plain(value)
    walk = _Walk(redactor, limit)
    return Plain(walk.plain(value, 0), walk.mark)


def to_flat(value: dict[Any, Any], redactor: Redactor, limit: int) -> dict[str, Any] | None:
    """Return a mapping of texts and numbers as :func:`to_plain` does; None for one that takes its whole care.

    It has at most ``limit`` bytes when it is packed. Most of what is logged with an entry is no more than that.
    """
    if redactor.hook is not None:
        return None
    hides, result = redactor.hides, {}
    for key, item in value.items():
        if type(key) is not str or key == TRACEBACK:
            return None
        if hides(key):
            result[key] = REDACTED
        elif type(item) in FLAT:
            result[key] = item
        else:
            return None
    try:
        return result if len(pack(result)) <= limit else None
    except ValueError:  # an integer of more than 64 bits, a text that has no UTF-8 form
        return None


class _Walk:
    """One pass over one value, with what is left of its size."""

    __slots__ = ("left", "mark", "open", "redactor")

    def __init__(self, redactor: Redactor, limit: int) -> None:
        self.redactor = redactor
        self.left = limit
        self.mark: str | None = None
        self.open: set[int] = set()

    def plain(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind is str:
            return self.text(value)
        self.left -= 8
        if kind is float or value is None or kind is bool:
            return value
        if isinstance(value, dict | list | tuple | AbstractSet | Mapping):
            return self.container(value, depth)
        return self.leaf(value, depth)

    def text(self, value: str) -> str:
        if len(value) > self.left:
            value = value[: max(self.left, 0)] + CUT
            self.mark = "cut"
        self.left -= len(value) + 2
        if not value.isascii():
            # Lone surrogates (a file name that is not UTF-8) have no UTF-8 form.
            value = encodable(value)
        return value

    def container(self, value: Any, depth: int) -> Any:
        if depth >= _MAX_DEPTH or id(value) in self.open:
            self.mark = "repr"
            return "<circular>" if id(value) in self.open else "<nested too deeply>"
        self.open.add(id(value))
        try:
            return self.mapping(value, depth) if isinstance(value, Mapping) else self.items(value, depth)
        except Exception:  # noqa: BLE001 - a user's container, or one that the handler changed while it was read
            return self.shown(value)
        finally:
            self.open.discard(id(value))

    def mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        redactor, result = self.redactor, {}
        for key, item in list(value.items()):
            if self.left <= 0:
                self.mark = "cut"
                break
            name = self.text(key if type(key) is str else _safe_str(key))
            seen = redactor.value(name, item)
            result[name] = self.plain(seen, depth + 1)
        return result

    def items(self, value: Any, depth: int) -> list[Any]:
        result = []
        for item in list(value) if isinstance(value, AbstractSet) else value:
            if self.left <= 0:
                self.mark = "cut"
                break
            result.append(self.plain(item, depth + 1))
        return result

    def leaf(self, value: Any, depth: int) -> Any:
        try:
            if isinstance(value, bytes | bytearray):
                return self.octets(value)
            if isinstance(value, numbers.Integral):
                number = int(value)
                return number if _INT_MIN <= number <= _INT_MAX else self.shown(number)
            if isinstance(value, numbers.Real):
                return float(value)
            plain = _known_form(value)
        except Exception:  # noqa: BLE001 - a user's class may raise in any of its methods
            return self.shown(value)
        return self.shown(value) if plain is None or depth >= _MAX_DEPTH else self.plain(plain, depth + 1)

    def octets(self, value: bytes | bytearray) -> str:
        # Only what may be kept is decoded: of a hundred megabytes each byte that is no UTF-8 would cost its error.
        return self.text(bytes(value[: max(self.left, 0) + 1]).decode("utf-8", "backslashreplace"))

    def shown(self, value: Any) -> str:
        """Return the repr of what has no plain form; a repr may hold secrets, too."""
        self.mark = "repr"
        return self.text(self.redactor.text(_safe_repr(value, self.left), "repr"))


def _known_form(value: Any) -> Any:
    """Return the form that people expect of the types that people report, or None."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, UUID | Decimal | PurePath):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, timedelta):
        return value.total_seconds()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {_safe_str(value)}"
    return _model_form(value)


def _model_form(value: Any) -> Any:
    """Return a pydantic model's own plain form; other objects have none."""
    dump = getattr(type(value), "model_dump", None)
    if dump is None:
        return None
    try:
        return dump(value, mode="json")
    except Exception:  # noqa: BLE001 - a user's serializer; its repr is used instead
        return None


def _safe_str(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a user's __str__
        return f"<{type(value).__name__}: str failed>"


def _safe_repr(value: Any, limit: int) -> str:
    try:
        return repr(value)[: max(limit, 0) + 1]
    except Exception:  # noqa: BLE001 - a user's __repr__
        return f"<{type(value).__name__}: repr failed>"
