"""How jobs and their events look: pure functions from values to text."""

from __future__ import annotations

import textwrap
import time
from typing import TYPE_CHECKING, Any

from example_project.demo.terminal import clean, fit, pad, width

if TYPE_CHECKING:
    from collections.abc import Iterable

    from example_project.demo.jobs import JobView
    from example_project.demo.terminal import Screen
    from taskora_celery.records import Event, LogEntry

__all__ = ["brief", "event_line", "line", "number", "rows"]

TITLE = 14
BAR = 28
ROOM_FOR_BAR = 30
CLOCK = len("00:00:00  ")
MARK = len("INFO   ")
INDENT = CLOCK + TITLE + 1 + MARK
_LEVELS = {
    "debug": ("DEBUG", "dim"),
    "info": ("INFO", "green"),
    "warn": ("WARN", "yellow"),
    "error": ("ERROR", "red"),
}
_MARKS = {"SUCCESS": ("ok", "green"), "FAILURE": ("failed", "red"), "REVOKED": ("revoked", "red")}


def number(value: float) -> str:
    """Return a whole number with its thousands apart."""
    return f"{value:,.0f}".replace(",", " ")


def event_line(screen: Screen, view: JobView, event: Event) -> str | None:
    """Return the line for an event; None where the panel says it already."""
    if event.kind == "log":
        return None if event.data.level == "debug" else _log_line(screen, view, event.data)
    if event.kind == "gap":
        return line(screen, view, event.timestamp, "", f"({event.data['count']} entries are not kept any more)")
    state = event.data["state"] if event.kind == "state" else None
    if state == "RETRY":
        delay = event.data.get("delay") or 0
        text = f"{clean(event.data.get('reason') or event.data.get('error'))}: attempt {view.attempt + 1} in {delay:.1f} s"
        return line(screen, view, event.timestamp, "RETRY", text, "yellow")
    if state == "LOST":
        text = f"{clean(event.data.get('reason'))}: it waits for a worker again"
        return line(screen, view, event.timestamp, "LOST", text, "yellow")
    return None


def line(screen: Screen, view: JobView, timestamp_ms: int, mark: str, text: str, *styles: str) -> str:
    """Return a line about a job with a mark of up to six letters; what is too wide for a terminal goes on below."""
    below = f"\n{' ' * INDENT}"
    shown = below.join(screen.style(part, *styles) for part in _wrapped(screen, text))
    return _begin(screen, view, timestamp_ms) + screen.style(mark.ljust(MARK), *styles, "bold") + shown


def _log_line(screen: Screen, view: JobView, entry: LogEntry) -> str:
    name, color = _LEVELS.get(entry.level, ("", "dim"))
    message, meta = clean(entry.message), (f"{clean(key)}={_last_line(value)}" for key, value in (entry.meta or {}).items())
    first, *rest = _wrapped(screen, "  ".join((message, *meta)))
    shown = first[: len(message)] + screen.style(first[len(message) :], "dim")
    below = (f"\n{' ' * INDENT}{screen.style(part, 'dim')}" for part in rest)
    return _begin(screen, view, entry.timestamp) + screen.style(name.ljust(MARK), color) + shown + "".join(below)


def _last_line(value: object) -> str:
    # Of a stack it is the one that tells most; the rest is to be read on the board, and with `jobs logs`.
    *above, last = str(value).rstrip().splitlines() or [""]
    return f"… {clean(last.strip())}" if above else clean(last)


def _wrapped(screen: Screen, text: str) -> list[str]:
    # A pipe gets one line for each entry; on a terminal what is too wide goes on below, out of the way of the clock.
    room = max(screen.columns - INDENT, 20) if screen.live else len(text) + 1
    return textwrap.wrap(text, room, break_on_hyphens=False) or [""]


def _begin(screen: Screen, view: JobView, timestamp_ms: int) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(timestamp_ms / 1000))
    return f"{screen.style(clock, 'dim')}  {screen.style(pad(view.title, TITLE), 'cyan')} "


def rows(screen: Screen, views: Iterable[JobView], now: float) -> list[str]:
    """Return the panel: an empty line, and a line for each job that fits the screen."""
    return ["", *(_row(screen, view, now) for view in views)]


def _row(screen: Screen, view: JobView, now: float) -> str:
    title = screen.style(pad(view.title, TITLE), "bold")
    room = screen.columns - TITLE - 4
    share, text = _share(view.progress), _text(view, now)
    mark, color = _MARKS.get(view.state, ("", "yellow" if view.next_at or view.state == "LOST" else "cyan"))
    if share is None or view.next_at is not None or room < ROOM_FOR_BAR:
        return f"  {title} {screen.style(fit(text, room), color if mark or view.next_at else 'dim')}"
    size = max(min(BAR, room - 40), 8)
    text = fit(text, room - size - 11)
    message = "" if mark else fit(_message(view.progress), room - size - 11 - width(text), keep_end=True)
    bar = screen.style(_bar(share, size, unicode=screen.unicode), color)
    text = screen.style(text, color) if mark else text
    return f"  {title} {bar} {share:5.1f} %  {text}  {screen.style(message, 'dim')}"


def _bar(share: float, size: int, *, unicode: bool) -> str:
    """Return a bar of ``size`` columns, filled to an eighth of one."""
    if not unicode:
        return "[" + ("#" * int(share / 100 * (size - 2))).ljust(size - 2, ".") + "]"
    eighths = int(share / 100 * size * 8)
    full, part = divmod(eighths, 8)
    return ("█" * full + ("▏▎▍▌▋▊▉"[part - 1] if part else "")).ljust(size, "░")


def _text(view: JobView, now: float) -> str:
    """Return what is to be said of a job besides its bar."""
    if view.ended_at is not None:
        mark = _MARKS.get(view.state, (view.state.lower(), ""))[0]
        tries = f", {view.attempt} attempts" if view.attempt > 1 else ""
        tries += f", {view.delivery} deliveries" if view.delivery > 1 else ""
        return f"{mark}{tries} ({view.ended_at - view.sent_at:.1f} s)"
    if view.next_at is not None:
        when = f"in {view.next_at - now:.1f} s" if view.next_at > now else "is due"
        return f"attempt {view.attempt + 1} {when} - {clean(view.reason)}"
    if view.state == "PENDING":
        return "waiting for a worker"
    if view.state == "LOST":
        return "lost, waiting for a worker"
    if isinstance(view.progress, dict) and view.progress.get("total") is not None:
        return f"{number(view.progress['current'])}/{number(view.progress['total'])}"
    return f"running, attempt {view.attempt}"


def _message(progress: Any) -> str:
    return clean(progress.get("message") or "") if isinstance(progress, dict) else ""


def _share(progress: Any) -> float | None:
    """Return a progress value's percentage between 0 and 100; None where it has none."""
    share = progress.get("percent") if isinstance(progress, dict) else progress
    return min(max(float(share), 0.0), 100.0) if isinstance(share, (int, float)) else None


def brief(views: Iterable[JobView], now: float) -> str:
    """Return the panel in one line."""
    parts = []
    for view in views:
        share = _share(view.progress)
        shown = f"{share:.0f} % " if share is not None and not view.ended else ""
        parts.append(f"{view.title}: {shown}{_text(view, now)}")
    return " " * CLOCK + " | ".join(parts)
