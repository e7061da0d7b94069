"""The fence on kombu's Redis transport: of a message that was delivered again, only the delivery that counts disposes."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import redis
from redis.exceptions import ResponseError

from taskora_celery.lease.moving import CLAIM_TTL, Keys, MayMove, is_anothers, is_untouched, script
from taskora_celery.lease.protocol import Held, Hold

__all__ = ["FencedChannel", "Places", "RedisFence", "places_in"]

logger = logging.getLogger("taskora_celery.lease")

#: Of a channel's connections so many are left to kombu: for the message that it receives, and for a sweep.
KOMBUS_CONNECTIONS = 2
#: What uses the fence takes so many at most: to move a message is a transaction, and a look at what it is about.
CONNECTIONS_EACH = 2
#: So many places at most, be there no limit on the connections.
PLACES = 50
#: Seconds for which a place is waited for. A thousand that end at once are through earlier, each with a Redis 0.2 s away.
PLACE_TIMEOUT = 120.0


def places_in(connections: int) -> int:
    """Say how many may use a pool of so many connections at once."""
    return min(max((connections - KOMBUS_CONNECTIONS) // CONNECTIONS_EACH, 1), PLACES)


class Places:
    """Lets so many threads or greenlets do something at once; others wait for ``PLACE_TIMEOUT`` seconds, and then do it, too.

    A signal handler may come in, whatever its thread was doing: it waits for no place where that thread has one, or is about to.
    """

    def __init__(self, number: int) -> None:
        # By the modules, here and below: Python may be patched for greenlets after this one was imported.
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(number):
            self._free.put(None)
        #: The threads and greenlets that have a place, or wait for one.
        self._inside: set[int] = set()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Take a place, and give it back behind the block."""
        me = threading.get_ident()
        if me in self._inside:
            yield
            return
        taken = False
        try:
            self._inside.add(me)
            with suppress(queue.Empty):
                self._free.get(timeout=PLACE_TIMEOUT)
                taken = True
            yield
        finally:
            self._inside.discard(me)
            if taken:
                self._free.put(None)


class RedisFence:
    """The fence of one consumer's channel: who may acknowledge a message. Used in the worker's parent, by any thread.

    Its round trips take the place of kombu's own, through the channel's pool, and raise what kombu's would: Celery's consumer
    knows what to do then. They leave some of the pool's connections free. kombu has ten, and raises where jobs that end at once
    use them all: without this such an acknowledgement fails, and a message that comes in that moment is lost.
    """

    def __init__(self, channel: Any) -> None:
        # A plain client, which writes prefixes as it is told. It works on when the channel was closed: jobs outlive a connection.
        self._client = redis.Redis(connection_pool=channel.pool)
        self._keys = Keys(channel)
        self._acknowledge = script(self._client, "acknowledge")
        self._visibility_timeout = float(channel.visibility_timeout)
        self._told_forbidden = False
        self._places = Places(places_in(channel.pool.max_connections))

    def shorten(self, hold: Hold) -> None:
        """Let the message be due when a sign of life is: kombu has just given it the whole visibility timeout.

        It is renewed from the next moment on; whoever dies before that must not hold it for an hour.
        """
        if hold.timeout is not None:
            # kombu's own score is the worker's clock, too.
            self._client.zadd(self._keys.index, {hold.tag: time.time() + hold.timeout - self._visibility_timeout}, xx=True)

    def claim(self, hold: Hold) -> None:
        """Say that this delivery is the one that counts from now on."""
        try:
            self._client.set(self._keys.claim(hold.tag), hold.token, ex=CLAIM_TTL)
        except ResponseError as exc:
            self.tell_forbidden(exc)

    def is_taken(self, hold: Hold) -> bool:
        """Say whether another delivery of the message counts by now; where Redis forbids to ask, it does not."""
        try:
            claim: bytes | None = self._client.get(self._keys.claim(hold.tag))
        except ResponseError as exc:
            self.tell_forbidden(exc)
            return False
        return is_anothers(claim, hold.token)

    def tell_forbidden(self, exc: ResponseError) -> None:
        """Say once that there can be no fence here."""
        if not self._told_forbidden:
            self._told_forbidden = True
            logger.error(
                "Redis refuses what keeps an earlier delivery from acknowledging a later one: %s. Allow the broker's user the "
                "keys %s* and the commands EVALSHA, SCRIPT LOAD, GET and SET; until then jobs run without this fence.",
                exc, self._keys.claim(""),
            )  # fmt: skip

    def put_back(self, channel: Any, hold: Hold, *, last: bool) -> None:
        """Put the message back by kombu's own code, unless it is another delivery's by now; ``last``: as the last of its queue.

        Both are one transaction: a worker that claims it meanwhile has it, and the message stays where it is.
        """
        may = MayMove(channel, self._client, self._keys, hold.tag, partial(is_untouched, token=hold.token))
        with self._places.one():
            try:
                channel.qos.restore_by_tag(hold.tag, client=may, leftmost=last)
            except ResponseError as exc:
                self.tell_forbidden(exc)
                channel.qos.restore_by_tag(hold.tag, leftmost=last)

    def acknowledge(self, hold: Hold) -> Held:
        """Remove the message, unless it is another delivery's by now; return what became of it."""
        keys = [self._keys.index, self._keys.unacked, self._keys.claim(hold.tag)]
        with self._places.one():
            return Held(int(self._acknowledge(keys=keys, args=[hold.tag, hold.token])))

    def acknowledge_unfenced(self, channel: Any, tag: str, exc: ResponseError) -> None:
        """Let kombu remove the message, whoever has it: scripts are forbidden to this user."""
        self.tell_forbidden(exc)
        with self._places.one():
            channel.basic_ack(tag)


class FencedChannel:
    """A kombu Redis channel as one delivery may use it: what it acknowledges or rejects is its own, or nothing.

    A message asks its ``channel`` to acknowledge it. All that kombu does is done by the real channel, but for the two that remove
    or move the message's safety copy: an earlier delivery must not remove the copy of a later one.
    """

    def __init__(self, channel: Any, fence: RedisFence, hold: Hold) -> None:
        self.channel = channel
        self._fence = fence
        self.hold = hold
        #: The message was acknowledged or rejected, is another delivery's by now, or was given up: nothing is left to be done.
        self.settled = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.channel, name)

    def received(self) -> None:
        """Give the message its own timeout, where it has one; at most one round trip."""
        self._fence.shorten(self.hold)

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:  # noqa: ARG002 - kombu's signature
        """Acknowledge the message if it is still this delivery's: one round trip, as kombu's own."""
        if self.settled:
            return
        self.settled = True  # before the round trip: who finds the message gone meanwhile knows why
        try:
            held = self._fence.acknowledge(self.hold)
        except ResponseError as exc:
            self._fence.acknowledge_unfenced(self.channel, delivery_tag, exc)
            return
        if held is Held.TAKEN:
            logger.warning("message %s was delivered again: the earlier delivery's acknowledgement is refused", delivery_tag)
        self._forget()

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Reject the message if it is still this delivery's."""
        if not requeue:
            self.basic_ack(delivery_tag)
        else:
            self.put_back(last=True)

    def put_back(self, *, last: bool = False) -> None:
        """Put the message back if it is still this delivery's: next in its queue, or as the last."""
        if not self.settled:
            self.settled = True
            # kombu's `QoS.reject` without its end: another thread may have received the message again on this channel by then.
            if not self.channel.closed:  # else kombu has put it back, or it comes back when its lease runs out
                self._fence.put_back(self.channel, self.hold, last=last)
            self._forget()

    def give_up(self) -> None:
        """Note that the message is no longer this delivery's: kombu neither counts nor puts it back from now on."""
        if not self.settled:
            self.settled = True
            self._forget()

    def move(self, message: Any, fence: RedisFence) -> None:
        """Go on under the same message, which has come back, on its channel: another one after a lost connection."""
        self.channel, self._fence = message.channel, fence
        message.channel = self
        if self.settled:  # meanwhile, and has forgotten the message only on the channel before
            self._forget()

    def is_mine(self) -> bool:
        """Say whether no other delivery has claimed the message; one round trip."""
        return not self.settled and not self.is_taken()

    def is_taken(self) -> bool:
        """Say whether another delivery has claimed the message; one round trip."""
        return self._fence.is_taken(self.hold)

    def _forget(self) -> None:
        # What kombu's `QoS.ack` does after its round trip: the slot of the prefetch count is free. Not where the message has come
        # back to this very channel since, under the same tag: it is a later delivery's.
        qos = self.channel.qos
        message = qos._delivered.get(self.hold.tag)  # noqa: SLF001 - kombu has no other name for it
        if message is not None and message.channel is self:
            qos._quick_ack(self.hold.tag)  # noqa: SLF001 - likewise
