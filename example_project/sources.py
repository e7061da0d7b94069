"""What there is to know about a tree of Python sources: pure functions and one value, no Celery.

The task that runs them is ``example_project.tasks.index_sources``.
"""

from __future__ import annotations

import ast
import os
import platform
import sysconfig
import warnings
from bisect import bisect_right
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Function", "Statistics", "default_root", "find_sources", "parse", "remaining"]

#: Other people's packages are no part of the tree.
_SKIPPED = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules"})
_TOP = 10
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def default_root() -> Path:
    """Return the directory of the running Python's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def find_sources(root: Path) -> list[str]:
    """Return the ``.py`` files below ``root`` as sorted relative paths with forward slashes; links are not followed.

    :raises NotADirectoryError: there is no such directory.
    """
    if not root.is_dir():
        raise NotADirectoryError(f"no directory {str(root)!r}")
    found: list[str] = []
    for directory, names, files in os.walk(root):
        names[:] = [name for name in names if name not in _SKIPPED and not name.startswith(".")]
        base = Path(directory).relative_to(root)
        found.extend((base / name).as_posix() for name in files if name.endswith(".py"))
    return sorted(found)


def remaining(paths: list[str], last: str | None) -> list[str]:
    """Return the paths behind ``last``; all of them where it is None. ``paths`` is sorted."""
    return paths if last is None else paths[bisect_right(paths, last) :]


def parse(path: Path) -> tuple[ast.Module, int]:
    """Return a file's syntax tree and its number of lines.

    :raises OSError: the file cannot be read.
    :raises SyntaxError, ValueError, RecursionError: it is not Python, or not the running Python's.
    """
    source = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the sources: "invalid escape sequence" and its kin
        tree = ast.parse(source, str(path))
    return tree, source.count(b"\n") + (not source.endswith(b"\n") and bool(source))


@dataclass(frozen=True, slots=True)
class Function:
    """A function and its length in lines."""

    name: str
    path: str
    lines: int


@dataclass(slots=True)
class Statistics:
    """The sums over all files read so far. :meth:`dump` and :meth:`load` are what a checkpoint keeps of them."""

    files: int = 0
    unparsable: int = 0
    lines: int = 0
    functions: int = 0
    async_functions: int = 0
    classes: int = 0
    longest: Function | None = None
    imports: Counter[str] = field(default_factory=Counter)

    def add(self, path: str, tree: ast.Module, lines: int) -> Function | None:
        """Count one file; return its longest function where it is the longest of all so far."""
        before = self.longest
        self.files += 1
        self.lines += lines
        for node in ast.walk(tree):
            self._count(path, node)
        return None if self.longest is before else self.longest

    def add_unparsable(self) -> None:
        """Count a file that could not be read."""
        self.files += 1
        self.unparsable += 1

    def dump(self) -> dict[str, Any]:
        """Return the sums as plain JSON types."""
        return {**asdict(self), "imports": dict(self.imports)}

    @classmethod
    def load(cls, data: dict[str, Any] | None) -> Statistics:
        """Return the sums that :meth:`dump` gave; empty ones for None."""
        if data is None:
            return cls()
        longest = data["longest"] and Function(**data["longest"])
        return cls(**{**data, "longest": longest, "imports": Counter(data["imports"])})

    def report(self, root: Path) -> dict[str, Any]:
        """Return what the job's caller gets, as plain JSON types; ties are in alphabetical order."""
        top = sorted(self.imports.items(), key=lambda item: (-item[1], item[0]))[:_TOP]
        return {**self.dump(), "root": str(root), "python": platform.python_version(), "imports": dict(top)}

    def _count(self, path: str, node: ast.AST) -> None:
        if isinstance(node, _FUNCTIONS):
            self.functions += 1
            self.async_functions += isinstance(node, ast.AsyncFunctionDef)
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if self.longest is None or lines > self.longest.lines:
                self.longest = Function(node.name, path, lines)
        elif isinstance(node, ast.ClassDef):
            self.classes += 1
        elif isinstance(node, ast.Import):
            self.imports.update({alias.name.partition(".")[0] for alias in node.names})
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            self.imports[node.module.partition(".")[0]] += 1
