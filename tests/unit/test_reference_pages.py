"""docs/api.md and docs/task-options.md name what there is."""

from __future__ import annotations

import os
import re
from importlib import import_module

import pytest

from taskora_celery import ContextTask
from taskora_celery.options import BY_SETTING
from taskora_celery.views import STATES
from tests.support.pages import DOCS
from tests.support.reference import MODULES, PAGE, modules_in, with_tables

WRITE = "TASKORA_TEST_WRITE_PAGES"
_DIRECTIVE = re.compile(r"^\.\. auto\w+:: ([\w.]+)|^\.\. currentmodule:: ([\w.]+)", re.MULTILINE)
_OPTION = re.compile(r"^\| `(\w+)` \| `?([^|`]+?)`? \|", re.MULTILINE)


def documented() -> set[str]:
    """The full names of what the page takes from docstrings."""
    module, names = "", set[str]()
    for name, current in _DIRECTIVE.findall(PAGE.read_text("utf-8")):
        module = current or module
        if name:
            names.add(name if name.startswith("taskora_celery.") else f"{module}.{name}")
    return names


def test_the_tables_of_names_are_made_from_the_docstrings() -> None:
    """Run with ``TASKORA_TEST_WRITE_PAGES=1`` to write them anew."""
    page = PAGE.read_text("utf-8")
    made = with_tables(page)
    if os.environ.get(WRITE):
        PAGE.write_text(made, "utf-8")
    assert made == page
    assert modules_in(page) == list(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_each_public_name_is_documented_once(module: str) -> None:
    """What ``__all__`` lists has its docstring on the page, there or in the module that it comes from."""
    found = documented()
    elsewhere = {"taskora_celery.sse.server_sent_events": "taskora_celery.server_sent_events"}
    wanted = {f"{module}.{name}" for name in import_module(module).__all__}
    assert {elsewhere.get(name, name) for name in wanted} <= found


def test_the_page_names_nothing_that_there_is_not() -> None:
    """A name that has gone is found here, not only when the documentation is built."""
    for name in documented():
        home, _, last = name.rpartition(".")
        assert hasattr(import_module(home), last), name


def test_the_task_options_are_listed_with_their_defaults() -> None:
    """Each of ours, as the base class has it."""
    listed = dict(_OPTION.findall((DOCS / "task-options.md").read_text("utf-8").split("\n## ")[1]))
    assert set(listed) == {"tracked", "heartbeat_timeout", "max_stalls", "cancel_grace", "on_cancel"}
    for name, default in listed.items():
        value = getattr(ContextTask, name)
        shown = f"{value:g}" if isinstance(value, float) else repr(value)
        assert default == (f"taskora_{name}" if value is BY_SETTING else shown)


def test_the_states_are_those_that_there_are() -> None:
    """K3: each state of a record, and the commands' word for it."""
    page = (DOCS / "concepts.md").read_text("utf-8")
    table = page.split("| record | commands | meaning |\n|---|---|---|\n")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in table.splitlines()]
    told = {state: word for states, words in rows for state, word in zip(states.split(", "), words.split(", "), strict=True)}
    assert {"PENDING": "queued", **told} == STATES, "a job that waits in its queue has no record"
