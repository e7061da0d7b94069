"""The examples in the documentation run."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any

import taskora_celery

DOCS = Path(taskora_celery.__file__).parents[1] / "docs"


def _run_examples(page: str) -> dict[str, Any]:
    """Run the Python blocks of a page one after the other, and return what they defined."""
    namespace: dict[str, Any] = {"__name__": page}
    text = (DOCS / page).read_text("utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(compile(block, page, "exec"), namespace)
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
