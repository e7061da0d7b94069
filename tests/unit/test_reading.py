"""What a snapshot of a job means: journal, logs, status, history, and what is new."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskora_celery.aio import AsyncJobReader
from taskora_celery.encoding import pack
from taskora_celery.errors import JobNotFoundError
from taskora_celery.reading import Follower, JobReader, history_of, last_words, logs_of, progress_of, status_of
from taskora_celery.records import AttemptRecord, Event, LogEntry, Outcome
from taskora_celery.store.journal import BATCH_ENTRIES, STATE, decode, decode_logs, encode
from taskora_celery.store.memory import MemoryStore
from taskora_celery.store.protocol import Snapshot
from tests.support.executions import NOW_MS, ScriptedExecution


def stored(*batches: Any, first: int = 0) -> list[bytes]:
    raws = []
    for batch in batches:
        raws.append(b"%d %d %d %b" % (first, batch.entries, batch.logs, batch.data))
        first += batch.entries
    return raws


def filtered(store: MemoryStore, **filters: Any) -> list[str]:
    options = {"level": None, "attempt": None, "after": None, "limit": None, **filters}
    return [entry.message for entry in logs_of(store.read("job-1", 0), 1_000, **options)]


def kinds(events: list[Event]) -> list[tuple[str, Any]]:
    return [(event.kind, event.data.message if event.kind == "log" else event.data) for event in events]


# --- journal -------------------------------------------------------------------------------------------------------------


def test_entries_come_back_as_they_were_written() -> None:
    """F2: level, message, meta, logger, time, attempt and position."""
    entries = [(1, 1_000, "d", None, None), (3, 1_250, "w", {"a": 1}, None), (2, 900, "captured", None, "sqlalchemy")]
    raws = stored(*encode(2, entries, 100), first=7)
    expected = [
        LogEntry("debug", "d", 1_000, 2, 7),
        LogEntry("warn", "w", 1_250, 2, 8, {"a": 1}),
        LogEntry("info", "captured", 900, 2, 9, None, "sqlalchemy"),
    ]
    assert decode_logs(raws) == expected
    assert [event.data for event in decode(raws, 6)] == expected


def test_states_are_events_and_no_log_entries() -> None:
    """J2: one order for all that happened."""
    raws = stored(*encode(1, [(STATE, 5, {"state": "RETRY", "reason": "x"}, None, None), (2, 6, "m", None, None)], 100))
    assert [entry.message for entry in decode_logs(raws)] == ["m"]
    assert kinds(decode(raws)) == [("state", {"attempt": 1, "state": "RETRY", "reason": "x"}), ("log", "m")]


@pytest.mark.parametrize(
    ("count", "limit", "batches"), [(0, 10, 0), (1, 10, 1), (25, 10, 3), (1_200, 10_000, 3), (3, 1, 3), (2, 0, 2)]
)
def test_a_batch_has_a_size_that_can_be_trimmed(count: int, limit: int, batches: int) -> None:
    """F3: at most the log limit, and never more than 500."""
    made = encode(1, [(2, n, "m", None, None) for n in range(count)], limit)
    assert (len(made), sum(batch.entries for batch in made)) == (batches, count)
    assert all(batch.entries <= BATCH_ENTRIES for batch in made)


def test_what_is_missing_is_shown_as_a_gap() -> None:
    """F3: never silently lost, at the beginning and in the middle."""
    one, two = (encode(1, [(2, n, f"m{n}", None, None)], 10) for n in (1, 2))
    raws = [*stored(*one, first=4), *stored(*two, first=8)]
    assert kinds(decode(raws)) == [("gap", {"count": 4}), ("log", "m1"), ("gap", {"count": 3}), ("log", "m2")]


def test_reading_after_a_position_gives_what_is_behind_it() -> None:
    """J2: `events(after=…)`, also in the middle of a batch."""
    raws = stored(*encode(1, [(2, n, f"m{n}", None, None) for n in range(6)], 4))
    for after in range(-1, 7):
        assert [event.data.message for event in decode(raws, after)] == [f"m{n}" for n in range(after + 1, 6)]


def test_an_unreadable_batch_is_a_gap_and_no_error() -> None:
    """Fault 22: another version's, or damaged."""
    good = encode(1, [(2, 1, "m", None, None)], 10)
    raws = [b"junk", b"0 3 3 \xc1", b"3 1 1 " + pack([1, 2, 3]), b"4 1 1 " + pack([1, 2, [5]]), *stored(*good, first=5)]
    assert [entry.message for entry in decode_logs(raws)] == ["m"]
    assert kinds(decode(raws)) == [("gap", {"count": 5}), ("log", "m")]


packable = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
near_misses = st.tuples(
    st.integers(-2, 3), st.integers(1, 12) | packable, st.lists(st.lists(st.integers(0, 12) | packable, max_size=6), max_size=4)
).map(lambda parts: b"%d 2 1 %b" % (parts[0], pack([1, parts[1], parts[2]])))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.binary(max_size=40)
        | st.binary().map(lambda data: b"0 1 1 " + data)
        | packable.map(lambda value: b"0 1 1 " + pack(value))
        | near_misses,
        max_size=5,
    )
)
def test_no_bytes_at_all_make_a_reader_raise(raws: list[bytes]) -> None:
    """Fault 22: a journal is data, whoever wrote it."""
    decode_logs(raws)
    decode(raws)


# --- logs, status, history -----------------------------------------------------------------------------------------------


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    first = ScriptedExecution(store)
    for code, message in ((1, "d1"), (2, "i1"), (3, "w1"), (4, "e1")):
        first.send(_entry(first, code, message))
    first.end_in_retry("rate limited")
    second = ScriptedExecution(store, attempt=2, worker="w2@host", now_ms=NOW_MS + 10_000)
    for code, message in ((2, "i2"), (4, "e2")):
        second.send(_entry(second, code, message))
    return store


def _entry(execution: ScriptedExecution, code: int, message: str) -> Any:
    import msgspec

    report = execution.made(message)
    return msgspec.structs.replace(report, batches=encode(execution.attempt, [(code, execution.now_ms, message, None, None)], 10))


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["d1", "i1", "w1", "e1", "i2", "e2"]),
        ({"level": "warn"}, ["w1", "e1", "e2"]),
        ({"level": "warning"}, ["w1", "e1", "e2"]),
        ({"level": "debug"}, ["d1", "i1", "w1", "e1", "i2", "e2"]),
        ({"attempt": 2}, ["i2", "e2"]),
        ({"attempt": 9}, []),
        ({"after": 3}, ["i2", "e2"]),
        ({"after": 99}, []),
        ({"limit": 2}, ["i2", "e2"]),
        ({"limit": 0}, []),
        ({"limit": 99}, ["d1", "i1", "w1", "e1", "i2", "e2"]),
        ({"level": "error", "attempt": 1, "limit": 5}, ["e1"]),
    ],
)
def test_logs_are_filtered(store: MemoryStore, filters: dict[str, Any], expected: list[str]) -> None:
    """F2: level and above, one attempt, behind a position, the newest so many."""
    assert filtered(store, **filters) == expected


@pytest.mark.parametrize(("filters", "words"), [({"level": "loud"}, "level='loud'"), ({"limit": -1}, "limit=-1")])
def test_wrong_filters_are_refused_even_for_an_unknown_job(filters: dict[str, Any], words: str) -> None:
    """F2: a typing error does not depend on the job."""
    options = {"level": None, "attempt": None, "after": None, "limit": None, **filters}
    with pytest.raises(ValueError, match=words):
        logs_of(None, 10, **options)


@pytest.mark.parametrize(("filters", "words"), [({"level": "loud"}, "level='loud'"), ({"limit": -1}, "limit=-1")])
def test_wrong_filters_are_refused_before_anything_is_read(filters: dict[str, Any], words: str) -> None:
    """F2: a typing error is told as one, also where Redis is away."""
    options = {"level": None, "attempt": None, "after": None, "limit": None, **filters}
    away: Any = None  # whoever reads from it gets another error
    with pytest.raises(ValueError, match=words):
        JobReader(away, "job-1", 10).logs(**options)
    with pytest.raises(ValueError, match=words):
        asyncio.run(AsyncJobReader(away, "job-1", 10).logs(**options))


def test_an_unknown_job_has_no_logs_progress_or_history_and_no_status() -> None:
    """J4: None, `[]`, or an error where a value cannot say it."""
    assert logs_of(None, 10, level=None, attempt=None, after=None, limit=None) == []
    assert progress_of(None) == (None, None, None)
    assert history_of(None) == []
    with pytest.raises(JobNotFoundError) as caught:
        status_of("job-7", None, 10)
    assert caught.value.job_id == "job-7"


def test_only_so_many_entries_count_as_kept(store: MemoryStore) -> None:
    """F3: whole batches are trimmed, but the limit is what a reader sees."""
    assert [entry.message for entry in logs_of(store.read("job-1", 0), 2, level=None, attempt=None, after=None, limit=None)] == [
        "i2",
        "e2",
    ]
    assert status_of("job-1", store.read("job-1"), 2).dropped_logs == 4


def test_the_history_ends_with_the_attempt_of_now(store: MemoryStore) -> None:
    """J2, I4: earlier attempts as they were kept, the running one without an end."""
    first, second = history_of(store.read("job-1", attempts=True))
    assert (first.number, first.outcome, first.reason, first.delay) == (1, Outcome.RETRY, "rate limited", 5.0)
    assert second == AttemptRecord(2, 1, "w2@host", NOW_MS + 10_000)


def test_the_history_of_a_waiting_job_does_not_show_its_attempt_twice() -> None:
    """I4: between two attempts the record still is that of the first."""
    store = MemoryStore()
    ScriptedExecution(store).end_in_retry()
    assert [record.outcome for record in history_of(store.read("job-1", attempts=True))] == [Outcome.RETRY]


def test_the_history_of_an_ended_job_has_its_outcome() -> None:
    """J2: with duration, reason and error."""
    store = MemoryStore()
    ScriptedExecution(store).end(Outcome.FAILURE, "no", "ValueError")
    (record,) = history_of(store.read("job-1", attempts=True))
    assert (record.outcome, record.duration, record.reason, record.error) == (Outcome.FAILURE, 2.0, "no", "ValueError")


# --- following -----------------------------------------------------------------------------------------------------------


class Reading:
    """A follower and the store that it reads from."""

    def __init__(self, after: int | None = None, log_limit: int = 10_000) -> None:
        self.store = MemoryStore(log_limit)
        self.follower = Follower(after)

    def news(self) -> list[tuple[str, Any]]:
        return kinds(self.follower.feed(self.store.read("job-1", self.follower.skip)))

    def logs(self) -> list[Any]:
        return [data for kind, data in self.news() if kind == "log"]


def test_a_follower_says_first_where_the_job_is() -> None:
    """J2: then its entries, then its progress."""
    reading = Reading()
    execution = ScriptedExecution(reading.store)
    execution.logs("a")
    execution.progress(5)
    (state, log, progress) = reading.news()
    assert (state[0], state[1]["state"], state[1]["attempt"]) == ("state", "STARTED", 1)
    assert (log, progress) == (("log", "a"), ("progress", 5))
    assert reading.news() == []


def test_a_follower_gets_each_entry_once() -> None:
    """F5: without gap or repeat."""
    reading = Reading()
    execution = ScriptedExecution(reading.store)
    seen = []
    for n in range(20):
        execution.logs(f"{n}a", f"{n}b")
        if n % 3 == 0:
            seen += reading.logs()
    seen += reading.logs()
    assert seen == [f"{n}{kind}" for n in range(20) for kind in "ab"]


def test_a_follower_crosses_retries() -> None:
    """F5: the end of an attempt is not the end of the job."""
    reading = Reading()
    first = ScriptedExecution(reading.store)
    first.logs("a")
    reading.news()
    first.end_in_retry()
    ((_, state),) = reading.news()
    assert (state["state"], state["delay"], reading.follower.over) == ("RETRY", 5.0, False)
    second = ScriptedExecution(reading.store, attempt=2)
    second.logs("b")
    assert [kind for kind, _ in reading.news()] == ["state", "log"]


@pytest.mark.parametrize("state", sorted(Outcome.FINAL))
def test_a_follower_ends_with_the_job(state: str) -> None:
    """F5: the last event is the outcome."""
    reading = Reading()
    execution = ScriptedExecution(reading.store)
    execution.logs("last words")
    execution.end(state, "why")
    *_, (kind, data) = reading.news()
    assert (kind, data["state"], data["reason"], reading.follower.over) == ("state", state, "why", True)


def test_a_follower_that_was_too_slow_sees_the_gap() -> None:
    """F3: entries that were trimmed before it came are shown as such."""
    reading = Reading(log_limit=4)
    execution = ScriptedExecution(reading.store)
    execution.logs("0", "1", "2", "3")
    reading.news()
    for n in range(4, 12, 2):
        execution.logs(f"{n}", f"{n + 1}")
    assert reading.news() == [("gap", {"count": 4}), ("log", "8"), ("log", "9"), ("log", "10"), ("log", "11")]


def test_a_follower_that_comes_late_sees_what_was_trimmed_before() -> None:
    """F3: never silently lost."""
    reading = Reading(log_limit=2)
    execution = ScriptedExecution(reading.store)
    for n in range(6):
        execution.logs(f"{n}")
    assert reading.news()[1:] == [("gap", {"count": 4}), ("log", "4"), ("log", "5")]


def test_a_follower_begins_behind_a_position() -> None:
    """J2: `after=` is where somebody else stopped."""
    reading = Reading(after=2)
    ScriptedExecution(reading.store).logs("0", "1", "2", "3", "4")
    assert reading.logs() == ["3", "4"]


def test_a_follower_begins_again_when_the_id_is_sent_anew() -> None:
    """F5: the new job's entries have the old positions, and are all news."""
    reading = Reading()
    ScriptedExecution(reading.store).logs("old 0", "old 1")
    assert reading.logs() == ["old 0", "old 1"]
    first = ScriptedExecution(reading.store, redelivered=True)
    first.end()
    ScriptedExecution(reading.store).logs("new 0")
    reading.news()
    assert reading.logs() == ["new 0"]


@pytest.mark.parametrize("batches", [1, 2, 3])
def test_a_follower_begins_again_however_the_new_entries_come(batches: int) -> None:
    """F5: also where the new journal has more batches than the old one had, and fewer entries."""
    reading = Reading()
    ScriptedExecution(reading.store).logs(*(f"old {n}" for n in range(10)))
    reading.news()
    ScriptedExecution(reading.store, redelivered=True).end()
    anew = ScriptedExecution(reading.store)
    for n in range(batches):
        anew.logs(f"new {n}")
    reading.news()
    assert reading.logs() == [f"new {n}" for n in range(batches)]


@pytest.mark.parametrize("log_limit", [10_000, 6])
def test_a_follower_reads_each_batch_once(log_limit: int) -> None:
    """F5: a long journal is not read again for each new line, whether or not its head is trimmed."""
    reading = Reading(log_limit=log_limit)
    execution, read = ScriptedExecution(reading.store), list[int]()
    for n in range(20):
        execution.logs(f"{n}")
        snapshot = reading.store.read("job-1", reading.follower.skip)
        assert snapshot is not None
        read.append(len(snapshot.journal))
        reading.follower.feed(snapshot)
    assert read == [1] * 20


def test_a_follower_of_nothing_waits() -> None:
    """J4: a job that has not started is no error here."""
    reading = Reading()
    assert (reading.news(), reading.follower.over) == ([], False)


def test_unreadable_progress_is_said_to_be_so() -> None:
    """Fault 22: and not shown as something it is not."""
    assert progress_of(Snapshot({"p": b"\xc1"}, 0)) == (None, None, "unreadable")
    assert progress_of(Snapshot({"p": pack(5)}, 0)) == (None, None, "unreadable")


# --- last words ----------------------------------------------------------------------------------------------------------


def test_an_unknown_job_has_no_last_words() -> None:
    """D6: its record may have expired."""
    assert last_words(None) == (None, ())


def test_last_words_are_the_last_progress_and_the_newest_entries_oldest_first() -> None:
    """D6: what is told of a job that was lost too often, all its attempts counted."""
    store = MemoryStore()
    first = ScriptedExecution(store)
    first.progress(40)
    first.logs(*[f"m{n}" for n in range(4)])
    first.end_in_retry()
    second = ScriptedExecution(store, attempt=2)
    second.send(second.stated(state="RETRY"))
    second.logs("m4", "m5")
    assert last_words(store.read("job-1", 0)) == (40, ("info: m1", "info: m2", "info: m3", "info: m4", "info: m5"))
    assert last_words(store.read("job-1", 0), 1) == (40, ("info: m5",))


def test_last_words_that_cannot_be_read_are_none() -> None:
    """D6, fault 22: a record of another version must not be the reason why a job's end is not told."""
    assert last_words(Snapshot({"p": b"\xc1"}, 0, (b"not a batch",))) == (None, ())


def test_a_status_says_how_often_a_job_was_lost_and_how_much_came_too_late() -> None:
    """D6, D7: both are 0 for almost every job."""
    assert (status_of("job-1", Snapshot({"s": "STARTED"}, 0), 1).stalls, status_of("job-1", Snapshot({}, 0), 1).refused) == (0, 0)
    status = status_of("job-1", Snapshot({"s": Outcome.LOST, "x": 2, "y": 7}, 0), 1)
    assert (status.state, status.stalls, status.refused) == (Outcome.LOST, 2, 7)
