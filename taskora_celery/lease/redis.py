"""The lease on kombu's Redis transport.

kombu keeps a copy of each message that is being worked on in a hash, and its delivery time as the score of its tag in the
sorted set ``unacked_index``; a sweep in every worker puts back what is older than the visibility timeout. Nothing in kombu
renews the score (celery#5935), so a long job is run again while it runs.

All deliveries of a message share one tag, one score and one copy, so none of these tells an old delivery from a new one. A
redelivered message is therefore *claimed* by the worker that receives it: ``taskora:claim:<tag>`` holds the token of the delivery
that counts. Without a claim the first delivery counts.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import redis
from kombu.exceptions import InconsistencyError
from redis.exceptions import LockError, RedisError, ResponseError

from taskora_celery.encoding import encodable
from taskora_celery.lease.moving import CLAIM_TTL, Keys, MayMove, is_untouched, script
from taskora_celery.lease.protocol import Due, Held, Hold, Renewal

__all__ = ["RedisLease", "holds"]

logger = logging.getLogger("taskora_celery.lease")

#: So many due messages are put back in one turn; the next turn follows at once while there are more.
DUE_AT_ONCE = 50
#: Who has said that it puts a due message back has so many seconds for it; should it die, the message is due again.
PUT_BACK_WITHIN = 5.0
#: A sweep nearly always takes milliseconds; who holds its mutex for so many seconds counts as dead, where kombu waits for five
#: minutes. Where it lives after all, a message may be delivered once more than it had to be, and the earlier delivery is fenced.
SWEEP_WITHIN = 2.0
#: So many deliveries are renewed by one script: it keeps Redis for well under a millisecond.
HOLDS_AT_ONCE = 1_000


class Sweep(NamedTuple):
    """Somebody else who puts messages back: the value of kombu's mutex, and since when it is held, in monotonic seconds."""

    holder: bytes | None
    since: float


def sweep_of(holder: bytes | None, left: float, lasts: float, now: float, before: Sweep | None) -> Sweep:
    """Say who sweeps, and since when at least; ``before`` is what was said in the look before this one.

    ``left`` are the seconds after which the mutex runs out by itself (``lasts``, where it never does), ``lasts`` those that kombu
    gives it here (0: none); ours lasts for ``PUT_BACK_WITHIN``. What is left is believed only of a holder that is seen once more:
    other workers may give their mutex less, but their sweeps are over by then.
    """
    if before is None or holder is None or before.holder != holder:
        return Sweep(holder, now)
    age = (lasts if left > PUT_BACK_WITHIN else min(lasts, PUT_BACK_WITHIN)) - left
    return Sweep(holder, min(before.since, now - age))


def holds(channel: Any) -> bool:
    """Say whether a kombu channel keeps its unacknowledged messages the way this adapter renews them."""
    return (
        hasattr(channel, "unacked_index_key")
        and hasattr(channel, "visibility_timeout")
        and hasattr(channel, "pool")
        and getattr(channel, "ack_emulation", True)
    )


class RedisLease:
    """Renews, claims and puts back messages of one kombu Redis channel.

    The names, the prefix, the database, TLS and Sentinel are those of the live ``channel``, which with its ``connection`` belongs
    to this lease alone. ``exchanges`` returns the exchanges that the app knows, by name, as kombu's broker state has them: a
    message goes back through its exchange, and one whose exchange nobody has declared here would go nowhere.
    """

    def __init__(self, connection: Any, channel: Any, exchanges: Callable[[], dict[str, Any]] = dict) -> None:
        self._connection = connection
        self._channel = channel
        self._exchanges = exchanges
        self._client = redis.Redis(connection_pool=channel.pool)
        self._keys = Keys(channel)
        self._renew = script(self._client, "renew")
        self._take = script(self._client, "take")
        self.visibility_timeout: float | None = float(channel.visibility_timeout)
        self.shows_due = True
        #: How many due messages lead nowhere and are left alone; who looks has to look past them.
        self._stuck = 0
        self._told_stuck = False
        #: The score that was given to each message that was taken.
        self._taken: dict[str, float] = {}
        #: Who else held the sweep's mutex in the last look, None where nobody did.
        self._sweep: Sweep | None = None

    def renew(self, holds: Sequence[Hold], *, look: bool = False) -> Renewal:
        """Renew these deliveries, in one round trip for each thousand; with ``look`` say also what is due.

        :raises ConnectionError: the broker did not answer.
        """
        held: list[Held] = []
        due: list[bytes] = []
        next_due: float | None = None
        with _Answering():
            for at in range(0, len(holds), HOLDS_AT_ONCE) or (0,):
                part = holds[at : at + HOLDS_AT_ONCE]
                last = at + HOLDS_AT_ONCE >= len(holds)
                codes, found, following = self._run(part, DUE_AT_ONCE + self._stuck if look and last else 0)
                held += [Held(code) for code in codes]
                due += found
                next_due = float(following) if following else None
            messages = self._messages(due) if look else ()
        return Renewal(tuple(held), messages, next_due)

    def _run(self, holds: Sequence[Hold], look: int) -> Any:
        timeout = self.visibility_timeout or 0.0
        arguments: list[Any] = [time.time(), timeout, look, CLAIM_TTL]
        for hold in holds:
            # The sweep adds the visibility timeout to the score: what is to be due earlier or later is shifted by the difference.
            shift = "" if hold.watched else (0.0 if hold.timeout is None else hold.timeout - timeout) - hold.age
            arguments += [hold.tag, hold.token, shift]
        return self._renew(keys=[self._keys.index, *(self._keys.claim(hold.tag) for hold in holds)], args=arguments)

    def _messages(self, found: list[bytes]) -> tuple[Due, ...]:
        """Return what is known of due messages, less those that lead nowhere: they cannot be put back."""
        tags = found[::2]
        copies: list[bytes | None] = self._client.hmget(self._keys.unacked, tags) if tags else []
        due: list[Due] = []
        known: dict[Any, bool] = {}
        for name, late, copy in zip(tags, found[1::2], copies, strict=True):
            tag = _tag(name)
            if tag is None or not self._leads_somewhere(tag, copy, known):
                continue
            headers = _headers(copy)
            retries = headers.get("retries")
            attempt = retries + 1 if type(retries) is int else 1
            job_id, task = (encodable(str(headers.get(key, ""))) for key in ("id", "task"))
            due.append(Due(tag, job_id, task, attempt, float(late)))
        self._stuck = len(tags) - len(due)
        self._told_stuck = self._stuck > 0
        return tuple(due)

    def claim(self, hold: Hold) -> None:
        """Say that this delivery is the one that counts from now on.

        :raises ConnectionError: the broker did not answer.
        """
        with _Answering():
            self._client.set(self._keys.claim(hold.tag), hold.token, ex=CLAIM_TTL)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Hold kombu's own mutex, so that no sweep puts back meanwhile what it saw before it was put back and delivered again.

        True, too, where another worker has held it for so long that it counts as dead. Keepers that follow one another do not:
        one at a time brings back what is due.

        :raises ConnectionError: the broker did not answer.
        """
        mutex = self._client.lock(self._keys.mutex, timeout=PUT_BACK_WITHIN)
        with _Answering():
            mine = mutex.acquire(blocking=False)
            self._sweep = None if mine else self._look_at_sweep()
        try:
            yield self._sweep is None or time.monotonic() - self._sweep.since >= SWEEP_WITHIN
        finally:
            if mine:
                with _Answering(), suppress(LockError):  # it took longer: the mutex is free, or another's
                    mutex.release()

    def _look_at_sweep(self) -> Sweep:
        pipe = self._client.pipeline(transaction=False)
        pipe.get(self._keys.mutex)
        pipe.pttl(self._keys.mutex)
        try:
            holder, left = pipe.execute()
        except ResponseError:  # one of them is forbidden to this user: whoever holds it is taken for one
            holder, left = b"", -1
        lasts = float(self._channel.unacked_mutex_expire or 0)
        return sweep_of(holder, left / 1000 if left >= 0 else lasts, lasts, time.monotonic(), self._sweep)

    def take(self, tag: str) -> bool:
        """Say whether the message is still due, and the caller's to put back; for ``PUT_BACK_WITHIN`` it is nobody else's.

        :raises ConnectionError: the broker did not answer.
        """
        with _Answering():
            score = self._take(keys=[self._keys.index], args=[tag, self.visibility_timeout or 0.0, PUT_BACK_WITHIN])
        if score:
            self._taken[tag] = float(score)
        return bool(score)

    def put_back(self, tag: str, queue: str | None = None, *, token: int | None = None) -> None:  # noqa: ARG002 - the protocol's
        """Make the message deliverable at once, next in its queue, by kombu's own code; who else tries meanwhile finds it gone.

        A message that was taken, and has another score since, was delivered again: it is left to who received it; so is, with the
        ``token`` of a delivery, what another one has claimed.

        :raises ConnectionError: the broker did not answer.
        """
        taken = self._taken.pop(tag, None)
        with _Answering():
            copy: bytes | None = self._client.hget(self._keys.unacked, tag)
            if self._leads_somewhere(tag, copy, {}):
                untouched = partial(is_untouched, taken=taken, token=token)
                self._channel.qos.restore_by_tag(tag, client=MayMove(self._channel, self._client, self._keys, tag, untouched))

    def _leads_somewhere(self, tag: str, copy: bytes | None, known: dict[Any, bool]) -> bool:
        """Say whether kombu would find a queue for the message; where it finds none, it drops it. ``known`` is what was asked."""
        if copy is None:
            return True  # only its score is left, which kombu then removes
        route = _route(copy)
        if route not in known:
            known[route] = route is not None and (not route[0] or self._has_queue(*route))
        found = known[route]
        if not found and not self._told_stuck:
            self._told_stuck = True
            logger.warning("message %s is due, but its route %r leads to no queue known here; it is left alone", tag, route)
        return found

    def _has_queue(self, exchange: str, routing_key: str) -> bool:
        channel, declared = self._channel, self._channel.connection.state.exchanges
        for name, as_declared in self._exchanges().items():
            declared.setdefault(name, as_declared)
        try:
            return bool(channel.typeof(exchange).lookup(channel.get_table(exchange), exchange, routing_key, None))
        except (LookupError, InconsistencyError):  # a type of exchange that kombu does not know; no table, before kombu 5.4
            return False

    def close(self) -> None:
        """Give up the connection."""
        self._connection.close()


class _Answering:
    """Turns what redis-py raises into ``ConnectionError``."""

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        if isinstance(exc, RedisError | OSError) and not isinstance(exc, ConnectionError):
            raise ConnectionError(str(exc) or type(exc).__name__) from exc


def _tag(name: bytes) -> str | None:
    """Return a delivery tag as text; None for one that is none of kombu's."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None


def _route(copy: bytes) -> tuple[str, str] | None:
    """Return a copy's exchange and routing key, None where it cannot be read."""
    try:
        _, exchange, routing_key = json.loads(copy)
    except (ValueError, TypeError, RecursionError):
        return None
    return (exchange, routing_key) if isinstance(exchange, str) and isinstance(routing_key, str) else None


def _headers(copy: bytes | None) -> dict[str, Any]:
    try:
        headers = json.loads(copy or b"null")[0]["headers"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return {}
    return headers if isinstance(headers, dict) else {}
