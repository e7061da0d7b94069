"""The page Workers: who is there, what runs on whom, and who is gone with jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taskora_celery.board.pages import Ask, Page
from taskora_celery.board.search import SEARCH_CHARS
from taskora_celery.inspecting import ANSWER_TIMEOUT, Round
from taskora_celery.listing import JobsReader
from taskora_celery.queues import worker_command
from taskora_celery.rounds import Inspector
from taskora_celery.views import GOING
from taskora_celery.workers import JOBS_LOOKED_AT, OFFLINE_AFTER, WorkerView, standing_text, workers_seen

__all__ = ["FIRST_WAIT", "PAGE", "await_round", "jobs_of", "seen_now"]

#: Seconds that somebody who opens the page waits for the first round; without it the page says that workers are being asked.
FIRST_WAIT = ANSWER_TIMEOUT + 1.5


def _context(ask: Ask) -> Mapping[str, Any]:
    found, views, left = seen_now(ask.app, ask.reader, ask.now_ms)
    queue = ask.filters.get("queue", "")
    shown = [view for view in views if not queue or queue in (view.queues or ())]
    lost = sum(view.lost for view in views)
    return {
        "news": f"{lost} offline with jobs" if lost else "",
        "round": found,
        "rows": [(view, standing_text(view), jobs_of(view)) for view in shown],
        "queue": queue,
        "left": left,
        "offline_after": OFFLINE_AFTER,
        "command": worker_command(ask.called, queue or None),
    }


def seen_now(app: Any, reader: JobsReader, now_ms: int) -> tuple[Round | None, list[WorkerView], int]:
    """Return the last round, the workers as they are seen now, and how many jobs that go on were not looked at.

    The round is not waited for.

    :raises StoreUnavailableError: the job records cannot be reached.
    """
    found = Inspector.of(app).seen(0.0)
    running = reader.glance("STARTED", JOBS_LOOKED_AT, going=True)
    return found, workers_seen(found, running.jobs, now_ms), running.left


def await_round(app: Any) -> None:
    """Wait for the first round, or for a new one where nobody has asked for long."""
    Inspector.of(app).seen(FIRST_WAIT)


def jobs_of(view: WorkerView) -> str | None:
    """Return the search that finds the jobs on a worker; None where its name cannot be searched for."""
    running = ",".join(sorted(GOING & {"running", "stalled"}))
    search = f'state:{running} worker:"{view.name}"'
    return search if '"' not in view.name and len(search) <= SEARCH_CHARS else None


PAGE = Page("workers", "Workers", "workers.html", _context, every=3.0, ready=await_round)
