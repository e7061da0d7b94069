"""Gates: a handler says where it is, and waits until the test lets it go on. So no test has to guess how long a job takes.

They work through Redis, the broker's database or the one in ``GATE_URL``. One side calls `stop_at` (or `is_open`), the other
`wait_at` and `open_gate`. A name may be used again: each arrival and each opening counts once.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import redis

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT = 60.0  # seconds, for either side
_TTL = 600  # seconds
CLIENT_NAME = "gate"


@contextmanager
def gate_client(url: str | None = None) -> Iterator[redis.Redis]:
    """A client of the database that the gates are in."""
    # redis-py's own timeout, 5 s since its version 8, would end a longer BLPOP. By their name tests know whom to leave alone.
    options: dict[str, Any] = {"socket_timeout": TIMEOUT + 10.0, "client_name": CLIENT_NAME}
    with redis.Redis.from_url(url or os.environ.get("GATE_URL") or _broker_url(), **options) as client:
        yield client


def _broker_url() -> str:
    from tests.support import jobs  # which imports this module; and a worker without the library must not

    return str(jobs.app.conf.broker_url)


def stop_at(job_id: str, name: str = "gate", timeout: float = TIMEOUT) -> None:
    """In a handler: say that it has come here, and block until the test opens the gate."""
    with gate_client() as client:
        client.rpush(_key(job_id, name, "arrived"), "1")
        client.expire(_key(job_id, name, "arrived"), _TTL)
        if client.blpop([_key(job_id, name, "open")], timeout=timeout) is None:
            raise AssertionError(f"gate {name!r} was not opened within {timeout:g} s")


def arrive(job_id: str, name: str = "gate") -> None:
    """In a handler: say that it has come here, and go on."""
    with gate_client() as client:
        client.rpush(_key(job_id, name, "arrived"), "1")
        client.expire(_key(job_id, name, "arrived"), _TTL)


def wait_at(job_id: str, name: str = "gate", timeout: float = TIMEOUT) -> None:
    """In a test: wait until the handler has come to the gate."""
    with gate_client() as client:
        arrived = client.blpop([_key(job_id, name, "arrived")], timeout=timeout)
    assert arrived is not None, f"job {job_id} did not come to gate {name!r} within {timeout:g} s"


def open_gate(job_id: str, name: str = "gate") -> None:
    """In a test: let the handler go on, now or when it comes."""
    with gate_client() as client:
        client.rpush(_key(job_id, name, "open"), "1")
        client.expire(_key(job_id, name, "open"), _TTL)


def is_open(client: redis.Redis, job_id: str, name: str = "gate") -> bool:
    """In a handler that does something meanwhile: whether the gate was opened; it stays open for all who look."""
    return bool(client.exists(_key(job_id, name, "open")))


def count(job_id: str, name: str) -> int:
    """In a handler: count one more; return the number."""
    with gate_client() as client:
        number = cast("int", client.incr(_key(job_id, name, "count")))
        client.expire(_key(job_id, name, "count"), _TTL)
    return number


def counted(job_id: str, name: str) -> int:
    """In a test: how often the handler counted."""
    with gate_client() as client:
        return int(cast("bytes | None", client.get(_key(job_id, name, "count"))) or 0)


def tell(job_id: str, name: str, value: Any = None) -> int:
    """In a handler: put something down for the test, behind what was put down before; return how many there are now."""
    with gate_client() as client:
        number = cast("int", client.rpush(_key(job_id, name, "told"), json.dumps(value)))
        client.expire(_key(job_id, name, "told"), _TTL)
    return number


def told(job_id: str, name: str) -> list[Any]:
    """In a test: what the handlers of a job have put down, in their order."""
    with gate_client() as client:
        return [json.loads(value) for value in cast("list[bytes]", client.lrange(_key(job_id, name, "told"), 0, -1))]


def _key(job_id: str, name: str, what: str) -> str:
    return f"gate:{job_id}:{name}:{what}"
