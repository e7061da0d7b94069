"""A job as people see it: pure functions of its record and of the time."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from taskora_celery.progress import progress_value
from taskora_celery.records import AttemptRecord, JobStatus, Outcome
from taskora_celery.store.memory import MemoryStore
from taskora_celery.store.protocol import Snapshot
from taskora_celery.views import (
    ENDED,
    GOING,
    LINE_CHARS,
    PACES_KEPT,
    STATES,
    JobFilter,
    JobView,
    Paces,
    TaskFacts,
    message_of,
    percent_of,
    progress_line,
    state_named,
    time_left,
    view_of,
)
from tests.support.cancels import job_in, loss, request
from tests.support.executions import NOW_MS, ScriptedExecution

FACTS = TaskFacts(4, 30.0)


def seen(store: MemoryStore, now_ms: int = NOW_MS + 12_000, facts: TaskFacts = FACTS, paces: Paces | None = None) -> JobView:
    snapshot = store.read("job-1", attempts=True)
    assert snapshot is not None
    return view_of("job-1", snapshot, 100, facts, now_ms, paces)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.mark.parametrize("state", ["STARTED", *Outcome.FINAL, Outcome.RETRY, Outcome.LOST, Outcome.REJECTED])
def test_each_state_has_its_word(store: MemoryStore, state: str) -> None:
    """K3: the words of the list, the board and the filters are the same."""
    job_in(store, state)
    view = seen(store)
    assert (view.state, view.over) == (STATES[state], state in Outcome.FINAL)
    assert state_named(state) == state_named(STATES[state].upper()) == STATES[state]


def test_the_words_are_of_two_kinds() -> None:
    """K3: a job goes on, or has ended."""
    assert frozenset(STATES.values()) == GOING | ENDED
    assert not GOING & ENDED
    with pytest.raises(ValueError, match="'gone' is no state: one of queued, running"):
        state_named("gone")


@pytest.mark.parametrize(
    ("value", "percent"),
    [
        (48, 48.0), (0.5, 0.5), (1200, None), (-1, None), (True, None), (None, None), ("half", None), ([], None),
        ({}, None), (float("nan"), None), (float("inf"), None), ({"percent": 48.0}, 48.0), ({"percent": 120}, 100.0),
        ({"percent": "x"}, None),
        ({"current": 12, "total": 25}, 48.0), ({"current": 12, "total": 0}, None), ({"current": 12}, None),
        ({"current": 12, "total": 25, "percent": None}, 48.0), ({"percent": float("nan")}, None),
    ],
)  # fmt: skip
def test_the_percentage_of_a_progress(value: Any, percent: float | None) -> None:
    """K3, E1: where it has one; a count of rows is none."""
    assert percent_of(value) == percent


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"current": 12, "total": 25, "message": "rendering"}, "12/25 rendering"), ({"current": 12}, "12"),
        ({"message": "reading"}, "reading"), ({"rows": 7}, "rows=7"), ("half", "half"), (48, ""), (None, ""),
        (1_234_567, "1234567"), (-0.5, "-0.5"), (True, "True"), ([1, 2], "[1, 2]"),
        ({"current": 1, "total": 2, "percent": 50, "file": "a"}, "1/2 file=a"),
    ],
)  # fmt: skip
def test_the_message_of_a_progress(value: Any, message: str) -> None:
    """K3, K4: what it says in words, the same in each face; a percentage is shown apart."""
    assert message_of(value) == message


@pytest.mark.parametrize(
    ("percent", "at", "since", "now", "left"),
    [
        (50.0, 10_000, (0.0, 0), 10_000, 10.0),
        (50.0, 10_000, (0.0, 0), 14_000, 6.0),
        (50.0, 10_000, (0.0, 0), 30_000, None),
        (75.0, 10_000, (50.0, 5_000), 10_000, 5.0),
        (50.0, 10_000, None, 10_000, None),
        (100.0, 10_000, (0.0, 0), 10_000, None),
        (0.0, 10_000, (0.0, 0), 10_000, None),
        (50.0, 0, (0.0, 0), 10_000, None),
        (40.0, 10_000, (50.0, 0), 10_000, None),
    ],
)
def test_the_time_left(percent: float, at: int, since: tuple[float, int] | None, now: int, left: float | None) -> None:
    """K3: by the speed until now; nothing where there is no speed, or where it has turned out wrong."""
    assert time_left(percent, at, since, now) == left


def test_a_job_that_runs(store: MemoryStore) -> None:
    """K3: its percentage, the time left, its attempt among those allowed, and why the last was not the last."""
    first = ScriptedExecution(store)
    first.end_in_retry("refused", 0)
    second = ScriptedExecution(store, attempt=2, now_ms=NOW_MS + 3_000)
    second.now_ms = NOW_MS + 8_000
    second.progress({"current": 1, "total": 4, "percent": 25.0})
    view = seen(store)
    assert (view.state, view.max_attempts, view.percent, view.left) == ("running", 4, 25.0, 11.0)
    assert (view.reason, view.next_ms, view.cancelling) == ("OSError: refused", None, False)


def test_a_job_that_waits_for_its_next_attempt(store: MemoryStore) -> None:
    """K3: when it begins."""
    ScriptedExecution(store).end_in_retry("SMTP 421", 8)
    view = seen(store)
    assert (view.state, view.next_ms, view.reason) == ("retrying", NOW_MS + 10_000, "OSError: SMTP 421")
    assert view.left is None


def test_a_job_that_is_lost_says_where(store: MemoryStore) -> None:
    """K3: with the reason and the worker."""
    ScriptedExecution(store, tag="t1", token=1)
    store.lose(loss(reason="the process was killed (SIGKILL)"))
    assert (seen(store).state, seen(store).reason) == ("stalled", "the process was killed (SIGKILL) on w1@host")


@pytest.mark.parametrize(
    ("after", "facts", "state"), [(30_000, FACTS, "running"), (30_001, FACTS, "stalled"), (10**9, TaskFacts(), "running")]
)
def test_a_silent_job_is_stalled(store: MemoryStore, after: int, facts: TaskFacts, state: str) -> None:
    """K3, D4: by its task's heartbeat_timeout; where there is none, silence says nothing."""
    ScriptedExecution(store).progress(25)
    view = seen(store, NOW_MS + after, facts)
    assert view.state == state
    if state == "stalled":
        assert (view.reason, view.left) == ("no sign of life from w1@host", None)


def test_a_job_that_is_asked_to_stop(store: MemoryStore) -> None:
    """K3, G1: it still runs."""
    ScriptedExecution(store)
    store.cancel(request(reason="wrong file"))
    view = seen(store)
    assert (view.state, view.cancelling, view.reason) == ("running", True, "asked to stop: wrong file")


def test_a_job_that_failed_says_why(store: MemoryStore) -> None:
    """K3: as Python would."""
    ScriptedExecution(store).end(Outcome.FAILURE, "no 7", "ValueError")
    assert seen(store).reason == "ValueError: no 7"


def test_speed_is_not_measured_over_what_was_done_before(store: MemoryStore) -> None:
    """K3, E8: a delivery that goes on from a checkpoint has done the first half in no time."""
    first = ScriptedExecution(store, tag="t1", token=1)
    first.checkpoint(50)
    store.lose(loss())
    second = ScriptedExecution(store, now_ms=NOW_MS + 10_000, redelivered=True, tag="t1", token=2)
    paces = Paces()
    for at, left in ((11_000, None), (12_000, 24.0)):
        second.now_ms = NOW_MS + at
        second.progress(51 + (at - 11_000) / 500)
        assert seen(store, NOW_MS + at, paces=paces).left == (None if left is None else pytest.approx(23.5))
    assert seen(store, NOW_MS + 12_000).left is None, "at the first look nobody can say"


def test_a_reader_that_lives_for_weeks_does_not_grow(store: MemoryStore) -> None:
    """K4: safe to leave running: millions of jobs go by, and each begins somewhere."""
    ScriptedExecution(store).progress(10)
    snapshot, paces = store.read("job-1", attempts=True), Paces()
    assert snapshot is not None
    for number in range(PACES_KEPT + 10):
        assert view_of(f"job-{number}", snapshot, 100, FACTS, NOW_MS + 1_000, paces).percent == 10.0
    assert len(paces._since) == PACES_KEPT
    assert f"job-{PACES_KEPT + 9}" in paces._since


def test_what_an_earlier_delivery_reported_has_no_speed(store: MemoryStore) -> None:
    """K3, E4: progress is kept over retries until the next report."""
    ScriptedExecution(store).progress(50)
    ScriptedExecution(store, attempt=2, now_ms=NOW_MS + 5_000)
    assert (seen(store).percent, seen(store).left) == (50.0, None)


def status(name: str = "reports.render", worker: str = "w1@host") -> JobView:
    return JobView(JobStatus("job-1", name, "STARTED", 1, 1, worker, 0, 0, 0), "running")


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        (JobFilter(), True), (JobFilter(frozenset({"running", "failed"})), True), (JobFilter(frozenset({"failed"})), False),
        (JobFilter(task="reports.*"), True), (JobFilter(task="*.render"), True), (JobFilter(task="render"), False),
        (JobFilter(task="Reports.*"), False), (JobFilter(worker="w1"), True), (JobFilter(worker="w1@host"), True),
        (JobFilter(worker="w?@*"), True), (JobFilter(worker="host"), False),
    ],
)  # fmt: skip
def test_jobs_are_filtered(wanted: JobFilter, taken: bool) -> None:
    """K3: by state, by a glob of the task's name, and by the worker, with or without its host."""
    assert wanted.takes(status()) is taken


def test_a_record_of_another_version_is_shown_all_the_same() -> None:
    """K3: a state that nobody knows is its own word."""
    view = view_of("job-1", Snapshot({"s": "PAUSED"}, 0, (), (AttemptRecord(1, 1, "w", 0),)), 10, TaskFacts(), NOW_MS)
    assert (view.state, view.over, msgspec.structs.asdict(view)["reason"]) == ("paused", False, None)


# --- as a line -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (48, "48%"), (0.5, "0.5%"), (33.333, "33.3%"), (99.99, "99.9%"), (True, "True"), (None, ""), ("half", "half"),
        (math.nan, "nan"), (math.inf, "inf"), ([1, 2], "[1, 2]"), ({"rows": 40, "file": "a.csv"}, "rows=40 file=a.csv"),
        (progress_value(12, 25, "rendering"), "48% 12/25 rendering"), (progress_value(7, None, "rows"), "7 rows"),
        (progress_value(1, 2) | {"file": "a"}, "50% 1/2 file=a"), ({"current": 1, "total": 2}, "50% 1/2"),
        ({"current": [1], "total": "x", "percent": True, "message": 0}, "[1]/x 0"), (150, "150"), (-1, "-1"),
    ],
)  # fmt: skip
def test_progress_is_a_line_for_people(value: Any, expected: str) -> None:
    """K1: what was said, and no percentage that was not reached."""
    assert progress_line(value) == expected


def test_a_line_of_progress_keeps_its_endings() -> None:
    """K1: 200 characters, the last of which say how long and which attempt."""
    line = progress_line(progress_value(12, 25, "x" * 1_000), "12 s left", "", "attempt 2/4")
    assert len(line) == LINE_CHARS
    assert line.startswith("48% 12/25 xxx")
    assert line.endswith("x… · 12 s left · attempt 2/4")
    assert progress_line(None, "attempt 2") == "attempt 2"
