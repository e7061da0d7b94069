"""What Redis's answers to the scripts mean, and which of its errors are about one job only."""

from __future__ import annotations

import logging
from typing import Any

from redis.exceptions import ClusterDownError, NoPermissionError, ReadOnlyError, ResponseError, TryAgainError

from taskora_celery.errors import StoreUnavailableError
from taskora_celery.store.protocol import Begun, Reply
from taskora_celery.store.snapshots import attempts_in, number_in

__all__ = ["begun_in", "or_refused", "sound"]

logger = logging.getLogger("taskora_celery.store")

#: What keeps Redis from writing anything at all: redis-py's classes for it, whose texts lack the code, and Redis's words.
_STORE_WIDE = (ClusterDownError, NoPermissionError, ReadOnlyError, TryAgainError)
_STORE_WIDE_WORDS = (
    "READONLY", "read only", "OOM", "maxmemory", "LOADING", "NOPERM", "NOAUTH", "permission", "can't run this command",
    "can't access at least one", "MASTERDOWN", "CLUSTERDOWN", "MISCONF", "NOREPLICAS", "BUSY", "TRYAGAIN", "UNBLOCKED",
    "unknown command", "EVALSHA", "NOSCRIPT",
)  # fmt: skip


def begun_in(answer: Any) -> Begun:
    """Return what ``begin.lua`` answered: one line where nothing but these numbers is known of the job."""
    if type(answer) is bytes:
        fence, delivery, stalls, created = answer.split(b" ", 3)
        return Begun(int(fence), int(delivery), number_in(created), stalls=int(stalls))
    fence, delivery, created, checkpoint, attempts, stalls, cancel, *unheard = answer
    return Begun(
        int(fence), int(delivery), number_in(created), checkpoint or None, attempts_in(attempts), int(stalls), cancel or None,
        bool(unheard),
    )  # fmt: skip


def or_refused(answer: Any) -> Any:
    """Return an answer, or ``Reply.REFUSED`` where Redis works and only this job's data cannot be written."""
    if isinstance(answer, ResponseError) and not _is_store_wide(answer):
        logger.warning("a job's record cannot be written, and is given up: %s", answer)
        return Reply.REFUSED
    return sound(answer)


def _is_store_wide(error: ResponseError) -> bool:
    return isinstance(error, _STORE_WIDE) or any(word in str(error) for word in _STORE_WIDE_WORDS)


def sound(answer: Any) -> Any:
    """Return an answer that is one; Redis may refuse (read-only, out of memory, no permission)."""
    if isinstance(answer, ResponseError):
        raise StoreUnavailableError(str(answer)) from answer
    return answer
