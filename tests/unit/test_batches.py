"""Log entries by the batch: the quick way ends where the exact one does."""

from __future__ import annotations

import enum
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskora_celery.context import Context
from taskora_celery.encoding import CUT, pack, pack_small, unpack
from taskora_celery.records import LogEntry
from taskora_celery.redaction import REDACTED, Redactor
from taskora_celery.reporter import batches as module
from taskora_celery.reporter.batches import batches
from taskora_celery.reporter.report import entries_in
from taskora_celery.reporter.taking import PlainEntry, plain_entry
from taskora_celery.store.journal import STATE, decode, decode_logs, encode
from taskora_celery.store.protocol import Batch

REDACTOR = Redactor()
SECRET = "hunter2hunter2"
NOW = 1_790_000_000.0
LIMIT = 300  # bytes of an entry


class Name(str, enum.Enum):
    """A name that is no exact text."""

    ROW = "row"
    TOKEN = "token"


flat_values = st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | st.text(max_size=40)
values = flat_values | st.lists(st.integers(), max_size=3) | st.sampled_from([Name.ROW, b"\xff", object, {"token": SECRET}])
names = st.sampled_from(["row", "token", "X-Api-Key", "traceback", *Name])
keys = st.text(max_size=6) | names | st.integers()
metas = st.none() | st.dictionaries(st.text(max_size=6), flat_values, max_size=4) | st.dictionaries(keys, values, max_size=4)
messages = st.text(max_size=40) | st.integers() | st.sampled_from([None, {"token": SECRET}, "x" * 1_000])
entries = st.tuples(
    st.integers(1, 4), st.floats(NOW, NOW + 100), messages, metas, st.none() | st.sampled_from(["celery.task.work"])
)  # fmt: skip


def stored(found: list[Batch]) -> list[bytes]:
    """Return batches as a store keeps them."""
    raws, first = [], 0
    for batch in found:
        raws.append(b"%d %d %d %b" % (first, batch.entries, batch.logs, batch.data))
        first += batch.entries
    return raws


def taken(*found: tuple[Any, ...]) -> list[Any]:
    """Return entries as they wait in a report, each with a mapping of its own."""
    return [field for code, at, text, meta, logger in found for field in (code, at, text, _copy(meta), logger)]


def _copy(meta: Any) -> Any:
    return meta.copy() if isinstance(meta, dict) else meta


def made(*found: tuple[Any, ...], redactor: Redactor = REDACTOR, log_limit: int = 10_000) -> list[tuple[Batch, list[PlainEntry]]]:
    return [(batch, list(plain)) for batch, plain in batches(1, taken(*found), redactor, LIMIT, log_limit)]


def read(*found: tuple[Any, ...], redactor: Redactor = REDACTOR) -> list[LogEntry]:
    return decode_logs(stored([batch for batch, _ in made(*found, redactor=redactor)]))


def exactly(*found: tuple[Any, ...], redactor: Redactor = REDACTOR) -> list[LogEntry]:
    plain = [plain_entry(entry, redactor, LIMIT) for entry in entries_in(taken(*found))]
    return decode_logs(stored(list(encode(1, plain, 10_000))))


@given(st.lists(entries, min_size=1, max_size=12))
def test_entries_are_stored_as_one_by_one(found: list[tuple[Any, ...]]) -> None:
    """F2, F3, F7: whatever they hold, and whatever they stand beside."""
    assert repr(read(*found)) == repr(exactly(*found))  # as text: NaN is not equal to itself


@given(st.lists(entries, min_size=1, max_size=12))
def test_entries_are_repeated_to_python_logging_as_they_are_stored(found: list[tuple[Any, ...]]) -> None:
    """F6, F7: with the same instants, and without what must not be seen."""
    said = [entry for _, plain in made(*found) for entry in plain]
    shown = [(entry.timestamp, entry.message, entry.meta, entry.logger) for entry in read(*found)]
    assert repr([(ms, text, meta or None, logger) for _, ms, text, meta, logger in said]) == repr(shown)


ordinary = (2, NOW, "row stored", {"source": "orders.csv", "row": 1}, None)


def test_what_is_ordinary_takes_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """P4: also where an entry has no meta, a key that is hidden, a text that is not ASCII."""
    monkeypatch.setattr(module, "plain_entry", None)
    found = [
        ordinary, (1, NOW, "bare", None, None), (3, NOW, "grüße", {"größe": 1.5, "token": {"deep": SECRET}}, None),
        (4, NOW, "captured", {}, "celery.task.work"),
    ]  # fmt: skip
    assert [(entry.message, entry.meta, entry.logger) for entry in read(*found)] == [
        ("row stored", {"source": "orders.csv", "row": 1}, None), ("bare", None, None),
        ("grüße", {"größe": 1.5, "token": REDACTED}, None), ("captured", None, "celery.task.work"),
    ]  # fmt: skip


@pytest.mark.parametrize("key", ["token", "X-Api-Key", Name.TOKEN, "dbPassword"])
@pytest.mark.parametrize("beside", [0, 1, 600])
def test_what_must_not_be_seen_is_taken_out_of_a_batch(key: str, beside: int) -> None:
    """F7: wherever in the batch it stands."""
    found = [ordinary] * beside + [(2, NOW, "m", {key: SECRET, "row": 1}, None)] + [ordinary] * beside
    every = made(*found)
    assert SECRET not in str(every)
    assert sum(REDACTED.encode() in batch.data for batch, _ in every) == 1


def test_a_traceback_is_cleaned_in_a_batch() -> None:
    """F7: it is a text like any other, but ends in what an exception said."""
    found = [ordinary, (4, NOW, "m", {"traceback": f"ValueError: token={SECRET}"}, None), ordinary]
    assert read(*found)[1].meta == {"traceback": f"ValueError: token={REDACTED}"}


def test_a_key_that_only_equals_a_text_is_not_taken_for_it() -> None:
    """F7: a derived text may say that it is equal to another, and is packed by what it holds."""

    class Sly(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return hash("row")

    found = [ordinary, (2, NOW, "m", {Sly("token"): SECRET}, None)]
    assert SECRET not in str(made(*found))


def test_the_users_hook_is_asked_for_each_entry() -> None:
    """F7: a rule of the user's sees every value."""
    redactor = Redactor(hook=lambda key, value: f"{key}!")
    (entry,) = read(ordinary, redactor=redactor)
    assert (entry.message, entry.meta) == ("message!", {"source": "source!", "row": "row!"})


@pytest.mark.parametrize("place", range(3))
def test_a_long_entry_is_cut_and_its_neighbours_are_not(place: int) -> None:
    """F3: a cap in bytes for each entry, and not for what is packed together."""
    fits = (2, NOW, "y" * 250, {"row": 1}, None)
    found = [fits, fits]
    found.insert(place, (2, NOW, "x" * 301, {"row": 1}, None))
    texts = [entry.message for entry in read(*found)]
    assert texts.pop(place) == "x" * LIMIT + CUT
    assert texts == ["y" * 250] * 2


def test_no_entry_is_larger_than_the_cap() -> None:
    """F3: in bytes as they are packed, for text that is not ASCII, too."""
    for size in range(250, 310):
        for _, ((_, _, message, meta, _),) in made((2, NOW, "m", {"text": "x" * size}, None)):
            assert len(pack((message, meta))) <= LIMIT + len(CUT.encode()) + 16


def test_the_steps_of_a_job_stand_among_its_entries() -> None:
    """I4, F2: in the order in which they were written."""
    step = (STATE, NOW + 1, {"state": "RETRY", "reason": "x"}, None, None)
    (batch, _), = made(ordinary, step, ordinary)  # fmt: skip
    assert [event.kind for event in decode(stored([batch]))] == ["log", "state", "log"]
    assert (batch.entries, batch.logs) == (3, 2)


@pytest.mark.parametrize(("count", "log_limit", "sizes"), [(1_200, 10_000, [500, 500, 200]), (5, 2, [2, 2, 1]), (1, 1, [1])])
def test_a_batch_has_so_many_entries_at_most(count: int, log_limit: int, sizes: list[int]) -> None:
    """F3: the journal is trimmed by whole batches."""
    found = [(2, NOW + n / 1000, f"m{n}", None, None) for n in range(count)]
    every = made(*found, log_limit=log_limit)
    assert [batch.entries for batch, _ in every] == sizes
    logs = decode_logs(stored([batch for batch, _ in every]))
    assert [entry.message for entry in logs] == [f"m{n}" for n in range(count)]


def test_what_no_entry_has_takes_no_place() -> None:
    """P5: a text alone is three fields."""
    (batch, _), = made((2, NOW, "m", None, None), (2, NOW, "n", {}, None))  # fmt: skip
    assert unpack(batch.data) == [1, int(NOW * 1000), [[2, 0, "m"], [2, 0, "n"]]]


def test_a_mapping_of_another_type_is_read_with_care() -> None:
    """F1: what an older entry or a captured record may bring."""
    (entry,) = read((2, NOW, "m", OrderedDict(row=1), None))
    assert entry.meta == {"row": 1}


@given(st.lists(st.text(max_size=30), max_size=200), st.integers(20, 4_000))
def test_small_items_are_packed_as_one_sequence(items: list[str], limit: int) -> None:
    """P4: as if they were packed at once, unless one alone is too large."""
    found = pack_small(items, limit)
    if found is None:
        assert max(len(pack(item)) for item in items) > limit
    else:
        assert bytes(memoryview(found)) == pack(items)
        assert all(len(pack(item)) <= limit for item in items)


def test_the_buffer_never_holds_much_more_than_its_limit() -> None:
    """F3: a little more than its limit before the oldest are dropped, and no more than that when it is taken."""
    ctx = Context("job-1", "work", buffer_limit=320)
    for n in range(1_000):
        ctx.log.info(f"{n}")
        assert len(ctx.entries()) <= 340
    first, found = ctx.take_logs()
    assert (first, ctx.dropped) == (680, 680)
    assert [entry[2] for entry in entries_in(found)] == [f"{n}" for n in range(680, 1_000)]
