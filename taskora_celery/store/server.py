"""What a Redis server says of itself."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from taskora_celery.errors import StoreUnavailableError
from taskora_celery.store.connect import Endpoint, client

__all__ = ["ServerReport", "server_report"]


class ServerReport(msgspec.Struct, frozen=True):
    """What can be known of a server; None where it does not tell (no permission, or not by this product)."""

    version: str | None = None
    #: Seconds by which its clock is ahead of this machine's; the truth is within half a round trip of it.
    ahead: float | None = None
    maxmemory_policy: str | None = None
    #: In bytes, 0 for no limit.
    maxmemory: int = 0


def server_report(endpoint: Endpoint, timeout: float) -> ServerReport:
    """Ask a server, each question for at most ``timeout`` seconds.

    :raises StoreUnavailableError: it does not answer.
    """
    try:
        redis = client(endpoint, timeout)
        try:
            redis.ping()
            info = _info(redis, "server") | _info(redis, "memory")
            return ServerReport(
                _text(info.get("redis_version")), _ahead(redis), _text(info.get("maxmemory_policy")),
                int(info.get("maxmemory", 0)),
            )  # fmt: skip
        finally:
            redis.close()
    except (RedisError, RedisClusterException, OSError, ValueError, TypeError) as exc:
        raise StoreUnavailableError(f"{endpoint.shown()}: {exc}") from exc


def _info(redis: Any, section: str) -> dict[str, Any]:
    try:
        answer = redis.info(section)
    except ResponseError:  # not permitted
        return {}
    if answer and all(isinstance(value, dict) for value in answer.values()):  # a cluster answers by node: one stands for all
        answer = next(iter(answer.values()))
    return dict(answer)


def _ahead(redis: Any) -> float | None:
    try:
        before = time.time()
        answer = redis.time()
        after = time.time()
    except ResponseError:
        return None
    if isinstance(answer, dict):
        answer = next(iter(answer.values()))
    seconds, micros = answer
    return float(int(seconds) + int(micros) / 1_000_000 - (before + after) / 2)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
