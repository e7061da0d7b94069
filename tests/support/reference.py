"""The tables of names in docs/api.md, made from the docstrings of what they name."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path

from tests.support.pages import DOCS

PAGE = DOCS / "api.md"
MODULES = (
    "taskora_celery",
    "taskora_celery.testing",
    "taskora_celery.board",
    "taskora_celery.django",
    "taskora_celery.flower",
    "taskora_celery.sse",
)

_TABLE = re.compile(r"^<!-- names of (\S+) -->\n(.*?)^<!-- end -->\n", re.MULTILINE | re.DOTALL)
_ROLE = re.compile(r":\w+:`~?([^`]+)`")


def with_tables(page: str) -> str:
    """Return the page with its tables made anew."""
    return _TABLE.sub(lambda table: f"<!-- names of {table[1]} -->\n\n{_table(table[1])}\n<!-- end -->\n", page)


def modules_in(page: str) -> list[str]:
    """Return the modules that the page has a table of."""
    return [table[1] for table in _TABLE.finditer(page)]


def _table(module: str) -> str:
    names = import_module(module).__all__
    return "| name | |\n|---|---|\n" + "".join(f"| `{name}` | {_meaning(module, name)} |\n" for name in names)


def _meaning(module: str, name: str) -> str:
    """Return the first paragraph of what says the name's meaning, as one line of Markdown."""
    value = getattr(import_module(module), name)
    said = inspect.getdoc(value) if inspect.isclass(value) or inspect.isroutine(value) else _comment(module, name)
    assert said, f"{module}.{name} says nothing of itself"
    line = " ".join(said.split("\n\n")[0].split())
    line = _ROLE.sub(lambda role: f"`{role[1].removeprefix('taskora_celery.')}`", line)
    return line.replace("``", "`").replace("|", "\\|")


def _comment(module: str, name: str) -> str:
    """Return the comment above a value's definition, wherever in the package it is."""
    package = Path(import_module("taskora_celery").__file__ or "").parent
    definition = re.compile(rf"^((?:#: .*\n)+){name} = ", re.MULTILINE)
    sources = (path.read_text("utf-8") for path in sorted(package.rglob("*.py")))
    found = next((match[1] for source in sources if (match := definition.search(source))), "")
    return found.replace("#: ", "").replace("\n", " ").strip() or (import_module(f"{module}._version").__doc__ or "")
