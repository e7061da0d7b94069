"""How a job looks in a line or a cell: pure functions from a view to text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from taskora_celery.cli.table import Cell, Column
from taskora_celery.cli.text import fit, one_line
from taskora_celery.times import age
from taskora_celery.views import JobView, attempt_text, message_of

__all__ = [
    "COLUMNS",
    "ID_CHARS",
    "STATE_STYLES",
    "bar",
    "beat_text",
    "cells",
    "fields",
    "progress_text",
    "short_ids",
    "state_text",
]

#: What of an id is shown, at least.
ID_CHARS = 8
#: A bar in a table has so many columns; below this width of the terminal there is none.
TABLE_BAR, ROOM_FOR_BAR = 8, 100
#: So much of a progress without a percentage is shown in a table.
_PROGRESS_CHARS = 20
_NEVER = "-"

STATE_STYLES: dict[str, tuple[str, ...]] = {
    "running": ("cyan",),
    "retrying": ("yellow",),
    "stalled": ("red", "bold"),
    "done": ("green",),
    "failed": ("red",),
    "cancelled": ("magenta",),
}
COLUMNS = (
    Column("ID"),
    Column("TASK", least=10, keep_end=True),
    Column("STATE"),
    Column("PROGRESS", spare=1),
    Column("ATTEMPT", spare=4),
    Column("AGE", spare=3),
    Column("BEAT", spare=5),
    Column("LAST REASON", least=12, spare=2),
)


def short_ids(job_ids: Sequence[str]) -> dict[str, str]:
    """Return for each id its shortest beginning, of eight characters or more, that no other of them has."""
    ordered = sorted(set(job_ids))
    shorts = {}
    for at, job_id in enumerate(ordered):
        neighbours = ordered[max(at - 1, 0) : at] + ordered[at + 1 : at + 2]
        shared = max((_shared(job_id, other) for other in neighbours), default=0)
        shorts[job_id] = job_id[: max(shared + 1, ID_CHARS)]
    return shorts


def _shared(one: str, other: str) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def state_text(view: JobView) -> str:
    """Return the state's word; a stall is loud also where there are no colours."""
    return view.state.upper() if view.state == "stalled" else view.state


def bar(percent: float, columns: int, *, unicode: bool) -> str:
    """Return a bar of so many columns."""
    if not unicode:
        return "[" + ("#" * int(percent / 100 * (columns - 2))).ljust(columns - 2, ".") + "]"
    return ("█" * round(percent / 100 * columns)).ljust(columns, "░")


def progress_text(view: JobView, now_ms: int, *, bar_columns: int = 0, unicode: bool = True) -> str:
    """Return how far a job is: ``next in 8s`` of one that waits, else its bar, its percentage and the time left."""
    if view.next_ms is not None:
        return f"next in {age((view.next_ms - now_ms + 999) / 1000)}" if view.next_ms > now_ms else "next is due"
    if view.percent is None:
        return one_line(message_of(view.status.progress))
    parts = [f"{int(view.percent)}%"]
    if bar_columns and not view.over:
        parts.insert(0, bar(view.percent, bar_columns, unicode=unicode))
    if view.left is not None:
        parts.append(f"{age(math.ceil(view.left))} left")
    return " ".join(parts)


def beat_text(view: JobView, now_ms: int) -> str:
    """Return the age of the last sign of life of a job that runs."""
    return age((now_ms - view.status.alive_ms) / 1000) if view.state in {"running", "stalled"} else _NEVER


def age_text(view: JobView, now_ms: int) -> str:
    """Return how long ago a job was sent."""
    return age((now_ms - view.status.created_ms) / 1000) if view.status.created_ms else _NEVER


def cells(view: JobView, short_id: str, now_ms: int, *, columns: int, unicode: bool = True) -> list[Cell]:
    """Return a job's row of the table of :data:`COLUMNS`, for a terminal of so many columns."""
    with_bar = TABLE_BAR if columns >= ROOM_FOR_BAR else 0
    styles = STATE_STYLES.get(view.state, ())
    progress = progress_text(view, now_ms, bar_columns=with_bar, unicode=unicode)
    return [
        Cell(one_line(short_id)),
        Cell(one_line(view.status.name) or _NEVER),
        Cell(state_text(view), styles),
        Cell(fit(progress, max(_PROGRESS_CHARS, with_bar + 14)) or _NEVER, styles if view.state == "running" else ()),
        Cell(attempt_text(view)),
        Cell(age_text(view, now_ms), ("dim",)),
        Cell(beat_text(view, now_ms), ("dim",)),
        Cell(one_line(view.reason or "")),
    ]


def fields(view: JobView, now_ms: int) -> str:
    """Return a job as one line for programs: all columns and the worker, uncut, with tabs between them."""
    texts = (
        view.id, view.status.name, state_text(view), progress_text(view, now_ms), attempt_text(view), age_text(view, now_ms),
        beat_text(view, now_ms), view.reason or "", view.status.worker,
    )  # fmt: skip
    return "\t".join(one_line(text) or _NEVER for text in texts)
