"""``jobs logs``."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Sequence

import click
import msgspec

from taskora_celery.cli.drawing import short_ids
from taskora_celery.cli.loglines import LogStyle, entry_lines, marker, meta_text
from taskora_celery.cli.params import as_json, duration, resolved, since_ms, some_ids
from taskora_celery.cli.session import DONE, NOT_FOUND, JobsCommand, Session
from taskora_celery.cli.text import one_line
from taskora_celery.cli.waiting import EXPIRED, end_of, following, goes_on
from taskora_celery.documents import encoded, log_document
from taskora_celery.following import Change
from taskora_celery.reading import LOOK_EVERY
from taskora_celery.records import LEVELS, Event, LogEntry, level_code

__all__ = ["LogFilter", "command", "newest", "together"]


class LogFilter(msgspec.Struct, frozen=True):
    """Which entries are wanted; what is not said is no condition."""

    level: str = "debug"
    attempt: int | None = None
    since_ms: int = 0
    pattern: re.Pattern[str] | None = None

    def takes(self, entry: LogEntry) -> bool:
        """Say whether an entry passes."""
        if level_code(entry.level) < level_code(self.level) or entry.timestamp < self.since_ms:
            return False
        if self.attempt is not None and entry.attempt != self.attempt:
            return False
        if self.pattern is None:
            return True
        return bool(self.pattern.search(f"{entry.message}  {meta_text(entry.meta)}" if entry.meta else entry.message))


def newest(events: Sequence[Event], wanted: LogFilter, tail: int | None) -> list[Event]:
    """Return the entries that pass, the newest ``tail`` of them, and what lies between them that is no entry."""
    kept = [event for event in events if event.kind != "log" or wanted.takes(event.data)]
    if tail is None:
        return kept
    if tail == 0:
        return []
    entries = [at for at, event in enumerate(kept) if event.kind == "log"]
    return kept[entries[-tail] :] if tail < len(entries) else kept


def together(events: dict[str, list[Event]]) -> Iterator[tuple[str, Event]]:
    """Yield the events of several jobs in the order of their times; those of one job stay in their own order."""

    def timed(job_id: str, found: list[Event]) -> Iterator[tuple[int, str, Event]]:
        latest = 0
        for event in found:
            latest = max(latest, event.timestamp)
            yield latest, job_id, event

    streams = [timed(job_id, found) for job_id, found in events.items()]
    for _, job_id, event in heapq.merge(*streams, key=lambda item: item[0]):
        yield job_id, event


def _pattern(ctx: click.Context, param: click.Parameter, value: str | None) -> re.Pattern[str] | None:
    try:
        return None if value is None else re.compile(value)
    except re.error as exc:
        raise click.BadParameter(f"{value!r} is no regular expression: {exc}", ctx, param) from exc


def _level(ctx: click.Context, param: click.Parameter, value: str) -> str:
    try:
        level_code(value.lower())
    except ValueError:
        raise click.BadParameter(f"{value!r} is no level: one of {', '.join(LEVELS)}", ctx, param) from None
    return value.lower()


@click.command(cls=JobsCommand, name="logs", short_help="Print the log entries of jobs.")
@some_ids
@click.option("-f", "--follow", is_flag=True, help="Go on with new entries, over retries, until the job ends.")
@click.option("--since", callback=duration, help="Only entries of this time: 90s, 10m, 2h, 1d.")
@click.option("-n", "--tail", type=click.IntRange(min=0), help="Only so many of the past entries of each job, the newest.")
@click.option(
    "--level", callback=_level, default="debug", metavar=f"[{'|'.join(LEVELS)}]", help="Only entries of this level or above."
)
@click.option("--attempt", type=click.IntRange(min=1), help="Only entries of this attempt.")
@click.option("--grep", "pattern", callback=_pattern, metavar="REGEX", help="Only entries in which this is found.")
@click.option("-t", "--timestamps", is_flag=True, help="Begin each entry with its time, in UTC.")
@click.option("--no-prefix", is_flag=True, help="Do not begin the lines of several jobs with their ids.")
@as_json
@click.pass_context
def command(
    ctx: click.Context,
    ids: tuple[str, ...],
    since: float | None,
    tail: int | None,
    level: str,
    attempt: int | None,
    pattern: re.Pattern[str] | None,
    *,
    follow: bool,
    timestamps: bool,
    no_prefix: bool,
    as_json: bool,
) -> None:
    """Print the log entries of jobs, of all attempts; those of several jobs in the order of their times."""
    session: Session = ctx.obj
    job_ids, output = resolved(session, ids), session.output
    wanted = LogFilter(level, attempt, since_ms(since, session.now_ms()), pattern)
    style = LogStyle(escaped=output.terminal, times=timestamps, unicode=output.unicode, paint=output.paint)
    printer = _Printer(session, job_ids, style, prefixed=len(job_ids) > 1 and not no_prefix, as_json=as_json)
    session.on_interrupt = goes_on(job_ids)
    first = True
    for changes in following(session, job_ids).rounds(tick=LOOK_EVERY):
        events = {change.id: newest(change.events, wanted, tail if first else None) for change in changes}
        printer.print(together(events))
        if not follow:
            return
        printer.tell_ends(changes)
        first = False
    ctx.exit(NOT_FOUND if printer.expired else DONE)


class _Printer:
    """Writes events as they come."""

    def __init__(self, session: Session, job_ids: Sequence[str], style: LogStyle, *, prefixed: bool, as_json: bool) -> None:
        self._session = session
        self._output = session.output
        self._style = style
        self._as_json = as_json
        shorts = short_ids(job_ids)
        size = max(map(len, shorts.values()))
        self._prefixes = {job_id: f"{one_line(short):<{size}} | " if prefixed else "" for job_id, short in shorts.items()}
        self._attempts: dict[str, int] = {}
        #: Whether a job's record was gone before its end was seen: some of its entries may be missing.
        self.expired = False

    def print(self, events: Iterator[tuple[str, Event]]) -> None:
        """Write all of them, and flush."""
        lines = [line for job_id, event in events for line in self._lines(job_id, event)]
        if lines:
            self._output.write(*lines)

    def _lines(self, job_id: str, event: Event) -> list[str]:
        prefix = self._output.paint(self._prefixes[job_id], "cyan")
        if self._as_json:
            if event.kind == "gap":
                self._output.note(f"{one_line(job_id)}: {event.data['count']} entries are not kept any more")
            return [encoded(log_document(job_id, event.data))] if event.kind == "log" else []
        entry = entry_lines(event.data, self._style, prefix) if event.kind == "log" else []
        return [*filter(None, [self._marker(job_id, event, prefix)]), *entry]

    def _marker(self, job_id: str, event: Event, prefix: str) -> str | None:
        known = self._attempts.get(job_id)
        if event.kind == "log":
            self._attempts[job_id] = event.data.attempt
            if event.data.attempt == (known or 1):
                return None
            event = Event("state", event.seq, event.timestamp, {"state": "STARTED", "attempt": event.data.attempt})
        elif event.kind == "state":
            attempt, state = event.data.get("attempt", 1), event.data["state"]
            if known is None and state == "STARTED":  # the first event says where the job is now, and its past is still to come
                self._attempts[job_id] = 1
                return None
            self._attempts[job_id] = attempt + 1 if state == "RETRY" else attempt
        return marker(event, self._style, prefix)

    def tell_ends(self, changes: Sequence[Change]) -> None:
        """Say how jobs ended: it is no entry of theirs."""
        for change in changes:
            end = end_of(self._session, change)
            if end is not None:
                word, why = end
                self.expired |= word == EXPIRED
                self._output.note(f"{one_line(change.id)} {word}" + (f": {one_line(why)}" if why else ""))
