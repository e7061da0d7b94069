"""The kinds of arguments and options that the commands share."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click
import msgspec

from taskora_celery.cli.session import NOT_FOUND, Failure, Session
from taskora_celery.times import parse_duration
from taskora_celery.views import state_named

__all__ = ["as_json", "duration", "resolved", "since_ms", "some_ids", "states", "text", "typed_ids"]


def duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Return the seconds of ``90s``, ``10m``, ``2h``, ``1d``."""
    try:
        return None if value is None else parse_duration(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc), ctx, param) from exc


def text(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:  # noqa: ARG001 - click's signature
    """Return text as it can be stored: what of it is no UTF-8 is written out."""
    return None if value is None else _storable(value)


def _storable(value: str) -> str:
    # Python hands over a command line's bytes that are no text as lone surrogates, which have no UTF-8 form.
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def since_ms(since: float | None, now_ms: int) -> int:
    """Return the instant ``since`` seconds ago, in milliseconds since the epoch; 0, before any other, for None."""
    return 0 if since is None else now_ms - int(since * 1000)


def states(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> frozenset[str]:
    """Return the words of states, given by their words or by Celery's names, with commas between them."""
    try:
        return frozenset(state_named(part.strip()) for value in values for part in value.split(","))
    except ValueError as exc:
        raise click.BadParameter(str(exc), ctx, param) from exc


as_json = click.option("-j", "--json", "as_json", is_flag=True, help="One JSON object per line.")
some_ids = click.argument("ids", nargs=-1, required=False, metavar="ID…")


def typed_ids(ids: tuple[str, ...]) -> Iterator[str]:
    """Yield what was typed, and in place of ``-`` the ids on the standard input."""
    for typed in ids:
        if typed != "-":
            yield _storable(typed)
        else:
            yield from filter(None, (_storable(_id_in(line)) for line in _input()))


def _input() -> Iterator[str]:
    """Yield the lines of the standard input; none where it is closed. What is not in its encoding is written out."""
    if sys.stdin is not None:
        for line in sys.stdin.buffer:
            yield line.decode(sys.stdin.encoding, "backslashreplace")


def _id_in(line: str) -> str:
    """Return the id in a line of input: the line, its first field, or the id of a line that ``-j`` printed."""
    line = line.strip()
    if line.startswith("{"):
        try:
            document = msgspec.json.decode(line)
            document = document.get("job", document)
            return str(document["id"])
        except (msgspec.DecodeError, KeyError, AttributeError, TypeError):
            return line
    return line.split("\t", 1)[0].strip()


def resolved(session: Session, ids: tuple[str, ...]) -> list[str]:
    """Return the jobs that are meant, each once.

    :raises JobNotFoundError: an id is not known.
    :raises AmbiguousIdError: a beginning is that of several.
    """
    if not ids:
        raise click.UsageError("which job? Give an id, or - to read ids from the standard input.")
    found = list(dict.fromkeys(session.reader.find(typed) for typed in typed_ids(ids)))
    if not found:
        raise Failure("there is no id on the standard input", NOT_FOUND)
    return found
