"""How a message on kombu's Redis transport goes back into its queue, at once or not at all; its keys and scripts."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

__all__ = ["CLAIM_TTL", "NOBODY", "Keys", "MayMove", "is_anothers", "is_untouched", "script"]

#: A claim outlives its delivery by so many seconds at most; whoever slept longer than that finds its message gone.
CLAIM_TTL = 86_400
#: The claim of a message that was put back: no delivery's, until one receives it.
NOBODY = "-"


class Keys:
    """The names of one channel's keys. Its own client would add the prefix for some commands only; ours adds it always."""

    def __init__(self, channel: Any) -> None:
        self.prefix = getattr(channel, "global_keyprefix", "") or ""
        self.index = f"{self.prefix}{channel.unacked_index_key}"
        self.mutex = f"{self.prefix}{channel.unacked_mutex_key}"
        self.unacked = f"{self.prefix}{channel.unacked_key}"

    def claim(self, tag: str) -> str:
        """Return the name of a message's claim."""
        return f"{self.prefix}{_claim(tag)}"


def _claim(tag: str) -> str:
    return f"taskora:claim:{tag}"


def is_anothers(claim: bytes | None, token: int) -> bool:
    """Say whether another delivery than the one with this token has claimed a message whose claim this is."""
    return claim is not None and claim != b"%d" % token


def is_untouched(claim: bytes | None, score: float | None, *, taken: float | None = None, token: int | None = None) -> bool:
    """Say whether a message has not been delivered again since it was taken (None: it was not), or received with a token."""
    if token is not None and is_anothers(claim, token):
        return False
    return taken is None or score == taken


def script(client: Any, name: str) -> Any:
    """Return a script that is called with ``EVALSHA``, and loaded where Redis does not know it."""
    return client.register_script(files("taskora_celery.lease").joinpath("lua").joinpath(f"{name}.lua").read_bytes())


class MayMove:
    """A kombu channel's client for ``QoS.restore_by_tag``: of its transaction nothing is done where ``may`` says no.

    ``may`` is given the message's claim and its score in the index, None where there is none; it decides, and does no I/O. The
    message and its claim must stay as they were when they were read: it is asked again where they do not. What is moved is
    claimed for nobody in the same transaction: a worker has received it a moment before it claims it, and in between, who held
    it until now must neither acknowledge the message nor give it back. ``client`` and ``keys`` are ours.
    """

    def __init__(
        self, channel: Any, client: Any, keys: Keys, tag: str, may: Callable[[bytes | None, float | None], bool]
    ) -> None:
        self._channel = channel
        self._client = client
        self._keys = keys
        self._tag = tag
        self._may = may

    def transaction(self, move: Callable[[Any], Any], *watched: str) -> Any:
        """Be redis-py's."""
        claim = _claim(self._tag)  # kombu's client adds the prefix

        def move_if_allowed(pipe: Any) -> None:
            held, claimed, score = self._read()
            if not self._may(claimed, score):
                return
            move(pipe)
            if held:
                pipe.set(claim, NOBODY, ex=CLAIM_TTL)

        with self._channel.conn_or_acquire() as client:
            return client.transaction(move_if_allowed, *watched, claim)

    def _read(self) -> tuple[bool, bytes | None, float | None]:
        """Say whether the message is held, its claim, and its score: in one round trip, so that few tries meet others'."""
        pipe = self._client.pipeline(transaction=False)
        pipe.hexists(self._keys.unacked, self._tag)
        pipe.get(self._keys.claim(self._tag))
        pipe.zscore(self._keys.index, self._tag)
        held, claim, score = pipe.execute()
        return held, claim, score
