"""One connection to Redis that runs scripts: the hot path of every job.

redis-py's client costs more per command than Redis does (a pool, a retry policy, argument packing, callbacks). A job begins
and ends with one script each, so this goes one level down: it packs the command itself and uses redis-py's connection, which
keeps TLS, Sentinel, authentication and parsing. It has no retry of its own: the callers' reports can be sent again.
"""

from __future__ import annotations

import hashlib
import inspect
import threading
import time
from collections import deque
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError

from taskora_celery.errors import StoreUnavailableError

__all__ = ["ELSEWHERE", "Call", "ClusterWire", "Script", "Wire", "load_script"]


#: A connection that was idle for longer, in seconds, is looked at before it is used; the look is a system call.
IDLE_CHECK = 1.0


#: Redis answers so when this connection leads to a replica, or to a server that is not ready.
ELSEWHERE = ("READONLY", "LOADING", "MASTERDOWN", "You can't write against a read only", "Link with MASTER is down")


class Script:
    """A Lua script and how it is called: ``EVALSHA`` with its digest, loaded when Redis does not know it."""

    __slots__ = ("digest", "keys", "source")

    def __init__(self, source: bytes, keys: int) -> None:
        self.source = source
        self.keys = keys
        self.digest = hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()


def load_script(name: str, keys: int) -> Script:
    """Return the script in ``lua/<name>.lua``, which takes ``keys`` keys."""
    return Script(files("taskora_celery.store").joinpath("lua").joinpath(f"{name}.lua").read_bytes(), keys)


#: A script, then its keys and arguments.
Call = tuple[Script, Sequence[bytes | str | int]]


def _packed(script: Script, arguments: Sequence[bytes | str | int]) -> bytes:
    parts = [b"*%d\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$1\r\n%d\r\n" % (len(arguments) + 3, script.digest, script.keys)]
    for value in arguments:
        data = value if type(value) is bytes else str(value).encode("utf-8", "backslashreplace")
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


class _Exchange:
    """Calls of one thread, and what became of them."""

    __slots__ = ("answers", "calls", "error")

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = calls
        self.answers: list[Any] | None = None
        self.error: StoreUnavailableError | None = None

    def result(self) -> list[Any]:
        if self.error is not None:
            raise StoreUnavailableError(str(self.error)) from self.error
        assert self.answers is not None
        return self.answers

    @property
    def done(self) -> bool:
        return self.answers is not None or self.error is not None


class Wire:
    """Runs scripts over one connection, made at the first use and again after each failure.

    Safe to use from several threads: whoever has the connection sends what the others have waiting, too, so that many jobs that
    begin or end at once share a round trip. An exception of any kind in the middle of it (also one that a signal handler
    raises) drops the connection, so that no later caller reads an answer that is not its own.
    """

    def __init__(self, client: Any, timeout: float) -> None:
        """``timeout`` bounds the wait for the connection, in seconds."""
        self._client = client
        self._timeout = timeout
        self._lock = threading.Lock()
        self._waiting: deque[_Exchange] = deque()
        self._connection: Any = None
        self._used = 0.0

    def exchange(self, calls: Sequence[Call]) -> list[Any]:
        """Send all calls, then read all answers; an answer may be a ``ResponseError``.

        :raises StoreUnavailableError: no connection, or it was lost, or it did not answer in time.
        """
        own = _Exchange(calls)
        self._waiting.append(own)
        # Where Redis hangs, threads must not wait for one another's timeouts in a row.
        if not self._lock.acquire(timeout=self._timeout):
            if own.done:
                return own.result()
            raise StoreUnavailableError(f"no answer within {self._timeout:g} s")
        try:
            if not own.done:
                self._share([self._waiting.popleft() for _ in range(len(self._waiting))])
        finally:
            self._lock.release()
        return own.result()

    def _share(self, exchanges: list[_Exchange]) -> None:
        """Run the calls of all exchanges in one pipeline, in their order."""
        calls = [call for exchange in exchanges for call in exchange.calls]
        error = StoreUnavailableError("the exchange was interrupted")
        answers: list[Any] | None = None
        try:
            answers = self._run(calls)
        except StoreUnavailableError as exc:
            error = exc
        finally:  # whatever happens here, nobody waits for an answer that does not come
            at = 0
            for exchange in exchanges:
                if answers is None:
                    exchange.error = error
                else:
                    exchange.answers = answers[at : at + len(exchange.calls)]
                    at += len(exchange.calls)

    def _run(self, calls: Sequence[Call]) -> list[Any]:
        answers = self._exchange(calls)
        missing = next((n for n, answer in enumerate(answers) if isinstance(answer, NoScriptError)), None)
        if missing is not None:
            # From there on all again, in their order: what has been done already is known by its numbers and fences.
            self._load({script.digest: script for script, _ in calls[missing:]}.values())
            answers[missing:] = self._exchange(calls[missing:])
        if any(isinstance(answer, ResponseError) and str(answer).startswith(ELSEWHERE) for answer in answers):
            self._drop()  # the primary is another by now: the next connection asks for its address anew
        return answers

    def close(self) -> None:
        """Give up the connection."""
        with self._lock:
            self._drop()
        self._client.close()

    def _exchange(self, calls: Sequence[Call]) -> list[Any]:
        # In one piece: redis-py sends each piece of a list with a system call of its own.
        data = b"".join([_packed(script, arguments) for script, arguments in calls])
        return self._talk(data, len(calls))

    def _load(self, scripts: Any) -> None:
        for script in scripts:
            command = b"*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n$%d\r\n%b\r\n" % (len(script.source), script.source)
            answer = self._talk(command, 1)[0]
            if isinstance(answer, ResponseError):
                raise StoreUnavailableError(str(answer)) from answer

    def _talk(self, data: bytes, answers: int) -> list[Any]:
        done = False
        try:
            now = time.monotonic()
            if self._connection is not None and now - self._used > IDLE_CHECK and not _is_open(self._connection):
                self._drop()
            self._used = now
            if self._connection is None:
                self._connection = _take(self._client.connection_pool)
            connection = self._connection
            connection.send_packed_command([data])
            result = [self._answer(connection) for _ in range(answers)]
            done = True
        except (RedisError, OSError) as exc:
            raise StoreUnavailableError(str(exc) or type(exc).__name__) from exc
        finally:
            if not done:
                self._drop()
        return result

    @staticmethod
    def _answer(connection: Any) -> Any:
        try:
            return connection.read_response()
        except ResponseError as exc:
            return exc

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()
            self._client.connection_pool.release(connection)


def _is_open(connection: Any) -> bool:
    """Say whether an idle connection may be used: Redis closes one (`timeout`, a failover), and a begin is not sent twice."""
    try:
        return not connection.can_read(timeout=0)
    except (RedisError, OSError):
        return False


def _take(pool: Any) -> Any:
    # Before redis-py 5.3 the name of a command was wanted, and not used.
    wanted = inspect.signature(pool.get_connection).parameters.get("command_name")
    return pool.get_connection("EVALSHA") if wanted is not None and wanted.default is wanted.empty else pool.get_connection()


class ClusterWire:
    """Runs scripts on a Redis Cluster, through redis-py's own routing: each call goes to the node that has its keys."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def exchange(self, calls: Sequence[Call]) -> list[Any]:
        """Run the calls in order and return the answers; an answer may be a ``ResponseError``.

        :raises StoreUnavailableError: a node did not answer.
        """
        return [self._call(script, arguments) for script, arguments in calls]

    def close(self) -> None:
        """Give up all connections."""
        self._client.close()

    def _call(self, script: Script, arguments: Sequence[bytes | str | int]) -> Any:
        try:
            try:
                return self._client.evalsha(script.digest.decode(), script.keys, *arguments)
            except NoScriptError:
                return self._client.eval(script.source, script.keys, *arguments)
        except ResponseError as exc:
            return exc
        except (RedisError, RedisClusterException, OSError) as exc:
            raise StoreUnavailableError(str(exc) or type(exc).__name__) from exc
