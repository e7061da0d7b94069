"""The page Failures: what went wrong, how often, and since when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taskora_celery.board.pages import Ask, FilterError, Page
from taskora_celery.board.search import SEARCH_CHARS
from taskora_celery.failures import FailureGroup, failures_in, literal_of
from taskora_celery.times import parse_duration

__all__ = ["PAGE", "search_of"]

#: The times that are offered, as they stand in the address.
TIMES = (("", "any time"), ("1h", "the last hour"), ("1d", "the last day"))


def _context(ask: Ask) -> Mapping[str, Any]:
    since = ask.filters.get("since", "").strip()
    try:
        seconds = parse_duration(since) if since else None
    except ValueError as exc:
        raise FilterError(f"since: {exc}") from exc
    since_ms = 0 if seconds is None else max(ask.now_ms - int(seconds * 1000), 0)
    found = failures_in(ask.reader, since_ms=since_ms)
    return {
        "news": f"{found.failed} failed" if found.failed else "",
        "found": found,
        "rows": [(group, search_of(group)) for group in found.groups],
        "since": since,
        "times": TIMES,
        "indexed": ask.reader.indexed,
    }


def search_of(group: FailureGroup) -> str:
    """Return the search that finds a group's jobs on the page Jobs, and few others.

    It is for the task and for the longest text that the messages have in common, or the exception where they have none.
    """
    terms = ["state:failed"]
    for name, value in (("task", group.task), ("reason", literal_of(group) or group.error)):
        term = f'{name}:"{value}"'
        if value.strip() and '"' not in value and len(" ".join([*terms, term])) <= SEARCH_CHARS:
            terms.append(term)
    return " ".join(terms)


PAGE = Page("failures", "Failures", "failures.html", _context, every=5.0)
