"""``jobs list``."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from taskora_celery.cli.drawing import COLUMNS, STATE_STYLES, cells, fields, short_ids, state_text
from taskora_celery.cli.params import as_json, duration, since_ms, states
from taskora_celery.cli.session import JobsCommand, Session
from taskora_celery.cli.table import table
from taskora_celery.cli.terminal import Output
from taskora_celery.cli.text import fit, rows_of
from taskora_celery.documents import encoded, job_document
from taskora_celery.errors import StoreUnavailableError
from taskora_celery.times import clock
from taskora_celery.views import QUEUED, JobFilter, JobView

__all__ = ["command", "lines", "show"]


@click.command(cls=JobsCommand, name="list", short_help="List jobs.")
@click.option(
    "--state", "wanted_states", callback=states, multiple=True, help="Only jobs in these states: running, failed, … (commas)."
)
@click.option("--task", metavar="GLOB", help="Only jobs of tasks with such a name: 'reports.*'.")
@click.option("--worker", metavar="GLOB", help="Only jobs of such a worker.")
@click.option("--since", callback=duration, help="Only jobs whose state changed in this time: 90s, 10m, 2h, 1d.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@click.option("--watch", callback=duration, is_flag=False, flag_value="2s", metavar="[=2s]", help="List again and again.")
@as_json
@click.pass_obj
def command(
    session: Session,
    wanted_states: frozenset[str],
    task: str | None,
    worker: str | None,
    since: float | None,
    limit: int,
    watch: float | None,
    *,
    as_json: bool,
) -> None:
    """List jobs: those that have not ended first, then by the last change of their state.

    On a terminal it is a table that fits. In a pipe each line is a job with tabs between its fields (id, task, state, progress,
    attempt, age, beat, reason, worker), without heading, colours or cuts. A job that waits in a queue is not known yet.
    """
    now_ms = session.now_ms()
    wanted = JobFilter(wanted_states, task, worker, since_ms(since, now_ms))
    views = session.reader.views(wanted, limit, now_ms)
    if watch is None:
        show(session.output, views, now_ms, as_json=as_json)
        if not views:
            session.output.note(_nothing(session, wanted))
        return
    session.on_interrupt = "Not watching any more; the jobs go on."
    _watch(session, wanted, limit, max(watch, 0.1), since, as_json=as_json)


def _nothing(session: Session, wanted: JobFilter) -> str:
    if not session.reader.indexed:
        return "This app keeps no list of its jobs: taskora_index_limit is 0."
    if wanted.states == {QUEUED}:
        return "Jobs that wait in a queue are not listed: a job has a record from the moment that a worker begins it."
    if wanted != JobFilter():
        return "No job is like that."
    return "No jobs yet. They are listed from the moment that a worker begins them, until their records expire."


def lines(views: Sequence[JobView], now_ms: int, output: Output) -> list[str]:
    """Return the table for a terminal."""
    shorts = short_ids([view.id for view in views])
    columns = output.columns
    rows = [cells(view, shorts[view.id], now_ms, columns=columns, unicode=output.unicode) for view in views]
    return table(COLUMNS, rows, columns, output.paint, mark=output.mark)


def show(output: Output, views: Sequence[JobView], now_ms: int, *, as_json: bool) -> None:
    """Print jobs, each in a line."""
    if as_json:
        output.write(*(encoded(job_document(view)) for view in views))
    elif output.terminal:
        output.write(*(lines(views, now_ms, output) if views else ()))
    else:
        output.write(*(output.paint(fields(view, now_ms), *STATE_STYLES.get(view.state, ())) for view in views))


def _watch(session: Session, wanted: JobFilter, limit: int, every: float, since: float | None, *, as_json: bool) -> None:
    """List again and again: in place on a terminal; elsewhere each job that has changed."""
    output, seen, away = session.output, dict[str, Any](), False
    in_place = output.live and not as_json
    views: list[JobView] = []
    while True:
        now_ms = session.now_ms()
        wanted = msgspec.structs.replace(wanted, since_ms=since_ms(since, now_ms))
        try:
            views = session.reader.views(wanted, limit, now_ms)
        except StoreUnavailableError as exc:
            if not away and not in_place:
                output.note(f"The job records cannot be reached, trying again: {exc}")
            away = True
        else:
            away = False
        if in_place:
            output.draw(_picture(views, now_ms, output, every, away=away))
        else:
            changed = [view for view in views if seen.get(view.id) != _state_of(view)]
            seen = {view.id: _state_of(view) for view in views}
            show(output, changed, now_ms, as_json=as_json)
        time.sleep(every)


def _picture(views: Sequence[JobView], now_ms: int, output: Output, every: float, *, away: bool) -> list[str]:
    columns, room = output.columns, max(output.rows - 4, 1)
    shown = lines(views[:room], now_ms, output)
    if (wrapped := max(rows_of(line, columns) for line in shown)) > 1:  # no table fits: what has scrolled away is not redrawn
        room = max(output.rows // wrapped - 3, 1)
        shown = lines(views[:room], now_ms, output)
    counts = Counter(state_text(view) for view in views)
    says = ", ".join(f"{count} {state}" for state, count in counts.items()) or "no jobs"
    heading = f"{clock(now_ms)}  every {every:g}s  {says}" + ("  Redis cannot be reached, trying again" if away else "")
    picture = [output.paint(fit(heading, columns, mark=output.mark), "dim"), *shown]
    return [*picture, output.paint(f"and {len(views) - room} more", "dim")] if len(views) > room else picture


def _state_of(view: JobView) -> tuple[Any, ...]:
    """Return what makes a job another one to look at; its age and its beat do not."""
    status = view.status
    return view.state, status.attempt, status.delivery, status.progress_ms, view.reason, view.next_ms, view.cancelling
