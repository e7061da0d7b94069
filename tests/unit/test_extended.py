"""What is shown of a result backend's metadata: redacted, bounded, and whatever it is."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from taskora_celery.extended import CHILDREN, TRACEBACK_CHARS, BackendFacts, backend_facts, facts_in
from taskora_celery.redaction import Redactor
from taskora_celery.runtime import Runtime


def facts(**meta: Any) -> BackendFacts:
    return facts_in({"status": "SUCCESS", **meta}, Redactor())


@pytest.mark.parametrize("meta", [None, {}, {"status": None}, {"status": "PENDING", "result": 1}])
def test_of_what_has_no_result_nothing_is_known(meta: Any) -> None:
    """K4: PENDING is Celery's word for it."""
    assert facts_in(meta, Redactor()) == BackendFacts()


def test_arguments_and_results_are_redacted_as_records_are() -> None:
    """K4, F7: by key in plain data, by name in a repr, in a traceback, too."""
    found = facts(
        args=[{"password": "hunter2"}, 1], kwargs="{'api_key': 'hunter2', 'n': 1}", result={"token": "hunter2", "ok": True},
        traceback='Traceback:\n  login(password="hunter2")\n',
    )  # fmt: skip
    assert "hunter2" not in repr(found)
    assert found.result == '{\n  "token": "[redacted]",\n  "ok": true\n}'
    assert found.traceback is not None
    assert found.traceback.startswith("Traceback:\n")


@pytest.mark.parametrize(("result", "shown"), [("text", "text"), (None, None), (0, "0"), (ValueError("no"), "ValueError: no")])
def test_a_result_is_shown_as_what_it_is(result: Any, shown: str | None) -> None:
    """K4: a text as it is, an exception by its class, all else as JSON."""
    assert facts(result=result).result == shown


def test_progress_is_no_result() -> None:
    """K4: what a running job has in its place."""
    assert facts_in({"status": "PROGRESS", "result": {"percent": 3}}, Redactor()) == BackendFacts("PROGRESS")


def test_the_jobs_around_it_are_named_and_bounded() -> None:
    """K4: parent, group, children, and the members of a group."""
    group = [["g", None], [[["b", None], None], (("c", None), None)]]
    children = [[["a", None], None], group, "odd", [[], None], *([[f"n{n}", None], None] for n in range(200))]
    found = facts(parent_id="p", group_id="g", children=children)
    assert (found.parent, found.group, found.children[:4]) == ("p", "g", ("a", "b", "c", "n0"))
    assert len(found.children) == CHILDREN
    lines = [f"line {n}, token=hidden" for n in range(TRACEBACK_CHARS // 10)]
    shown = (facts(traceback="\n".join(lines)).traceback or "").splitlines()
    assert 500 < len(shown) < TRACEBACK_CHARS // 20
    assert shown == [line.replace("hidden", "[redacted]") for line in lines[-len(shown) :]], "the last, and no part of a line"


def test_a_backend_that_fails_is_said_to_and_no_failure() -> None:
    """K4: without its password; the record is shown all the same."""
    app = Celery("shop", broker="memory://", backend="disabled://", set_as_current=False)
    assert backend_facts(app, "x").failure
    Runtime.forget(app)


@pytest.mark.parametrize("status", [[], {}, 5, None, True])
def test_metadata_whose_state_is_none_says_nothing(status: Any) -> None:
    """K4: it comes from a database, and may be anything."""
    assert facts_in({"status": status, "result": 1}, Redactor()) == BackendFacts()


def test_ids_that_no_page_can_hold_are_written_out() -> None:
    """K4: JSON may hold halves of surrogate pairs, which have no UTF-8 form."""
    found = facts_in({"status": "FAILURE", "parent_id": "\ud800", "children": [[["\udfff", None], None]]}, Redactor())
    assert (found.parent, found.children) == ("\\ud800", ("\\udfff",))
