"""``jobs show``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click

from taskora_celery.cli.drawing import ID_CHARS, STATE_STYLES, beat_text, progress_text, state_text
from taskora_celery.cli.loglines import LogStyle, entry_lines
from taskora_celery.cli.params import as_json, resolved, some_ids
from taskora_celery.cli.session import JobsCommand, Session
from taskora_celery.cli.table import Cell, Column, table
from taskora_celery.cli.terminal import Output
from taskora_celery.cli.text import one_line, visible
from taskora_celery.documents import detail_document, encoded
from taskora_celery.extended import traceback_of
from taskora_celery.listing import JobDetail
from taskora_celery.records import AttemptRecord
from taskora_celery.times import age, clock
from taskora_celery.views import JobView, attempt_text, is_uuid, message_of, named

__all__ = ["command", "page"]

LAST_LOGS = 10
_BAR = 20
_UNBOUNDED = 10_000
_ATTEMPTS = (
    Column("ATTEMPT"),
    Column("WORKER", least=10),
    Column("STARTED"),
    Column("TOOK"),
    Column("OUTCOME"),
    Column("REASON", least=14),
)


@click.command(cls=JobsCommand, name="show", short_help="Show all that is known of jobs.")
@some_ids
@click.option("--traceback", is_flag=True, help="With the traceback that the result backend has.")
@as_json
@click.pass_obj
def command(session: Session, ids: tuple[str, ...], *, traceback: bool, as_json: bool) -> None:
    """Show jobs: state, progress, attempts with their reasons, the last ten log entries."""
    output = session.output
    for at, job_id in enumerate(resolved(session, ids)):
        detail = session.reader.detail(job_id, session.now_ms(), logs=LAST_LOGS)
        trace = _traceback_of(session, job_id) if traceback else None
        if as_json:
            output.write(encoded(detail_document(detail, trace)))
            continue
        output.write(*([""] if at else []), *page(detail, session.now_ms(), output, trace))
        if output.terminal:
            _hint(session, detail.view)


def _traceback_of(session: Session, job_id: str) -> str | None:
    try:
        return traceback_of(session.app, job_id)
    except Exception as exc:  # noqa: BLE001 - any result backend's, or none: the record is shown all the same
        session.output.note(f"The result backend has no traceback to show: {one_line(exc)}")
        return None


def page(detail: JobDetail, now_ms: int, output: Output, traceback: str | None = None) -> list[str]:
    """Return all that is known of a job, in lines."""
    view, room = detail.view, output.columns if output.terminal else _UNBOUNDED
    lines = [*_head(view, now_ms, output)]
    rows = [_attempt_row(record, now_ms) for record in detail.attempts]
    if rows:
        lines += ["", *table(_ATTEMPTS, rows, room, output.paint, mark=output.mark)]
    if detail.logs:
        style = LogStyle(escaped=output.terminal, times=True, unicode=output.unicode, paint=output.paint)
        more = view.status.logs - len(detail.logs)
        title = "LAST LOG ENTRIES" + (f" ({more} before them)" if more > 0 else "")
        lines += ["", output.paint(title, "bold"), *(line for entry in detail.logs for line in entry_lines(entry, style))]
    if traceback is not None:
        text = traceback.rstrip("\n").split("\n")
        lines += ["", output.paint("TRACEBACK", "bold"), *(visible(line) if output.terminal else line for line in text)]
    return lines


def _head(view: JobView, now_ms: int, output: Output) -> Iterator[str]:
    status, styles = view.status, STATE_STYLES.get(view.state, ())
    for name, value in (
        ("id", one_line(view.id)),
        ("task", one_line(status.name)),
        ("state", output.paint(state_text(view), *styles)),
        ("reason", one_line(view.reason or "")),
        ("progress", _progress_line(view, now_ms, output)),
        ("attempt", attempt_text(view) + (f", delivery {status.delivery}" if status.delivery > 1 else "")),
        ("worker", one_line(status.worker)),
        ("created", _when(status.created_ms, now_ms)),
        ("started", _when(status.started_ms, now_ms)),
        ("ended", _when(status.ended_ms, now_ms) if view.over else ""),
        ("beat", "" if view.over else beat_text(view, now_ms)),
        ("trace", one_line(status.trace_id or "")),
        ("stalls", str(status.stalls or "")),
        ("dropped", f"{status.dropped_logs} log entries are not kept" if status.dropped_logs else ""),
    ):
        if value and value != "-":
            yield output.paint(f"{name:<10}", "dim") + value


def _when(ms: int | None, now_ms: int) -> str:
    return f"{clock(ms)} ({age((now_ms - ms) / 1000)} ago)" if ms else ""


def _progress_line(view: JobView, now_ms: int, output: Output) -> str:
    text = progress_text(view, now_ms, bar_columns=_BAR, unicode=output.unicode)
    if view.percent is None and view.next_ms is None:
        return text
    return "  ".join(part for part in (text, one_line(message_of(view.status.progress))) if part)


def _attempt_row(record: AttemptRecord, now_ms: int) -> list[Cell]:
    outcome = record.outcome or "running"
    took = record.duration if record.duration is not None else None if record.outcome else (now_ms - record.started_ms) / 1000
    why = one_line(named(record.error, record.reason) or "")
    if record.next_ms is not None:
        why += f" (next after {age(record.delay or 0)})"
    return [
        Cell(f"{record.number}" + (f".{record.delivery}" if record.delivery > 1 else "")),
        Cell(one_line(record.worker)),
        Cell(clock(record.started_ms) if record.started_ms else "-"),
        Cell("-" if took is None else age(took) if took >= 10 else f"{took:.1f}s"),  # noqa: PLR2004 - tenths say something
        Cell(outcome.lower()),
        Cell(why.strip()),
    ]


def _hint(session: Session, view: JobView) -> None:
    """Say what could be typed next."""
    output, whole = session.output, one_line(view.id)
    # Other ids of people's own may begin alike; and without a list of jobs a beginning cannot be looked up.
    typed = whole[:ID_CHARS] if is_uuid(whole) and session.reader.indexed else whole
    output.note("")
    for name in ["logs"] if view.over else ["watch", "logs -f", "cancel"]:
        output.note(output.paint(f"{session.called} {name} {shlex.quote(typed)}", "dim"))
