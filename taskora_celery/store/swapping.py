"""What is written into Celery's own result backend, where that is Redis: by the backend's client, over what was judged only."""

from __future__ import annotations

from typing import Any

from redis.exceptions import NoScriptError

from taskora_celery.store.wire import load_script

__all__ = ["swap_result"]

SWAP = load_script("swap", 1)


def swap_result(client: Any, key: str | bytes, expected: bytes, new: bytes, ttl: int) -> bool:
    """Replace a result that is ``expected`` (empty: there is none) by ``new``, announced to who waits for it; say whether it was.

    ``client`` is the backend's own, in whose database the key is; ``ttl`` is in seconds, 0 for none. One round trip.

    :raises redis.RedisError: it does not answer, or refuses.
    """
    try:
        return bool(client.evalsha(SWAP.digest.decode(), SWAP.keys, key, expected, new, ttl))
    except NoScriptError:
        return bool(client.eval(SWAP.source, SWAP.keys, key, expected, new, ttl))
