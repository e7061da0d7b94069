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

import msgspec
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError

from taskora_celery.errors import StoreUnavailableError

__all__ = ["ELSEWHERE", "Call", "ClusterWire", "Script", "Wire", "as_one", "load_script"]


#: A connection that was idle for longer, in seconds, is looked at before it is used; the look is a system call.
IDLE_CHECK = 1.0


#: So many beginnings of calls are kept for each script.
HEADS_KEPT = 32

#: Redis answers so when this connection leads to a replica, or to a server that is not ready.
ELSEWHERE = ("READONLY", "LOADING", "MASTERDOWN", "You can't write against a read only", "Link with MASTER is down")


class Script:
    """A Lua script and how it is called: ``EVALSHA`` with its digest, loaded when Redis does not know it."""

    __slots__ = ("_heads", "digest", "keys", "source")

    def __init__(self, source: bytes, keys: int) -> None:
        self.source = source
        self.keys = keys
        self.digest = hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()
        #: How a call begins, by the number of its arguments: there are few, and they are the same for every job.
        self._heads: dict[int, bytes] = {}

    def head(self, arguments: int) -> bytes:
        """Return how a call with so many keys and arguments begins on the wire."""
        head = self._heads.get(arguments)
        if head is None:
            head = b"*%d\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$%d\r\n%d\r\n" % (
                arguments + 3, self.digest, len(str(self.keys)), self.keys,
            )  # fmt: skip
            if len(self._heads) < HEADS_KEPT:
                self._heads[arguments] = head
        return head


def load_script(name: str, keys: int) -> Script:
    """Return the script in ``lua/<name>.lua``, which takes ``keys`` keys."""
    return Script(files("taskora_celery.store").joinpath("lua").joinpath(f"{name}.lua").read_bytes(), keys)


#: A script, then its keys and arguments.
Call = tuple[Script, Sequence[bytes | str | int]]

_encoder = msgspec.msgpack.Encoder()


def as_one(values: Sequence[str | int]) -> bytes:
    """Return texts and numbers as one argument, which a script takes apart with ``cmsgpack.unpack``.

    Redis's protocol wants a length and two line ends for each argument: fourteen of them cost 11 us to pack one by one, and
    0.6 us together; Redis's own time is the same. Bytes are arguments of their own: that function knows no binary data. Numbers
    that are compared with what Redis has stored, or written by Lua with more than 14 digits, are to be texts.
    """
    try:
        return _encoder.encode(values)
    except UnicodeEncodeError:  # half a surrogate pair, in a name or an id
        mended = [value if type(value) is int else str(value).encode("utf-8", "backslashreplace").decode() for value in values]
        return _encoder.encode(mended)


def _packed(script: Script, arguments: Sequence[bytes | str | int]) -> bytes:
    parts = [script.head(len(arguments))]
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
        # Nobody else is at it, as always in a pool of processes: nothing is shared, which saves 6 us.
        if self._lock.acquire(blocking=False):
            try:
                if not self._waiting:
                    return self._run(calls)
            finally:
                self._lock.release()
        return self._exchange_shared(calls)

    def _exchange_shared(self, calls: Sequence[Call]) -> list[Any]:
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
        for answer in answers:
            if isinstance(answer, ResponseError):
                return self._mended(calls, answers)
        return answers

    def _mended(self, calls: Sequence[Call], answers: list[Any]) -> list[Any]:
        """Return the answers when what can be done about errors among them is done."""
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
        if len(calls) == 1:
            return self._talk(_packed(*calls[0]), 1)
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
            result: list[Any] = []
            for _ in range(answers):
                try:
                    result.append(connection.read_response())
                except ResponseError as exc:  # an answer like others: those after it are still to be read
                    result.append(exc)
            done = True
        except (RedisError, OSError) as exc:
            raise StoreUnavailableError(str(exc) or type(exc).__name__) from exc
        finally:
            if not done:
                self._drop()
        return result

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
