"""What the result backend knows of a job beside its record: arguments, result, traceback, and the jobs around it."""

from __future__ import annotations

from typing import Any

import msgspec

from taskora_celery.encoding import encodable, to_plain
from taskora_celery.redaction import TEXT_CHARS, Redactor
from taskora_celery.runtime import Runtime

__all__ = ["BackendFacts", "backend_facts", "facts_in", "traceback_of"]

#: So much of a value, and of a traceback, is kept: bytes and characters.
VALUE_BYTES = 32_768
TRACEBACK_CHARS = TEXT_CHARS
#: So many children are named.
CHILDREN = 100
#: The root is looked for over so many parents.
PARENTS = 20


class BackendFacts(msgspec.Struct, frozen=True):
    """Redacted as records are. Arguments are there where ``result_extended`` is set, all else where Celery stores it."""

    state: str | None = None
    #: As JSON, over several lines; None where it is not known.
    args: str | None = None
    kwargs: str | None = None
    result: str | None = None
    #: The last lines of it, where it is long.
    traceback: str | None = None
    parent: str | None = None
    #: The job without a parent that all began with; None also where it cannot be found, and where there is no parent.
    root: str | None = None
    group: str | None = None
    children: tuple[str, ...] = ()
    #: Why nothing can be said.
    failure: str | None = None


def backend_facts(app: Any, job_id: str) -> BackendFacts:
    """Return what the app's result backend knows of a job. Blocks for as long as that takes; never raises for what it says."""
    redactor = Runtime.of(app).redactor
    try:
        meta = app.backend.get_task_meta(job_id)
        root = _root(app, meta)
    except Exception as exc:  # noqa: BLE001 - any result backend's, or none
        return BackendFacts(failure=redactor.text(f"{type(exc).__name__}: {exc}", "reason")[:500])
    return msgspec.structs.replace(facts_in(meta, redactor), root=root)


def _root(app: Any, meta: Any) -> str | None:
    """Return the job at which the parents of a job begin, as far as the backend still has them."""
    above = None
    for _ in range(PARENTS):
        if not _tells(meta):
            return None
        if not meta.get("parent_id"):
            return above
        above = str(meta["parent_id"])
        meta = app.backend.get_task_meta(above)
    return None


def _tells(meta: Any) -> bool:
    """Say whether a result's metadata says anything; it comes from a database, and may be anything."""
    return isinstance(meta, dict) and isinstance(meta.get("status"), str) and meta["status"] != "PENDING"


def facts_in(meta: Any, redactor: Redactor) -> BackendFacts:
    """Return what a result's metadata says, as Celery's backends return it."""
    if not _tells(meta):
        return BackendFacts()
    ended = meta.get("status") in {"SUCCESS", "FAILURE", "REVOKED"}
    return BackendFacts(
        encodable(meta["status"]), _json(meta.get("args"), redactor), _json(meta.get("kwargs"), redactor),
        _json(meta.get("result"), redactor) if ended else None,
        _traceback(meta, redactor),
        _text(meta.get("parent_id")), None, _text(meta.get("group_id")), tuple(_ids(meta.get("children"), CHILDREN)),
    )  # fmt: skip


def traceback_of(app: Any, job_id: str) -> str | None:
    """Return a job's traceback as :attr:`BackendFacts.traceback` has it; None where there is none. Blocks for one question.

    :raises Exception: whatever the result backend raises, or that there is none.
    """
    return _traceback(app.backend.get_task_meta(job_id), Runtime.of(app).redactor)


def _traceback(meta: Any, redactor: Redactor) -> str | None:
    """Return the last lines of a traceback, which tell most; whole ones, since the name of a secret may be cut off its value."""
    trace = str(meta.get("traceback") or "") if isinstance(meta, dict) else ""
    if len(trace) > TRACEBACK_CHARS:
        trace = trace[-TRACEBACK_CHARS:].partition("\n")[2]
    return redactor.text(trace, "traceback") if trace else None


def _text(value: Any) -> str | None:
    return encodable(str(value)) if value else None


def _json(value: Any, redactor: Redactor) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):  # a repr, as some backends keep arguments: a secret in it is known by its name alone
        value = redactor.text(value, "arguments")
    plain = to_plain(value, redactor, VALUE_BYTES).value
    if isinstance(plain, str):
        return plain if isinstance(value, str) else redactor.text(plain, "repr")
    return msgspec.json.format(msgspec.json.encode(plain), indent=2).decode()


def _ids(children: Any, room: int) -> list[str]:
    """Return the ids of the jobs that a job has sent; of a group those of its members.

    Celery keeps each as ``((id, parent), members)``; what is of another form tells nothing.
    """
    found: list[str] = []
    for child in children if isinstance(children, (list, tuple)) else ():
        if len(found) >= room or not isinstance(child, (list, tuple)) or len(child) != 2:  # noqa: PLR2004 - see above
            continue
        head, members = child
        if members:
            found += _ids(members, room - len(found))
        elif isinstance(head, (list, tuple)) and head and head[0]:
            found.append(encodable(str(head[0])))
    return found
