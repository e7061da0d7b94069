"""The board's search: ``import state:failed,stalled worker:w2 reason:"no such column"``. Pure functions."""

from __future__ import annotations

import re

import msgspec

from taskora_celery.board.pages import FilterError
from taskora_celery.views import JobFilter, state_named

__all__ = ["SEARCH_CHARS", "filter_of", "searched", "whole_number", "with_states"]

#: A search is so long at most.
SEARCH_CHARS = 500
_NAMES = ("id", "task", "state", "worker", "reason")
#: ``name:value``, ``name:"a value"``, ``word``, ``"several words"``.
_TERM = re.compile(r'(?:(?P<name>[A-Za-z]+):)?(?:"(?P<quoted>[^"]*)"|(?P<plain>[^\s"]+))(?=\s|$)')
_GLOB = re.compile(r"[*?\[]")
#: A number in an address has so many digits at most: Python reads none that is thousands of digits long.
_DIGITS = 15


class Term(msgspec.Struct, frozen=True):
    """One part of a search; ``name`` is empty for a word alone."""

    name: str
    value: str


def searched(text: str) -> list[Term]:
    """Return the terms of a search.

    :raises FilterError: it cannot be read, or names something that is not to be searched for.
    """
    if len(text) > SEARCH_CHARS:
        raise FilterError(f"a search of {len(text)} characters is too long: {SEARCH_CHARS} at most")
    terms, at, text = list[Term](), 0, text.strip()
    while at < len(text):
        found = _TERM.match(text, at)
        if found is None:
            raise FilterError(f"{text[at:]!r} cannot be read: write name:value, with quotes around a value that has spaces")
        terms.append(_term(found))
        at = found.end()
        while at < len(text) and text[at].isspace():
            at += 1
    return terms


def _term(found: re.Match[str]) -> Term:
    name, quoted, plain = (found["name"] or "").lower(), found["quoted"], found["plain"]
    value = plain if quoted is None else quoted
    if name and name not in _NAMES:
        raise FilterError(f"{found['name']}: is nothing to search for: {', '.join(f'{known}:' for known in _NAMES)}")
    if not name and quoted is None and value[:-1].lower() in _NAMES and value.endswith(":"):
        name, value = value[:-1].lower(), ""
    if not value.strip():
        raise FilterError(f"{name or 'a word'}: has no value" if name else "a word is empty")
    return Term(name, value)


def filter_of(text: str) -> JobFilter:
    """Return which jobs a search wants.

    A word alone is the beginning of an id, or a part of a task's name. ``task:`` and ``worker:`` take a part, or a glob;
    ``reason:`` takes a part. Of several states (``state:a,b``, ``state:a state:b``) one is enough; all else must hold.

    :raises FilterError: see :func:`searched`; or something is said twice, or a state is none.
    """
    states, words, said = set[str](), list[str](), dict[str, str]()
    for term in searched(text):
        if term.name == "state":
            states.update(_state(part) for part in term.value.split(",") if part)
        elif not term.name:
            words.append(term.value)
        elif term.name in said:
            raise FilterError(f"{term.name}: is said twice, and a job has one")
        else:
            said[term.name] = term.value
    return JobFilter(
        frozenset(states), _glob(said.get("task")), _glob(said.get("worker")), 0, said.get("id"), said.get("reason"), tuple(words)
    )


def _state(name: str) -> str:
    try:
        return state_named(name.strip())
    except ValueError as exc:
        raise FilterError(str(exc)) from exc


def _glob(value: str | None) -> str | None:
    """Return a part of a name as the glob that finds it; one that is a glob already as it is."""
    return value if value is None or _GLOB.search(value) else f"*{value}*"


def with_states(text: str, states: frozenset[str]) -> str:
    """Return a search with these states in place of those that it has; what cannot be read is left out."""
    try:
        terms = searched(text)
    except FilterError:
        terms = []
    kept = [_written(term) for term in terms if term.name != "state"]
    return " ".join([*kept, *([f"state:{','.join(sorted(states))}"] if states else [])])


def whole_number(text: str) -> int | None:
    """Return a number that somebody has written into an address; None for what is none, or has more than 15 digits."""
    return int(text) if len(text) <= _DIGITS and text.isascii() and text.isdigit() else None


def _written(term: Term) -> str:
    value = f'"{term.value}"' if re.search(r"\s", term.value) or (not term.name and ":" in term.value) else term.value
    return f"{term.name}:{value}" if term.name else value
