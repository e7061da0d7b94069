"""``ctx.log``, and what the reporter makes of an entry."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from taskora_celery.context import Context
from taskora_celery.encoding import CUT
from taskora_celery.local import LocalContext, local_context
from taskora_celery.records import LogEntry, level_code, level_name
from taskora_celery.redaction import Redactor
from taskora_celery.reporter.report import entries_in
from taskora_celery.reporter.taking import emit, plain_entry


@pytest.fixture
def ctx() -> LocalContext:
    return local_context()


def only(ctx: LocalContext) -> LogEntry:
    (entry,) = ctx.get_logs()
    return entry


@pytest.mark.parametrize(
    ("method", "level"),
    [("debug", "debug"), ("info", "info"), ("warn", "warn"), ("warning", "warn"), ("error", "error"), ("exception", "error")],
)
def test_each_method_writes_an_entry_of_its_level(ctx: LocalContext, method: str, level: str) -> None:
    """F1: under the names that people know from logging and from taskora."""
    getattr(ctx.log, method)("hello")
    assert (only(ctx).level, only(ctx).message, only(ctx).meta) == (level, "hello", None)


@pytest.mark.parametrize("method", ["debug", "info", "warn", "error"])
@pytest.mark.parametrize(
    ("meta", "fields", "expected"),
    [
        (None, {}, None), ({}, {}, None), ({"a": 1}, {}, {"a": 1}), (None, {"b": 2}, {"b": 2}),
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": 1}, {"a": 2}, {"a": 2}), ("text", {}, {"value": "text"}), ([1], {"b": 2}, {"value": [1], "b": 2}),
    ],
)  # fmt: skip
def test_meta_and_fields_merge(ctx: LocalContext, method: str, meta: Any, fields: dict[str, Any], expected: Any) -> None:
    """F1: fields win, and meta that is no mapping is kept as a value."""
    getattr(ctx.log, method)("m", meta, **fields)
    assert only(ctx).meta == expected


@pytest.mark.parametrize("method", ["debug", "info", "warn", "error"])
def test_meta_is_copied_when_it_is_written(ctx: LocalContext, method: str) -> None:
    """F1: a loop that uses one dictionary for all its entries does not write the last one n times."""
    meta = {"row": 1}
    getattr(ctx.log, method)("m", meta)
    meta["row"] = 2
    assert only(ctx).meta == {"row": 1}


def test_an_exception_brings_its_traceback(ctx: LocalContext) -> None:
    """F1: of the exception that is being handled."""
    try:
        raise KeyError("lost")
    except KeyError:
        ctx.log.exception("failed", row=3)
    meta = only(ctx).meta
    assert meta is not None
    assert (meta["row"], "KeyError: 'lost'" in meta["traceback"]) == (3, True)


def test_an_exception_without_one_has_no_traceback(ctx: LocalContext) -> None:
    """F1: not the text `NoneType: None`."""
    ctx.log.exception("nothing is being handled")
    assert only(ctx).meta is None


def test_entries_are_numbered_and_timed_in_call_order(ctx: LocalContext) -> None:
    """F2: `seq` grows, `timestamp` is in milliseconds, `logger` is for captured entries."""
    for n in range(5):
        ctx.log.info(f"m{n}")
    entries = ctx.get_logs()
    assert [(entry.seq, entry.message, entry.attempt, entry.logger) for entry in entries] == [
        (n, f"m{n}", 1, None) for n in range(5)
    ]
    assert all(1_700_000_000_000 < entry.timestamp < 10_000_000_000_000 for entry in entries)


def test_the_buffer_keeps_the_newest_and_counts_the_rest() -> None:
    """F3: a handler that logs faster than the reporter reads fills no memory."""
    ctx = Context("job-1", "work", buffer_limit=10)
    for n in range(25):
        ctx.log.info(f"i{n}")
        ctx.log.error(f"e{n}")
    assert [entry[2] for entry in ctx.entries()] == [f"{kind}{n}" for n in range(20, 25) for kind in "ie"]
    first, taken = ctx.take_logs()
    assert (first, len(entries_in(taken)), ctx.dropped) == (40, 10, 40)


def test_numbers_go_on_after_entries_were_taken_and_dropped() -> None:
    """F3: so that the store sees the gap."""
    ctx = Context("job-1", "work", buffer_limit=2)
    for n in range(3):
        ctx.log.info(f"{n}")
    assert ctx.take_logs()[0] == 1
    ctx.log.info("3")
    first, taken = ctx.take_logs()
    assert (first, [entry[2] for entry in entries_in(taken)]) == (3, ["3"])


@pytest.mark.parametrize("limit", [64, 1_000])
def test_a_long_entry_is_cut_and_says_so(limit: int) -> None:
    """F3: a byte cap per entry, for message and meta."""
    _, _, message, meta, _ = plain_entry((2, 1.0, "x" * 10_000, {"k": "y" * 10_000}, None), Redactor(), limit)
    assert message.endswith(CUT)
    assert meta["k"].endswith(CUT)
    assert len(message) + len(meta["k"]) < 2 * limit + 100


@pytest.mark.parametrize("message", [None, 5, {"a": 1}, ["x"], object(), b"\xff", ValueError("no")])
def test_a_message_may_be_anything(message: Any) -> None:
    """F1: `print` habits must not fail a job."""
    assert isinstance(plain_entry((2, 1.0, message, None, None), Redactor(), 1_000)[2], str)


def test_a_message_that_is_a_mapping_is_redacted() -> None:
    """F7: a whole request as the message."""
    assert "s3cret" not in plain_entry((2, 1.0, {"password": "s3cret"}, None, None), Redactor(), 1_000)[2]


@pytest.mark.parametrize(("code", "level"), [(1, logging.DEBUG), (2, logging.INFO), (3, logging.WARNING), (4, logging.ERROR)])
def test_an_entry_is_repeated_to_python_logging(caplog: pytest.LogCaptureFixture, code: int, level: int) -> None:
    """F6: with its level, its own time, and the task's id and name."""
    caplog.set_level(logging.DEBUG)
    emit(logging.getLogger("celery.task.work"), "job-1", "shop.work", (code, 1_790_000_000_123, "hello", {"a": 1}, None))
    (record,) = caplog.records
    assert (record.levelno, record.getMessage(), record.created) == (level, "hello a=1", 1_790_000_000.123)
    usual = {*vars(logging.makeLogRecord({})), "message", "asctime"}
    extra = {name: value for name, value in vars(record).items() if name not in usual and name[0] != "_"}
    assert extra == {"task_id": "job-1", "task_name": "shop.work"}


@pytest.mark.parametrize("text", ["\x1b[31mred", "a\nERROR forged", "\r\x08", "\u202eevil", "\u2066x", "\x9b"])
def test_text_cannot_steer_the_console(caplog: pytest.LogCaptureFixture, text: str) -> None:
    """F6: control characters, ANSI, newlines and bidi marks are shown and not obeyed (fault 18)."""
    caplog.set_level(logging.DEBUG)
    emit(logging.getLogger("celery.task.work"), "job-1", "shop.work", (2, 1, text, None, None))
    assert not any(
        ord(char) < 32 or 127 <= ord(char) < 160 or ord(char) in {0x202E, 0x2066} for char in caplog.records[0].getMessage()
    )


@pytest.mark.parametrize(("level", "code"), [("debug", 1), ("info", 2), ("warn", 3), ("warning", 3), ("error", 4)])
def test_levels_have_codes(level: str, code: int) -> None:
    """F2: `"warning"` is taken where a level is asked for."""
    assert level_code(level) == code


@pytest.mark.parametrize("level", ["WARN", "critical", "", "fatal"])
def test_an_unknown_level_is_a_value_error_that_lists_them(level: str) -> None:
    """F2: at the call."""
    with pytest.raises(ValueError, match="debug, info, warn, error"):
        level_code(level)


def test_a_level_of_a_newer_version_reads_as_info() -> None:
    """Fault 22: an unknown code is shown and not refused."""
    assert level_name(7) == "info"


@pytest.mark.parametrize("buffer_limit", [64, 1_000_000])
def test_entries_of_many_threads_are_whole_in_order_and_all_announced(buffer_limit: int) -> None:
    """B7, F3, F4: who takes them is woken for the last one, too; what found no room is counted."""
    ctx = Context("job-1", "work", buffer_limit=buffer_limit)
    woken, each = threading.Event(), 3_000
    ctx.on_touch = woken.set

    def write(name: str) -> None:
        for n in range(each):
            ctx.log.info(name, {"n": n})
            ctx.log.error(name, n=n + 0.5)

    writers = [threading.Thread(target=write, args=(f"thread {k}",)) for k in range(4)]
    for writer in writers:
        writer.start()
    found: dict[str, list[float]] = {writer_name: [] for writer_name in (f"thread {k}" for k in range(4))}
    while ctx.taken + ctx.dropped < 4 * 2 * each:
        assert woken.wait(10), "nobody was told of the last entries"
        woken.clear()
        ctx.dirty = False
        before = ctx.taken
        first, taken = ctx.take_logs()
        assert first >= before
        for _, _, message, meta, _ in entries_in(taken):
            found[message].append(meta["n"])
    for writer in writers:
        writer.join(10)
    assert all(numbers == sorted(numbers) for numbers in found.values())
    assert sum(map(len, found.values())) == ctx.taken == 4 * 2 * each - ctx.dropped
    assert buffer_limit == 64 or not ctx.dropped


def test_the_first_entry_since_the_reporter_looked_wakes_it() -> None:
    """F1, P3: one wake-up for all that come until it looks; one more where the buffer is full costs nobody anything."""
    ctx = Context("job-1", "work", buffer_limit=2)
    wakings: list[int] = []
    ctx.on_touch = lambda: wakings.append(len(ctx.entries()))
    ctx.log.info("a")
    ctx.log.error("b")
    assert wakings == [1]
    ctx.log.info("c")
    assert (wakings, ctx.dropped) == ([1, 2], 1)
    ctx.take_logs()
    ctx.log.info("d")
    assert wakings == [1, 2, 1]
