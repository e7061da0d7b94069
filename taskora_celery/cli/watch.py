"""``jobs watch``."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Any

import click

from taskora_celery.cli.drawing import STATE_STYLES, bar, beat_text, progress_text, short_ids, state_text
from taskora_celery.cli.loglines import LogStyle, entry_lines
from taskora_celery.cli.params import as_json, duration, resolved, some_ids
from taskora_celery.cli.session import TIMED_OUT, JobsCommand, Session
from taskora_celery.cli.table import Cell, joined
from taskora_celery.cli.terminal import Output
from taskora_celery.cli.text import fit, one_line
from taskora_celery.cli.waiting import end_of, exit_code, following, goes_on
from taskora_celery.documents import encoded, job_document
from taskora_celery.following import Change
from taskora_celery.records import LogEntry
from taskora_celery.store.protocol import Snapshot
from taskora_celery.times import clock
from taskora_celery.views import JobView, attempt_text, message_of

__all__ = ["Turns", "block", "brief", "command"]

LAST_LOGS = 5
#: Ages and countdowns go on, though nothing happens.
TICK = 1.0
_BAR_LEAST, _BAR_MOST = 10, 40


@click.command(cls=JobsCommand, name="watch", short_help="Watch jobs until they end.")
@some_ids
@click.option("--timeout", callback=duration, help="Stop watching after so long, with exit code 124: 90s, 10m, 2h, 1d.")
@as_json
@click.pass_context
def command(ctx: click.Context, ids: tuple[str, ...], timeout: float | None, *, as_json: bool) -> None:
    """Watch jobs until all have ended; the exit code says how: 0 done, 1 failed, 3 cancelled.

    On a terminal each job is redrawn in place, with its last five log entries. In a pipe each change of a job is a line, at most
    one a second and job, the last always.
    """
    session: Session = ctx.obj
    until = None if timeout is None else time.monotonic() + timeout
    job_ids = resolved(session, ids)
    session.on_interrupt = goes_on(job_ids)
    scene = _Picture(session, job_ids) if session.output.live and not as_json else _Lines(session, job_ids, as_json=as_json)
    ends: dict[str, str] = {}
    follower = following(session, job_ids)
    for changes in follower.rounds(TICK, until):
        ends.update({change.id: end[0] for change in changes if (end := end_of(session, change))})
        scene.take(changes)
        scene.show(ends)
    if not follower.ended:
        going = [job_id for job_id in job_ids if job_id not in ends]
        session.output.note(f"Timed out after {timeout:g}s. {goes_on(going)}")
        ctx.exit(TIMED_OUT)
    ctx.exit(exit_code(ends.values()))


class _Scene(ABC):
    """What is known of the watched jobs, and how it is shown."""

    def __init__(self, session: Session, job_ids: Sequence[str]) -> None:
        self.session = session
        self.output = session.output
        self.shorts = short_ids(job_ids)
        self.logs: dict[str, deque[LogEntry]] = {job_id: deque(maxlen=LAST_LOGS) for job_id in job_ids}
        self._snapshots: dict[str, Snapshot] = {}

    def take(self, changes: Sequence[Change]) -> None:
        """Take in what is new."""
        for change in changes:
            if change.snapshot is not None:
                self._snapshots[change.id] = change.snapshot
            self.logs[change.id].extend(event.data for event in change.events if event.kind == "log")

    def views(self, now_ms: int) -> list[JobView]:
        """Return the jobs as they are seen now."""
        return [self.session.reader.seen(job_id, snapshot, now_ms) for job_id, snapshot in self._snapshots.items()]

    @abstractmethod
    def show(self, ends: dict[str, str]) -> None:
        """Write what is to be seen; ``ends`` says how jobs have ended."""


class _Picture(_Scene):
    """Jobs that are redrawn in place."""

    def show(self, ends: dict[str, str]) -> None:
        """Draw all jobs."""
        now_ms, output = self.session.now_ms(), self.output
        views = self.views(now_ms)
        room = max(output.rows - 2, 4)
        # First the log lines are fewer, then jobs are left out.
        logs = max(min(room // max(len(views), 1) - 4, LAST_LOGS), 0)
        picture: list[str] = []
        for at, view in enumerate(views):
            tail = list(self.logs[view.id])[-logs:] if logs else []
            shown = block(view, self.shorts[view.id], tail, now_ms, output, ends.get(view.id))
            picture += [*([""] if at and logs else []), *shown]
        output.draw(picture if len(picture) <= room else [*picture[: room - 1], f"and {len(picture) - room + 1} more lines"])


class _Lines(_Scene):
    """One line for each change of a job."""

    def __init__(self, session: Session, job_ids: Sequence[str], *, as_json: bool) -> None:
        super().__init__(session, job_ids)
        self._as_json = as_json
        self._turns = Turns(1.0)

    def show(self, ends: dict[str, str]) -> None:
        """Write the jobs that have changed and whose turn it is."""
        now_ms, now = self.session.now_ms(), time.monotonic()
        for view in self.views(now_ms):
            end = ends.get(view.id)
            if self._turns.takes(view.id, (_news(view), end), now, last=end is not None):
                text = brief(view, self.shorts[view.id], now_ms, end)
                self.output.write(encoded(job_document(view)) if self._as_json else text)


class Turns:
    """At most one line of each job in ``every`` seconds, only where something has changed; the last is not held back."""

    def __init__(self, every: float) -> None:
        self._every = every
        self._last: dict[str, tuple[object, float]] = {}

    def takes(self, job_id: str, what: object, now: float, *, last: bool) -> bool:
        """Say whether ``what`` is to be written now; ``now`` is in monotonic seconds."""
        before = self._last.get(job_id)
        if before is not None and (before[0] == what or (now - before[1] < self._every and not last)):
            return False
        self._last[job_id] = what, now
        return True


def _news(view: JobView) -> tuple[Any, ...]:
    status = view.status
    return (
        view.state, status.attempt, status.delivery, view.reason, view.next_ms, view.percent, view.cancelling,
        message_of(status.progress),
    )  # fmt: skip


def brief(view: JobView, short_id: str, now_ms: int, end: str | None = None) -> str:
    """Return a job in one line of a log, with the time."""
    told = _share(view, now_ms), "" if view.next_ms is not None else one_line(message_of(view.status.progress))
    parts = [
        clock(now_ms), one_line(short_id), one_line(view.status.name), _state(view, end), f"attempt {attempt_text(view)}",
        *told, one_line(_why(view)),
    ]  # fmt: skip
    return "  ".join(part for part in parts if part)


def block(
    view: JobView, short_id: str, logs: Sequence[LogEntry], now_ms: int, output: Output, end: str | None = None
) -> list[str]:  # fmt: skip
    """Return a job in lines that fit the terminal: what it is, how far it is, why it waits, and its last log entries."""
    columns, mark, status = output.columns, output.mark, view.status
    styles = STATE_STYLES.get(end or view.state, ())
    where = f" on {one_line(status.worker)}" if status.worker else ""
    beat = beat_text(view, now_ms)
    head = [
        Cell(one_line(short_id), ("bold",)), Cell(one_line(status.name)), Cell(_state(view, end), styles),
        Cell(f"attempt {attempt_text(view)}{where}"), Cell(f"beat {beat}" if beat != "-" else "", ("dim",)),
    ]  # fmt: skip
    lines = [joined(head, columns, output.paint, mark=mark)]
    size = max(min(columns - 40, _BAR_MOST), _BAR_LEAST)
    how_far = [] if view.percent is None else [Cell(bar(view.percent, size, unicode=output.unicode), styles)]
    how_far += [Cell(_share(view, now_ms)), Cell(one_line(message_of(status.progress)) if view.next_ms is None else "")]
    lines.append(joined(how_far, columns, output.paint, mark=mark))
    if view.reason:
        lines.append(joined([Cell(one_line(_why(view)), ("yellow",))], columns, output.paint, mark=mark))
    style = LogStyle(unicode=output.unicode)
    texts = [fit(line, columns, mark=mark) for entry in logs for line in entry_lines(entry, style, "  ")][-LAST_LOGS:]
    return [line for line in lines if line] + [output.paint(text, "dim") for text in texts]


def _state(view: JobView, end: str | None) -> str:
    return end or state_text(view)


def _why(view: JobView) -> str:
    """Return the reason; that of a job which runs is of the attempt before."""
    after = "after " if view.reason and view.state == "running" and not view.cancelling else ""
    return f"{after}{view.reason or ''}"


def _share(view: JobView, now_ms: int) -> str:
    """Return the percentage and the time left, or how long it waits; what a progress says otherwise is its message."""
    return progress_text(view, now_ms) if view.percent is not None or view.next_ms is not None else ""
