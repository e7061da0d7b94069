"""Asking the workers of an app what they are and what they do, by Celery's remote control."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from taskora_celery.encoding import encodable
from taskora_celery.lease.resolve import connected
from taskora_celery.lease.waiting import Waiting

__all__ = ["ANSWER_TIMEOUT", "Answer", "Replied", "Round", "answer_of", "answers_of", "replies"]

#: Seconds that workers have to answer. One that has time needs a few milliseconds.
ANSWER_TIMEOUT = 1.0

#: Celery's modules for pools, where they have another name than ``--pool`` has for them.
_POOLS = {"thread": "threads"}


#: Of what a worker says of itself so much is kept: characters of a text, queues, and the greatest number that is one.
_CHARS, _QUEUES, _MOST = 300, 1_000, 2**31


class Replied(msgspec.Struct, frozen=True):
    """What one worker replied to a command. Instants are in float seconds since the epoch."""

    worker: str
    #: The command's own answer; whatever the worker sent.
    answer: Any
    #: It was asked at the one instant, and had replied by the other.
    sent: float
    received: float


class Answer(msgspec.Struct, frozen=True):
    """What a worker says of itself; None where it does not say."""

    worker: str
    #: When it had answered, in milliseconds since the epoch.
    at_ms: int
    #: ``prefork``, ``threads``, ``solo``, …
    pool: str | None = None
    #: So many jobs it can run at once, and so many it runs.
    slots: int | None = None
    active: int | None = None
    #: The queues that it has messages delivered from.
    queues: tuple[str, ...] | None = None
    #: The version of this library there, None where there is none; and Celery's, which only this library tells.
    version: str | None = None
    celery: str | None = None


class Round(msgspec.Struct, frozen=True):
    """What was found out in one round. Instants are in milliseconds since the epoch."""

    #: When the workers were asked.
    asked_ms: int
    #: Those that answered.
    present: frozenset[str] = frozenset()
    #: The last answer of each worker that has answered this process lately, those of :attr:`present` among them.
    answers: Mapping[str, Answer] = {}
    #: Why workers could not be asked; None where they were.
    workers_error: str | None = None
    #: What waits in each queue that is known.
    waiting: Mapping[str, Waiting] = {}
    #: Why the broker could not be asked for its queues; None where it was.
    queues_error: str | None = None
    #: So many more queues are known and were not looked at.
    queues_left: int = 0


def replies(app: Any, connection: Any, command: str, timeout: float, workers: Sequence[str] = ()) -> list[Replied] | None:
    """Ask all workers on this broker, or these, and return what they reply; None where the broker has no broadcasts.

    ``connection`` is an open kombu connection on which nobody was asked yet: on Redis, what is left of an earlier wait would take
    the replies to the next command. Its timeouts count; no other connection is used. Blocks until nobody has replied for
    ``timeout`` seconds, or all ``workers`` have.

    :raises Exception: whatever the transport raises when the broker does not answer.
    """
    if not getattr(connection.default_channel, "supports_fanout", True):
        return None
    found: list[Replied] = []
    sent = time.time()

    def replied(reply: Any) -> None:
        received = time.time()
        if isinstance(reply, Mapping):
            found.extend(Replied(encodable(str(worker)), answer, sent, received) for worker, answer in reply.items())

    mailbox = app.control.mailbox(connection)  # a copy: the app's own publishes through a pool of connections without a timeout
    mailbox.producer_pool = None
    if workers:
        mailbox.call(list(workers), command, timeout=timeout, callback=replied)
    else:
        mailbox.multi_call(command, timeout=timeout, callback=replied)
    return found


def answer_of(replied: Replied) -> Answer:
    """Return what a worker's reply to ``stats`` says of it; one that is not understood says only that the worker is there."""
    stats = replied.answer if isinstance(replied.answer, Mapping) else {}
    pool, about = stats.get("pool"), stats.get("taskora")
    pool, about = (part if isinstance(part, Mapping) else {} for part in (pool, about))
    packages = about.get("packages")
    queues = about.get("queues")
    return Answer(
        replied.worker, int(replied.received * 1000), _pool_name(pool.get("implementation")), _count(pool.get("max-concurrency")),
        _count(about.get("active")), _names(queues) if isinstance(queues, (list, tuple)) else None,
        _text(about["version"]) if "version" in about else None,
        _text(packages["celery"]) if isinstance(packages, Mapping) and "celery" in packages else None,
    )  # fmt: skip


def _pool_name(implementation: Any) -> str | None:
    """Return the pool's name of ``celery.concurrency.prefork:TaskPool``."""
    if not isinstance(implementation, str):
        return None
    name = _text(implementation.partition(":")[0].rpartition(".")[2])
    return _POOLS.get(name, name) or None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST else None


def _text(value: Any) -> str:
    return encodable(str(value)[:_CHARS])


def _names(queues: Iterable[Any]) -> tuple[str, ...]:
    """Return the queues of one worker by their names, as many as a worker may have."""
    return tuple(_text(queue) for queue in islice(queues, _QUEUES))


def answers_of(app: Any, timeout: float = ANSWER_TIMEOUT) -> list[Answer] | None:
    """Return what all workers on the app's broker say of themselves; None where it has no broadcasts. Blocks for some seconds.

    Workers without this library (or with an older version of it) are asked for their queues and their jobs as well.

    :raises Exception: whatever the transport raises when the broker cannot be reached, or does not answer.
    """
    replied = _asked(app, "stats", timeout)
    if replied is None:
        return None
    answers = {reply.worker: answer_of(reply) for reply in replied}
    terse = sorted(worker for worker, answer in answers.items() if answer.queues is None)
    if terse:
        queues = {reply.worker: _queue_names(reply.answer) for reply in _asked(app, "active_queues", timeout, terse) or ()}
        active = {reply.worker: _length(reply.answer) for reply in _asked(app, "active", timeout, terse) or ()}
        for worker in terse:
            answers[worker] = msgspec.structs.replace(answers[worker], queues=queues.get(worker), active=active.get(worker))
    return list(answers.values())


def _asked(app: Any, command: str, timeout: float, workers: Sequence[str] = ()) -> list[Replied] | None:
    with connected(app) as connection:
        return replies(app, connection, command, timeout, workers)


def _queue_names(reply: Any) -> tuple[str, ...] | None:
    if not isinstance(reply, list):
        return None
    return _names(queue["name"] for queue in reply if isinstance(queue, Mapping) and "name" in queue)


def _length(reply: Any) -> int | None:
    return len(reply) if isinstance(reply, list) else None
