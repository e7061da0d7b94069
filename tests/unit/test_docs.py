"""The examples in the documentation run."""

from __future__ import annotations

import inspect
import sqlite3
from typing import Any

import pytest

from tests.support.pages import code_of


def _run_examples(page: str) -> dict[str, Any]:
    """Run the Python blocks of a page one after the other, and return what they defined."""
    namespace: dict[str, Any] = {"__name__": page}
    exec(compile(code_of(page), page, "exec"), namespace)
    return namespace


def test_the_examples_of_long_jobs_run() -> None:
    """E8, D7: the job goes through all rows, the guard refuses an earlier delivery, and the history can be printed."""
    examples = _run_examples("long-jobs.md")
    handle = examples["export"].apply(({"rows": 3},))
    assert (handle.get(), handle.get_progress()["percent"]) == (3, 100.0)
    assert examples["export"].acks_late, "as the page says"
    assert examples["export"].reject_on_worker_lost
    examples["tell"](handle)
    with sqlite3.connect(":memory:") as database:
        database.execute("CREATE TABLE invoices (id, paid, fence)")
        database.execute("INSERT INTO invoices VALUES (1, 0, 0)")
        assert examples["mark_paid"](database, 1, fence=2)
        assert examples["mark_paid"](database, 1, fence=2), "the same delivery may write again"
        assert not examples["mark_paid"](database, 1, fence=1)


def test_the_examples_of_typing_run() -> None:
    """N1: at run time, typed tasks are tasks as ever; type checkers read the page in ``test_typing.py``."""
    examples = _run_examples("typing.md")
    assert examples["import_rows"].apply(({"source": "orders.csv"},), {"batch": 5}).get() == 5
    assert examples["index"].apply(("abc",)).get() == 3
    assert examples["index"] is examples["app"].tasks["shop.index"]


def test_the_examples_of_tests_pass(monkeypatch: pytest.MonkeyPatch, job_runner: Any, job_context: Any) -> None:
    """O1, O2: every test on the page, with its fixtures."""
    examples = _run_examples("testing.md")
    fixtures = {"monkeypatch": monkeypatch, "job_runner": job_runner, "job_context": job_context}
    tests = {name: value for name, value in examples.items() if name.startswith("test_")}
    assert len(tests) >= 10
    for test in tests.values():
        test(**{name: fixtures[name] for name in inspect.signature(test).parameters})
        monkeypatch.undo()
