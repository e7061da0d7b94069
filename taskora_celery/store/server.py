"""What a Redis server says of itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from taskora_celery.errors import StoreUnavailableError
from taskora_celery.store.connect import Endpoint, client
from taskora_celery.store.keys import JobKeys
from taskora_celery.store.wire import load_script

__all__ = ["ServerReport", "Trial", "server_report", "try_records"]

TRIAL = load_script("trial", 1)
#: How long what a trial wrote is kept where Redis refuses in the middle of it, in milliseconds.
_TRIAL_TTL_MS = 1_000


class ServerReport(msgspec.Struct, frozen=True):
    """What can be known of a server; None where it does not tell (no permission, or not by this product)."""

    version: str | None = None
    #: Seconds by which its clock is ahead of this machine's; the truth is within half a round trip of it.
    ahead: float | None = None
    maxmemory_policy: str | None = None
    #: In bytes, 0 for no limit.
    maxmemory: int = 0


class Trial(msgspec.Struct, frozen=True):
    """What came of an attempt to keep records on a server; Redis's own words where it refuses, None where it does not."""

    write: str | None = None
    #: About announcements: who cannot hear them, hears of a cancel later.
    hear: str | None = None


def try_records(endpoint: Endpoint, prefix: str, timeout: float) -> Trial:
    """Write as records are written, below ``prefix``, listen as jobs do, and leave nothing behind.

    :raises StoreUnavailableError: the server does not answer; each question waits for at most ``timeout`` seconds.
    """
    keys = JobKeys(endpoint.global_keyprefix + prefix)
    try:
        redis = client(endpoint, timeout)
        try:
            return Trial(_refusal(lambda: _write(redis, keys)), _refusal(lambda: _hear(redis, keys, timeout)))
        finally:
            redis.close()
    except (RedisError, RedisClusterException, OSError, ValueError, TypeError) as exc:
        raise StoreUnavailableError(f"{endpoint.shown()}: {exc}") from exc


def _write(redis: Any, keys: JobKeys) -> None:
    redis.eval(TRIAL.source, TRIAL.keys, keys.trial, _TRIAL_TTL_MS, keys.channel("trial"))


def _hear(redis: Any, keys: JobKeys, timeout: float) -> None:
    with redis.pubsub() as pubsub:
        pubsub.subscribe(keys.announcements)
        pubsub.get_message(timeout=timeout)


def _refusal(do: Callable[[], None]) -> str | None:
    try:
        do()
    except ResponseError as exc:
        return str(exc).partition(" script: ")[0].strip()
    return None


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
