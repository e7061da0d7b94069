"""The structure that docs/architecture.md draws, checked in the code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import taskora_celery
from taskora_celery.settings import settings_table

PACKAGE = Path(taskora_celery.__file__).parent

#: From the bottom up; a module may import from its own layer and from those below.
LAYERS = (
    (
        "records",
        "errors",
        "settings",
        "redaction",
        "encoding",
        "progress",
        "clock",
        "backoff",
        "background",
        "agenda",
        "tally",
        "texts",
        "times",
        "_version",
    ),
    ("store", "lease"),
    ("reporter",),
    ("context", "local", "signal", "logs", "loop", "loop_job", "greenlet_loop", "retry"),
    (
        "about",
        "task",
        "django",
        "eager",
        "handle",
        "execution",
        "scheduling",
        "cancelling",
        "coroutines",
        "delivery",
        "entry",
        "handler",
        "frames",
        "interrupts",
        "outcomes",
        "stopping",
        "options",
        "injection",
        "results",
        "databases",
        "capture",
        "runtime",
        "reading",
        "aio",
        "awaiting",
        "waiting",
        "sse",
        "standin",
        "undisturbed",
        "adapters",
        "tracing",
        "typed",
        "events",
        "shapes",
        "app",
        "views",
        "documents",
        "listing",
        "following",
        "looks",
        "failures",
        "inspecting",
        "workers",
        "queues",
        "rounds",
        "census",
        "extended",
    ),
    ("worker",),
    ("doctor", "metrics", "testing", "flower"),
    ("board",),
    ("cli",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def _part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    """A layer that imports from above cannot be tested, replaced or understood alone."""
    own = RANK[_part(path)]
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] == "taskora_celery" and len(parts) > 1:
            assert RANK[parts[1]] <= own, f"{path.name} imports {name}, which is a layer above"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_seams_know_redis_and_only_the_worker_layer_knows_the_worker(path: Path) -> None:
    """One place each: what breaks with a new redis-py or a new Celery is found in one package."""
    part, imports = _part(path), _imports(path)
    if part not in {"store", "lease"}:
        assert not [name for name in imports if name.split(".")[0] in {"redis", "boto3", "botocore"}]
    if part != "worker":
        assert not [name for name in imports if name.startswith(("celery.worker", "celery.bootsteps", "celery.concurrency"))]


def test_the_public_names_are_listed_and_sorted() -> None:
    """Public by re-export: ``__all__`` is what ``__init__`` imports, no more and no less."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    homes = {node.module: [alias.name for alias in node.names] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported = {name for module, names in homes.items() if str(module).startswith("taskora_celery.") for name in names}
    assert sorted(imported) == sorted(taskora_celery.__all__)
    assert list(taskora_celery.__all__) == sorted(taskora_celery.__all__)
    by_home = {f"taskora_celery.{home}": list(names) for home, names in taskora_celery._HOMES.items()}
    assert by_home == {module: names for module, names in homes.items() if module in by_home}, "each is found where it is read"
    assert {name for name in taskora_celery.__all__ if not hasattr(taskora_celery, name)} == set()


def test_the_docs_show_the_settings_as_they_are() -> None:
    """L4: the table in the docs is made from the one place that defines the settings."""
    page = PACKAGE.parent / "docs" / "settings.md"
    assert settings_table() in page.read_text("utf-8")
