"""From whatever a user reports to plain data of bounded size."""

from __future__ import annotations

import array
import contextlib
import dataclasses
import enum
import math
from collections import OrderedDict, UserDict, deque, namedtuple
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskora_celery.encoding import CUT, pack, to_flat, to_plain, unpack, unpack_all
from taskora_celery.redaction import REDACTED, Redactor

REDACTOR = Redactor()
LIMIT = 65_536


def plain(value: Any, limit: int = LIMIT) -> Any:
    return to_plain(value, REDACTOR, limit).value


def mark(value: Any, limit: int = LIMIT) -> str | None:
    return to_plain(value, REDACTOR, limit).mark


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Text(str):
    __slots__ = ()


@dataclasses.dataclass
class Row:
    id: int
    tags: set[str]


class Point(msgspec.Struct):
    x: int


Pair = namedtuple("Pair", "a b")  # noqa: PYI024 - the untyped kind is what people have


@pytest.mark.parametrize(
    "value", [None, True, 0, -5, 1.5, "text", "ünï", [], {}, [1, "a", None], {"a": {"b": [1.5]}}, 2**64 - 1, -(2**63)]
)
def test_json_values_are_stored_as_they_are(value: Any) -> None:
    """E6: what is read is what was reported."""
    assert (plain(value), mark(value)) == (value, None)
    assert unpack(pack(plain(value))) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2026, 1, 2, 3, 4, tzinfo=timezone.utc), "2026-01-02T03:04:00+00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (timedelta(minutes=1.5), 90.0),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Decimal("1.10"), "1.10"),
        (Fraction(1, 4), 0.25),
        (PurePosixPath("/a/b"), "/a/b"),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Text("t"), "t"),
        (b"abc", "abc"),
        (bytearray(b"abc"), "abc"),
        (Row(1, {"a"}), {"id": 1, "tags": ["a"]}),
        (Point(4), {"x": 4}),
        (Pair(1, 2), [1, 2]),
        (OrderedDict(a=1), {"a": 1}),
        (UserDict(a=1), {"a": 1}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        ({1: "a", None: "b"}, {"1": "a", "None": "b"}),
        ((1, (2,)), [1, [2]]),
        (frozenset({7}), [7]),
        (ValueError("no"), "ValueError: no"),
    ],
    ids=repr,
)
def test_common_types_have_the_form_that_people_expect(value: Any, expected: Any) -> None:
    """E2: and are no reason for a warning."""
    assert (plain(value), mark(value)) == (expected, None)


def test_a_pydantic_model_is_its_own_dump() -> None:
    """E2: in the form for JSON."""
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Model", at=(datetime, ...), n=(int, 3))
    assert plain(model(at=datetime(2026, 1, 2, tzinfo=timezone.utc))) == {"at": "2026-01-02T00:00:00Z", "n": 3}


def test_numbers_of_other_libraries_are_numbers() -> None:
    """E2: NumPy registers its scalars as `numbers.Integral` and `numbers.Real`; these are such without NumPy."""
    import numbers

    class Int64(int):
        pass

    class Float32:
        def __float__(self) -> float:
            return 2.5

    numbers.Real.register(Float32)
    assert (plain(Int64(7)), plain(Float32()), mark([Int64(7), Float32()])) == (7, 2.5, None)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinities_are_stored_and_read(value: float) -> None:
    """E2: reading them back never raises."""
    back = unpack(pack(plain({"v": value, "l": [value]})))
    assert repr(back) == repr({"v": value, "l": [value]})


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**30])
def test_whole_numbers_beyond_64_bits_are_text_and_marked(value: int) -> None:
    """E2: no number format of the wire holds them."""
    assert (plain(value), mark(value)) == (str(value), "repr")


def test_a_number_of_ten_thousand_digits_does_not_fail() -> None:
    """E2: Python itself refuses to print it."""
    assert mark([10**10_000]) == "repr"


def test_a_fraction_that_no_float_holds_is_marked() -> None:
    """E2: `float()` overflows."""
    assert mark({"f": Fraction(10**400)}) == "repr"


def test_bytes_that_are_no_utf8_are_shown_escaped() -> None:
    """E2: fault 17."""
    assert plain(b"a\xff") == "a\\xff"


def test_lone_surrogates_are_shown_escaped() -> None:
    """E2: a file name that is not UTF-8 looks like this."""
    value = plain({"name\udcff": "x\ud800"})
    assert value == {"name\\udcff": "x\\ud800"}
    assert unpack(pack(value)) == value


def test_a_circular_value_is_cut_where_it_closes() -> None:
    """E2: fault 17."""
    circle: list[Any] = [1]
    circle.append({"again": circle})
    assert (plain(circle), mark(circle)) == ([1, {"again": "<circular>"}], "repr")


def test_the_same_value_twice_is_no_circle() -> None:
    """E2: only what contains itself is circular."""
    part = [1]
    assert (plain([part, part]), mark([part, part])) == ([[1], [1]], None)


def test_a_value_that_is_nested_without_end_is_cut() -> None:
    """E2: no recursion error, in the reporter or in a reader."""
    deep: Any = 0
    for _ in range(5_000):
        deep = [deep]
    assert mark(deep) == "repr"
    assert unpack(pack(plain(deep)))


def test_a_dataclass_that_holds_itself_ends() -> None:
    """E2: its plain form is new each time, so it is known by its depth."""

    @dataclasses.dataclass
    class Node:
        left: Any = None
        right: Any = None

    node = Node()
    node.left = node.right = node
    assert mark(node) in {"repr", "cut"}


@pytest.mark.parametrize(
    "value",
    ["x" * 10_000_000, ["y" * 100] * 100_000, {str(n): n for n in range(200_000)}, list(range(10**6))],
    ids=["text", "list", "dict", "ints"],
)
def test_a_huge_value_is_cut_and_marked(value: Any) -> None:
    """E2: bounded, whatever shape it has."""
    assert mark(value, 1_000) == "cut"
    assert len(pack(plain(value, 1_000))) < 4_000


def test_a_text_that_was_cut_says_so() -> None:
    """E2: a reader must not take it for the whole."""
    assert plain("abcdef" * 100, 10).endswith(CUT)


class Raises:
    """Raises in each method that somebody might call."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __str__(self) -> str:
        raise RuntimeError("no str")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __iter__(self) -> Any:
        raise RuntimeError("no iter")

    def __bool__(self) -> bool:
        raise RuntimeError("no bool")

    def __len__(self) -> int:
        raise RuntimeError("no len")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no eq")

    __hash__ = object.__hash__


class RaisingDict(dict[str, Any]):
    def items(self) -> Any:
        raise LookupError("no items")


class RaisingList(list[Any]):
    def __iter__(self) -> Any:
        raise ZeroDivisionError


class RaisingInt(int):
    def __int__(self) -> int:
        raise ArithmeticError

    __index__ = __int__


class RaisingModel:
    def model_dump(self, **_: Any) -> Any:
        raise TypeError("cannot dump")


@dataclasses.dataclass
class RaisingField:
    value: int = 0

    def __getattribute__(self, name: str) -> Any:
        if name == "value":
            raise OSError("detached")
        return super().__getattribute__(name)


RAISING = [
    Raises(),
    RaisingDict(a=1),
    RaisingList([1]),
    RaisingModel(),
    RaisingField(),
    {"in": [Raises()]},
    {Raises(): 1},
    [RaisingInt(3)],
]


@pytest.mark.parametrize("value", RAISING, ids=lambda value: type(value).__name__)
def test_objects_whose_methods_raise_do_not(value: Any) -> None:
    """E2: a value never fails the job."""
    pack(plain(value))


@pytest.mark.parametrize(
    "value", [object(), lambda: 1, iter([1]), (n for n in [1]), Ellipsis, array.array("i", [1]), deque([1]), type], ids=str
)
def test_what_has_no_plain_form_is_its_repr_and_marked(value: Any) -> None:
    """E2: better than nothing, and warned about."""
    assert (plain(value), mark(value)) == (repr(value), "repr")


def test_a_set_that_changes_while_it_is_read_is_shown_by_its_repr() -> None:
    """E2: the handler goes on while its value is read; the next report will have it whole."""

    class Changing(set[int]):
        def __iter__(self) -> Any:
            raise RuntimeError("Set changed size during iteration")

    assert mark([Changing({1})]) == "repr"


def test_a_list_that_grows_while_it_is_read_ends() -> None:
    """E2: and so does the reading."""

    class Growing(list[int]):
        def __iter__(self) -> Any:
            n = 0
            while True:
                yield n
                n += 1

    assert mark(Growing(), 1_000) == "cut"


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=30,
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)) | st.binary() | st.decimals()
    | st.datetimes() | st.timedeltas() | st.uuids() | st.fractions() | st.complex_numbers() | st.builds(RaisingModel),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.integers() | st.text() | st.binary(), inner)
    | st.builds(Row, inner, inner) | st.builds(Pair, inner, inner),
    max_leaves=30,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(json_like)
def test_every_json_value_comes_back_as_it_was(value: Any) -> None:
    """E6: whatever it holds (keys that name a secret aside)."""
    result = to_plain(value, Redactor(), 10**6)
    if "[redacted]" not in repr(result.value):
        assert (unpack(pack(result.value)), result.mark) == (value, None)


@settings(max_examples=200, deadline=None)
@given(anything, st.integers(64, 5_000))
def test_no_value_at_all_raises_or_grows(value: Any, limit: int) -> None:
    """E2: it can be packed, read back, and is of about the size that was asked for."""
    result = to_plain(value, REDACTOR, limit)
    data = pack(result.value)
    unpack(data)
    assert len(data) <= 12 * limit + 1_000
    assert result.mark in {None, "repr", "cut"}


@settings(max_examples=200, deadline=None)
@given(st.binary())
def test_garbage_is_a_value_error_and_nothing_else(data: bytes) -> None:
    """Fault 22: readers know what to expect of damaged bytes."""
    with contextlib.suppress(ValueError):
        unpack(data)
    assert isinstance(unpack_all([data, pack(1)]), list)


@pytest.mark.parametrize("value", [object(), {1, 2, object()}, Row])
def test_packing_what_is_not_plain_is_a_type_error(value: Any) -> None:
    """E8: a checkpoint is refused at the call."""
    with pytest.raises(TypeError):
        pack(value)


def test_packing_a_circle_or_a_giant_is_a_value_error() -> None:
    """E8: and not a recursion error."""
    circle: list[Any] = []
    circle.append(circle)
    for value in (circle, 2**64):
        with pytest.raises(ValueError, match="cannot be serialised"):
            pack(value)


@given(
    st.dictionaries(
        st.text(max_size=8) | st.integers() | st.sampled_from(["password", "row"]), json_like | st.integers(), max_size=6
    ),
    st.integers(64, 500),
)
def test_the_short_way_for_a_flat_mapping_ends_where_the_long_one_does(value: Any, limit: int) -> None:
    """F2, F7: or it says that it does not know the way."""
    flat = to_flat(value, REDACTOR, limit)
    if flat is not None:
        long = to_plain(value, REDACTOR, 100_000)
        assert long.mark is None
        assert pack(flat) == pack(long.value)
        assert len(pack(flat)) <= limit
        assert list(flat) == list(long.value)


@pytest.mark.parametrize(
    "value",
    [
        {"a": {}}, {"a": "\udcff"}, {"\udcff": 1}, {1: 1}, {"a": 2**64}, {"a": -(2**63) - 1}, {"a": b"x"}, {"a": Colour.RED},
        {"a": "x" * 200}, {"x" * 200: 1}, {str(n): "\u00e4" * 5 for n in range(20)},
    ],
)  # fmt: skip
def test_the_short_way_is_for_short_texts_and_numbers(value: Any) -> None:
    """F2: all else takes the long one."""
    assert to_flat(value, REDACTOR, 200) is None


def test_the_short_way_hides_what_must_not_be_seen() -> None:
    """F7: by the names of keys; a rule of the user's is for the long way."""
    assert to_flat({"token": "x", "row": 1}, REDACTOR, 200) == {"token": REDACTED, "row": 1}
    assert to_flat({"row": 1}, Redactor(hook=lambda _, value: value), 200) is None
