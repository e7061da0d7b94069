"""How log entries look in lines: pure functions from entries to text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from taskora_celery.cli.text import visible
from taskora_celery.records import Event, LogEntry
from taskora_celery.times import age, moment
from taskora_celery.views import named

__all__ = ["LogStyle", "entry_lines", "marker", "meta_text"]

_LEVELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "debug": ("DEBUG", ("dim",)),
    "info": ("INFO ", ("green",)),
    "warn": ("WARN ", ("yellow",)),
    "error": ("ERROR", ("red",)),
}


def _plain(text: str, *_: str) -> str:
    return text


class LogStyle(NamedTuple):
    """How entries are written."""

    #: For a terminal: control characters are written out.
    escaped: bool = True
    #: Begin each entry with its instant.
    times: bool = False
    unicode: bool = True
    paint: Callable[..., str] = _plain


def entry_lines(entry: LogEntry, style: LogStyle, prefix: str = "") -> list[str]:
    """Return the lines of an entry: level, message, meta; what goes on over lines is indented, so no text passes for an entry."""
    name, color = _LEVELS.get(entry.level, (entry.level.upper().ljust(5), ()))
    traceback = (entry.meta or {}).get("traceback")
    meta = {key: value for key, value in (entry.meta or {}).items() if key != "traceback" or not isinstance(value, str)}
    first, *rest = _split(entry.message)
    if isinstance(traceback, str):
        rest += _split(traceback.rstrip("\n"))
    shown = _safe(first, style)
    if meta:
        shown += "  " + style.paint(_safe(meta_text(meta), style), "dim")
    time = f"{moment(entry.timestamp)} " if style.times else ""
    head = prefix + style.paint(time, "dim") + style.paint(name, *color) + " "
    indent = prefix + " " * (len(time) + len(name) + 3)
    return [head + shown, *(indent + _safe(line, style) for line in rest)]


def _split(text: str) -> list[str]:
    return text.replace("\r\n", "\n").split("\n")


def _safe(text: str, style: LogStyle) -> str:
    return visible(text.replace("\t", "    ")) if style.escaped else text


def meta_text(meta: Mapping[str, Any]) -> str:
    """Return meta as ``key=value`` pairs; what is no plain word is JSON."""
    return " ".join(f"{key}={_value(value)}" for key, value in meta.items())


def _value(value: Any) -> str:
    if isinstance(value, str) and value and not any(char.isspace() or char in "\"'=" for char in value):
        return value
    return msgspec.json.encode(value).decode()


def marker(event: Event, style: LogStyle, prefix: str = "") -> str | None:
    """Return the line that marks where attempts meet, and what else is no entry; None for what needs none."""
    text = visible(_marker(event) or "")
    rule = "──" if style.unicode else "--"
    return prefix + style.paint(f"{rule} {text} {rule}", "yellow") if text else None


def _marker(event: Event) -> str | None:
    if event.kind == "gap":
        return f"{event.data['count']} entries are not kept any more"
    if event.kind == "cancel":
        phase, reason = event.data.get("phase"), event.data.get("reason")
        return f"cancel {phase}" + (f": {reason}" if reason else "")
    if event.kind != "state":
        return None
    data = event.data
    state, attempt = data["state"], data.get("attempt", 1)
    if state == "RETRY":
        why, delay = named(data.get("error"), data.get("reason")), data.get("delay")
        begins = "" if delay is None else f"; attempt {attempt + 1} in {age(delay)}"
        return f"attempt {attempt} is retried" + (f": {why}" if why else "") + begins
    if state == "LOST":
        return f"attempt {attempt} was lost: {data.get('reason')}"
    if state == "STARTED":
        delivery = data.get("delivery", 1)
        again = f" (delivery {delivery})" if delivery > 1 else ""
        where = f" on {data['worker']}" if data.get("worker") else ""
        return f"attempt {attempt}{again}{where}" if attempt > 1 or delivery > 1 else None
    return None
