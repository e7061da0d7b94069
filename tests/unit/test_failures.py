"""Failures by what went wrong: pure functions."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taskora_celery.failures import PATTERN_CHARS, FailureGroup, failures_in, grouped, literal_of, pattern_of
from taskora_celery.listing import JobsReader
from taskora_celery.reading import JobBrief
from taskora_celery.records import Outcome
from taskora_celery.store.memory import MemoryStore
from taskora_celery.views import TaskFacts
from tests.support.executions import NOW_MS, ScriptedExecution

PATTERNS = {
    "Error 111 connecting to localhost:6379. Connection refused.": "Error <number> connecting to localhost:<number>. Connection refused.",  # noqa: E501
    "order_12 has 1,234.5 EUR, not 3e-5": "order_<number> has <number> EUR, not <number>",
    "job 0e3c1b7a-1f7c-4f3e-9a52-0f5b1de0a001 is gone": "job <uuid> is gone",
    "<shop.Cart object at 0x7f12ab34cd56>": "<shop.Cart object at <hex>>",
    "no commit deadbeef1, but abcdefab": "no commit <hex>, but abcdefab",
    "No such file or directory: '/srv/in/orders.csv'": "No such file or directory: <text>",
    "No such file or directory: /srv/in/orders-7.csv": "No such file or directory: <path>",
    r"cannot open C:\in\orders.csv": "cannot open <path>",
    "either and/or both": "either and/or both",
    "404 for https://shop.example/orders/7?page=2 (GET)": "<number> for <url> (GET)",
    "no account bob.x@shop.example": "no account <email>",
    "10.0.0.7:5432 timed out": "<address> timed out",
    "fe80::1 and ::ffff:10 are away": "<address> and <address> are away",
    "std::vector has no add::fee": "std::vector has no add::fee",
    "late since 2026-11-25T10:00:00.5Z, by 01:12:30": "late since <time>, by <time>",
    """can't find "a" or `b` or 'c d', don't ask""": "can't find <text> or <text> or <text>, don't ask",
    "it's 'x'": "it's <text>",
    "two\n lines\twith \x1b[31mcolour": r"two lines with \x<number>b[<number>mcolour",
    "": "",
}


@pytest.mark.parametrize(("message", "pattern"), PATTERNS.items(), ids=PATTERNS.values())
def test_what_differs_from_job_to_job_is_a_placeholder(message: str, pattern: str) -> None:
    """K4: numbers, ids, quoted text, paths and addresses; words stay as they are."""
    assert pattern_of(message) == pattern


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("0123456789'\"`/.:-@<>…\\ \n"), max_size=600))
@example("'a'" + "1" * 190 + "'b'c")
@example(("/x" * 99) + "'a'b")
def test_a_pattern_is_short_and_its_own_pattern(message: str) -> None:
    """K4: whatever the message is, its pattern is one line of bounded length without digits, and stays as it is."""
    pattern = pattern_of(message)
    assert len(pattern) <= PATTERN_CHARS
    assert pattern.isprintable() or not any(char in pattern for char in "\n\r\t\x1b")
    assert not any(char in string.digits for char in pattern)
    assert pattern_of(pattern) == pattern


WORDS = st.text(string.ascii_letters, min_size=3, max_size=10).filter(lambda word: not set(word.lower()) <= set("abcdef"))


@given(WORDS, WORDS, st.integers(0, 10**9), st.uuids(), st.integers(0, 10**9), st.uuids())
def test_messages_that_differ_in_numbers_and_ids_have_one_pattern(
    first: str, last: str, number: int, uuid: object, other: int, another: object
) -> None:
    """K4: so they are one group, and messages in other words are another."""
    pattern = pattern_of(f"{first} {number} of {uuid} {last}")
    assert pattern == pattern_of(f"{first} {other} of {another} {last}") == f"{first} <number> of <uuid> {last}"
    assert pattern != pattern_of(f"{first} {number} of {uuid} {last}x")


def failed(number: int, reason: str | None = "no 1", error: str | None = "ValueError", name: str = "shop.work") -> JobBrief:
    return JobBrief(f"job-{number}", name, Outcome.FAILURE, "w1@host", NOW_MS, NOW_MS + number, reason, error)


def test_failures_are_counted_by_task_error_and_pattern() -> None:
    """K4: count, first, last, and the message of the last one; the largest group first."""
    jobs = [
        failed(3, "no 3"), failed(9, "no 9"), failed(5, "no 5"), failed(4, "no 4", "KeyError"),
        failed(6, "no 4", name="shop.other"), failed(7, None, None),
    ]  # fmt: skip
    assert grouped(jobs) == [
        FailureGroup("shop.work", "ValueError", "no <number>", 3, NOW_MS + 3, NOW_MS + 9, "job-9", "no 9"),
        FailureGroup("shop.work", "", "", 1, NOW_MS + 7, NOW_MS + 7, "job-7", ""),
        FailureGroup("shop.other", "ValueError", "no <number>", 1, NOW_MS + 6, NOW_MS + 6, "job-6", "no 4"),
        FailureGroup("shop.work", "KeyError", "no <number>", 1, NOW_MS + 4, NOW_MS + 4, "job-4", "no 4"),
    ]
    assert grouped([]) == []


@pytest.mark.parametrize(
    ("message", "literal"),
    [
        ("Error 111 connecting to shop:6379. Connection refused.", "connecting to shop"),
        ("order 7 has\ntwo lines, 8", "order"),
        ("no 7", ""),
        ("", ""),
    ],
)
def test_a_group_s_jobs_are_found_by_what_their_messages_have_in_common(message: str, literal: str) -> None:
    """K4: the longest text that stands in each message as it is."""
    (group,) = grouped([failed(1, message)])
    assert literal_of(group) == literal


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    for number in range(6):
        job = ScriptedExecution(store, f"job-{number}", now_ms=NOW_MS + number)
        state = Outcome.FAILURE if number % 2 else Outcome.SUCCESS
        job.end(state, f"no {number}", "ValueError")
        store.note([], [job.id], NOW_MS + number)
    return store


def test_it_is_said_how_many_jobs_were_looked_at(store: MemoryStore) -> None:
    """K4, L3: the look is bounded, goes from the newest job back, and what it leaves out is said."""
    reader = JobsReader(store, 100, lambda _: TaskFacts())
    found = failures_in(reader)
    assert (found.failed, found.looked, found.left, found.groups_left) == (3, 6, 0, 0)
    assert [(group.count, group.first_ms, group.last_ms) for group in found.groups] == [(3, NOW_MS + 2_001, NOW_MS + 2_005)]
    found = failures_in(reader, most=3)
    assert (found.failed, found.looked, found.left) == (2, 3, 3)
    assert failures_in(reader, since_ms=NOW_MS + 4).looked == 2
    found = failures_in(reader, shown=0)
    assert (found.groups, found.failed, found.groups_left, found.failed_left) == ((), 3, 1, 3)
