"""The page Queues: what waits, since when, and whether somebody will take it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taskora_celery.board.pages import Ask, Page
from taskora_celery.board.pages.workers import await_round, seen_now
from taskora_celery.queues import queues_seen, worker_command

__all__ = ["PAGE"]

#: So many queues without a consumer are told of with their command.
WARNED_OF = 10


def _context(ask: Ask) -> Mapping[str, Any]:
    found, workers, _ = seen_now(ask.app, ask.reader, ask.now_ms)
    views = [] if found is None else queues_seen(found, workers)
    unserved = [(view, worker_command(ask.called, view.name)) for view in views if view.unserved]
    return {
        "news": f"{len(unserved)} without a worker" if unserved else "",
        "round": found,
        "rows": views,
        "warnings": unserved[:WARNED_OF],
        "warnings_left": max(len(unserved) - WARNED_OF, 0),
    }


PAGE = Page("queues", "Queues", "queues.html", _context, every=3.0, ready=await_round)
