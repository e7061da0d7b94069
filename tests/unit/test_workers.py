"""Workers as people see them: pure functions of what they answered and of the jobs' records."""

from __future__ import annotations

from typing import Any

import pytest

from taskora_celery.inspecting import Answer, Replied, Round, answer_of
from taskora_celery.reading import JobBrief
from taskora_celery.workers import OFFLINE_AFTER, OFFLINE_SHOWN_FOR, WorkerState, WorkerView, standing_text, workers_seen
from tests.support.executions import NOW_MS

W1, W2 = "w1@shop", "w2@shop"
OFFLINE_MS, FORGOTTEN_MS = int(OFFLINE_AFTER * 1000), int(OFFLINE_SHOWN_FOR * 1000)


def answer(worker: str = W1, ago_ms: int = 0, **fields: Any) -> Answer:
    return Answer(worker, NOW_MS - ago_ms, **fields)


def job(worker: str = W1, ago_ms: int = 0, number: int = 1) -> JobBrief:
    return JobBrief(f"job-{number}", "shop.work", "STARTED", worker, NOW_MS - ago_ms)


def asked(*answers: Answer, present: tuple[str, ...] | None = None, error: str | None = None) -> Round:
    names = [known.worker for known in answers] if present is None else present
    return Round(NOW_MS, frozenset(names), {known.worker: known for known in answers}, error)


def seen(found: Round | None, *running: JobBrief) -> dict[str, tuple[str, int | None, int]]:
    """Of each worker its state, the milliseconds since it was heard of, and its jobs, in the order of the list."""
    views = workers_seen(found, running, NOW_MS)
    return {view.name: (view.state.value, view.heard_ms and NOW_MS - view.heard_ms, view.jobs) for view in views}


def test_a_worker_that_answers_is_online() -> None:
    """K4: with the jobs on it, by their records."""
    found = asked(answer(ago_ms=4_000))
    assert seen(found, job(number=1, ago_ms=9_000), job(number=2, ago_ms=6_000)) == {W1: ("online", 4_000, 2)}


def test_a_worker_that_does_not_answer_and_shows_no_life_is_offline() -> None:
    """K4: offline with n running jobs; those come first, since somebody waits for them."""
    found = asked(answer("a@shop"))
    views = seen(found, job(W2, 60_000), job("", 60_000))
    assert list(views.items()) == [(W2, ("offline", 60_000, 1)), ("a@shop", ("online", 0, 0))]


@pytest.mark.parametrize(("ago_ms", "state"), [(OFFLINE_MS, "silent"), (OFFLINE_MS + 1, "offline")])
@pytest.mark.parametrize("by", ["answer", "job"])
def test_a_worker_that_was_heard_of_a_moment_ago_is_only_silent(by: str, ago_ms: int, state: str) -> None:
    """K4: a solo worker does not answer while it runs a job, and one late answer is not the end of a worker."""
    if by == "answer":
        assert seen(asked(answer(ago_ms=ago_ms), present=())) == {W1: (state, ago_ms, 0)}
    else:
        assert seen(asked(answer(ago_ms=90_000), present=()), job(ago_ms=ago_ms)) == {W1: (state, ago_ms, 1)}


@pytest.mark.parametrize("found", [None, asked(error="no broadcasts")], ids=["no round yet", "nobody could ask"])
def test_where_nobody_could_ask_nobody_is_offline(found: Round | None) -> None:
    """K4, G9: what is not known is not said; jobs that show life say that their worker lives."""
    assert seen(found, job(W1, 1_000), job(W2, 60_000)) == {W1: ("silent", 1_000, 1), W2: ("unknown", 60_000, 1)}


def test_a_worker_that_left_without_a_job_is_forgotten() -> None:
    """K4: fleets grow and shrink; one with a job on it is shown for as long as the job is."""
    assert list(seen(asked(answer(ago_ms=FORGOTTEN_MS), present=()))) == [W1]
    assert seen(asked(answer(ago_ms=FORGOTTEN_MS + 1), present=())) == {}
    assert list(seen(asked(answer(ago_ms=FORGOTTEN_MS + 1)))) == [W1], "it answered in the last round, whenever that was"
    assert list(seen(asked(answer(ago_ms=FORGOTTEN_MS + 1), present=()), job(ago_ms=FORGOTTEN_MS * 2))) == [W1]


def test_a_clock_that_is_ahead_is_no_life_in_the_future() -> None:
    """K4: a job's sign of life has the time of its worker's clock."""
    assert seen(asked(), job(ago_ms=-5_000)) == {W1: ("silent", 0, 1)}


def test_a_record_that_shows_no_life_at_all_is_no_life_in_1970() -> None:
    """K4: what is not known is None."""
    assert seen(asked(), job(ago_ms=NOW_MS)) == {W1: ("offline", None, 1)}


@pytest.mark.parametrize(
    ("view", "text"),
    [
        (WorkerView(W1, WorkerState.ONLINE, NOW_MS, 3), "online"),
        (WorkerView(W1, WorkerState.SILENT, NOW_MS - 3_000, 1), "no answer"),
        (WorkerView(W1, WorkerState.OFFLINE, NOW_MS - 60_000, 0), "offline"),
        (WorkerView(W1, WorkerState.OFFLINE, NOW_MS - 60_000, 1), "offline with 1 running job"),
        (WorkerView(W1, WorkerState.OFFLINE, None, 2), "offline with 2 running jobs"),
        (WorkerView(W1, WorkerState.UNKNOWN, None, 2), "not known"),
    ],
)
def test_how_a_worker_stands_is_said_in_words(view: WorkerView, text: str) -> None:
    """K4: a state is never a colour alone."""
    assert standing_text(view) == text


STATS = {
    "pool": {"implementation": "celery.concurrency.prefork:TaskPool", "max-concurrency": 8},
    "taskora": {"version": "1.0", "packages": {"celery": "5.7.0"}, "active": 3, "queues": ["celery", "reports"]},
}


def test_an_answer_says_what_the_worker_is() -> None:
    """K4: slots used, versions and queues, at the instant at which it came."""
    found = answer_of(Replied(W1, STATS, 1.0, 2.5))
    assert found == Answer(W1, 2_500, "prefork", 8, 3, ("celery", "reports"), "1.0", "5.7.0")


@pytest.mark.parametrize(
    ("reply", "pool"),
    [
        ({"pool": {"implementation": "celery.concurrency.thread:TaskPool"}}, "threads"),
        ({"pool": {"implementation": "gevent"}}, "gevent"),
        ({"pool": "?", "taskora": None}, None),
        ({"pool": {"max-concurrency": True, "implementation": 7}, "taskora": {"queues": "celery", "packages": 5}}, None),
        ({"error": "KeyError()"}, None),
        ("nonsense", None),
    ],
)
def test_an_answer_that_is_not_understood_says_only_that_the_worker_is_there(reply: Any, pool: str | None) -> None:
    """K4: workers of other versions, and without this library, answer as well."""
    assert answer_of(Replied(W1, reply, 1.0, 2.0)) == Answer(W1, 2_000, pool)


def test_what_a_worker_says_of_itself_is_bounded_and_can_be_written() -> None:
    """K4: a queue's name goes to the broker again; one that no broker takes must not hide the queues of all others."""
    said = {"pool": {"max-concurrency": 10**400}, "taskora": {"queues": ["\ud800", *["q" * 10_000] * 2_000], "version": "\ud800"}}
    found = answer_of(Replied("w1@host", said, 0.0, 1.0))
    assert found.queues is not None
    assert (found.slots, found.version, found.queues[0], len(found.queues)) == (None, "\\ud800", "\\ud800", 1_000)
    assert len(found.queues[1]) <= 300
