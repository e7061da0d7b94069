"""The board's search: what can be written, what it means, and what is said of what means nothing."""

from __future__ import annotations

from typing import Any

import pytest

from taskora_celery.board.pages import FilterError
from taskora_celery.board.search import SEARCH_CHARS, filter_of, searched, with_states
from taskora_celery.records import JobStatus
from taskora_celery.views import JobFilter, JobView


def view(**fields: Any) -> JobView:
    job = {
        "job_id": "7ee1047d-41c2",
        "task": "reports.render",
        "worker": "w1@host",
        "state": "failed",
        "reason": "HTTP 503: Busy",
    }
    job.update(fields)
    status = JobStatus(job["job_id"], job["task"], "FAILURE", 1, 1, job["worker"], 1, 1, 1)
    return JobView(status, job["state"], job["reason"])


def test_nothing_wants_everything() -> None:
    """K4: the list without a search."""
    assert filter_of("  ") == JobFilter()
    assert filter_of("").takes(view())


@pytest.mark.parametrize(
    "search",
    [
        "7ee1", "render", "REPORTS", "id:7ee1047d", "task:render", "task:reports.*", "state:failed", "state:FAILURE",
        "state:running,failed", "state:running state:failed", "worker:w1", "worker:w1@host", "reason:503", "reason:busy",
        'reason:"http 503: busy"', '"reports.render"', "render state:failed worker:w? reason:http",
    ],
)  # fmt: skip
def test_a_job_is_found_by_what_is_seen_of_it(search: str) -> None:
    """K4: id, task, state, worker, reason, in any order."""
    assert filter_of(search).takes(view())


@pytest.mark.parametrize(
    "search",
    ["ee1047d", "mail", "id:render", "task:mail", "task:render.*", "state:done", "worker:w2", "reason:504", "render reason:504"],
)
def test_another_job_is_not_found(search: str) -> None:
    """K4: an id is known by its beginning, and all terms must hold."""
    assert not filter_of(search).takes(view())


@pytest.mark.parametrize(
    ("search", "says"),
    [
        ("queue:mail", "queue: is nothing to search for: id:, task:, state:, worker:, reason:"),
        ("state:gone", "'gone' is no state: one of queued, running"),
        ("state:", "state: has no value"),
        ('reason:""', "reason: has no value"),
        ('reason:"half', "cannot be read: write name:value, with quotes around a value that has spaces"),
        ("task:a task:b", "task: is said twice"),
        ("x" * (SEARCH_CHARS + 1), "is too long: 500 at most"),
    ],
)
def test_what_means_nothing_is_told_in_one_sentence(search: str, says: str) -> None:
    """K4: it names the thing, and the way out."""
    with pytest.raises(FilterError, match=says.replace("(", r"\(")):
        filter_of(search)


def test_a_chip_changes_the_state_and_nothing_else() -> None:
    """K4: filters live in the URL, so a chip is a link to another search."""
    search = 'state:running render "a:b" reason:"no such column" worker:w1'
    changed = with_states(search, frozenset({"failed"}))
    assert changed == 'render "a:b" reason:"no such column" worker:w1 state:failed'
    assert [term for term in searched(changed) if term.name != "state"] == [t for t in searched(search) if t.name != "state"]
    assert with_states(changed, frozenset()) == 'render "a:b" reason:"no such column" worker:w1'
    assert with_states('half a "word', frozenset({"done"})) == "state:done"
