"""The end of the demo: what came out, and where to look next."""

from __future__ import annotations

import sys
import textwrap
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from example_project.demo.panel import number
from example_project.demo.terminal import clean, pad, width

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from example_project.demo.jobs import JobView
    from example_project.demo.redis_server import RedisServer
    from example_project.demo.terminal import Screen
    from taskora_celery.records import AttemptRecord

__all__ = ["attempts_table", "deliveries_table", "further", "pages_table", "report_table", "rows_table", "words_table"]

LABEL = 18
#: So many characters of a job's id name it, in a list as short as this one.
SHORT_ID = 8


def report_table(screen: Screen, report: Mapping[str, Any], seconds: float) -> list[str]:
    """Return the report of ``index_sources`` as lines."""
    longest = report["longest"]
    where = f"{longest['name']}, {number(longest['lines'])} lines, in {clean(longest['path'])}" if longest else "none"
    imports = ", ".join(f"{clean(name)} {number(count)}" for name, count in report["imports"].items())
    rows = {
        "tree": f"{clean(report['root'])} (Python {report['python']})",
        "files": f"{number(report['files'])}, {number(report['unparsable'])} of them unparsable, in {seconds:.1f} s",
        "lines": number(report["lines"]),
        "functions": f"{number(report['functions'])}, {number(report['async_functions'])} of them async",
        "classes": number(report["classes"]),
        "longest function": where,
        "imported most": imports or "nothing",
    }
    return [_title(screen, "index_sources"), *_table(screen, rows)]


def attempts_table(screen: Screen, page: Mapping[str, Any], history: list[AttemptRecord]) -> list[str]:
    """Return what ``fetch_page`` went through as lines."""
    rows = {}
    for record in history:
        outcome = f"{record.outcome or 'running'}"
        why = f"  {clean(record.reason)}" if record.reason else ""
        after = f", again after {record.delay:.1f} s" if record.delay is not None else ""
        rows[f"attempt {record.number}"] = outcome + why + after
    rows["page"] = f"{page['status']}, {number(page['bytes'])} bytes"
    return [_title(screen, "fetch_page"), *_table(screen, rows)]


def pages_table(screen: Screen, result: Mapping[str, Any], seconds: float) -> list[str]:
    """Return what ``fetch_pages`` got as lines."""
    pages = result["pages"]
    requests, at_once = sum(page["requests"] for page in pages), sum(page["requests"] == 1 for page in pages)
    rows = {
        "pages": f"{number(len(pages))}, {number(result['bytes'])} bytes, in {seconds:.1f} s",
        "requests": f"{number(requests)}; {number(at_once)} pages came at the first, the others after a 429 and a 503",
    }
    return [_title(screen, "fetch_pages"), *_table(screen, rows)]


def deliveries_table(screen: Screen, history: list[AttemptRecord]) -> list[str]:
    """Return by whom a job was run, and what became of it there, as lines."""
    rows = [("delivery", "worker", "outcome", "duration", "reason")]
    for record in history:
        duration = "" if record.duration is None else f"{record.duration:.1f} s"
        outcome, reason = record.outcome or "running", clean(record.reason or "")
        rows.append((str(record.delivery), clean(record.worker), outcome, duration, reason))
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    head, *lines = ("  ".join(pad(text, room) for text, room in zip(row, widths, strict=True)).rstrip() for row in rows)
    return [_title(screen, "Who ran index_sources"), f"  {screen.style(head, 'dim')}", *(f"  {line}" for line in lines)]


def rows_table(screen: Screen, title: str, rows: Mapping[str, str]) -> list[str]:
    """Return a title, and rows below it."""
    return [_title(screen, title), *_table(screen, {label: clean(value) for label, value in rows.items()})]


def words_table(screen: Screen, words: Mapping[str, Any]) -> list[str]:
    """Return the result of ``word_count`` as lines."""
    most = ", ".join(f"{clean(word)} {number(count)}" for word, count in words["most_common"])
    rows = {"words": f"{number(words['words'])}, {number(words['distinct'])} of them distinct", "most common": most}
    return [_title(screen, "word_count"), *_table(screen, rows)]


def further(screen: Screen, server: RedisServer, view: JobView, *, running: bool) -> list[str]:
    """Return how to look further; ``running`` says that worker and Redis are still up.

    Each line is to be typed as it stands: where Redis ends with the demo, the only one is that which leaves it running.
    """
    if server.own and not running:
        commands = [*_activation(), "python -m example_project.demo --stay"]
        return [_title(screen, "Look further"), *_where(server, running=running), *_typed(screen, commands)]
    jobs, job = "celery -A example_project jobs", view.handle.id[:SHORT_ID]
    commands = [
        *_activation(),
        *([f"export REDIS_URL={server.url}"] if server.own else []),
        f"{jobs} list",
        f"{jobs} show {job}",
        f"{jobs} logs {job} --level info",
        *([f"{jobs} doctor"] if running else []),
        "python",
    ]
    code = [
        "from example_project import app",
        "from taskora_celery import JobHandle",
        f'handle = JobHandle("{view.handle.id}", app=app)',
        "handle.status(), handle.get_progress(), handle.history()",
        'for entry in handle.get_logs(level="warn"): print(entry.message, entry.meta)',
    ]
    lines = [*_typed(screen, commands), *_typed(screen, code, ">>>")]
    return [_title(screen, "Look further"), *_where(server, running=running), *lines]


def _typed(screen: Screen, lines: Sequence[str], prompt: str = "$") -> list[str]:
    return [screen.style(f"  {prompt} {line}", "cyan") for line in lines]


def _where(server: RedisServer, *, running: bool) -> list[str]:
    if running:
        if server.own:
            return ["  Worker and Redis run on until Ctrl-C. In another terminal, in this directory:"]
        return [
            f"  The worker runs on until Ctrl-C, on your Redis ({server.address}).",
            "  In another terminal, in this directory and with the same REDIS_URL:",
        ]
    if server.own:
        return [
            "  The demo's own Redis ends with it. Leave it and the worker running, and see the jobs from another",
            "  terminal, by commands that the demo names then:",
        ]
    return [f"  The records stay in your Redis ({server.address}) for a day. In this directory:"]


def _activation() -> list[str]:
    """Return the command that makes this Python the shell's, where it lives in a virtual environment."""
    script = Path(sys.prefix) / "bin" / "activate"
    if sys.prefix == sys.base_prefix or not script.exists():
        return []
    with suppress(ValueError):
        script = script.relative_to(Path.cwd())
    return [f"source {script}"]


def _title(screen: Screen, text: str) -> str:
    return "\n" + screen.style(text, "bold")


def _table(screen: Screen, rows: Mapping[str, str]) -> list[str]:
    room = max(screen.columns - LABEL - 2, 20)
    below = f"\n{' ' * (LABEL + 2)}"
    wrapped = {
        label: below.join(textwrap.wrap(value, room, break_on_hyphens=False)) if screen.live else value
        for label, value in rows.items()
    }
    return [f"  {screen.style(label.ljust(LABEL), 'dim')}{value}" for label, value in wrapped.items()]
