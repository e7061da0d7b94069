"""Mends of a review: the wire that many threads share, with a connection that does what the test says."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import pytest
from redis._parsers.base import BaseParser
from redis.exceptions import ReadOnlyError

from taskora_celery.errors import StoreUnavailableError
from taskora_celery.store.answers import or_refused
from taskora_celery.store.protocol import Reply
from taskora_celery.store.wire import Script, Wire, as_one
from tests.support.waiting import wait_until

SCRIPT = Script(b"return ARGV[1]", 0)


class SoftLimit(BaseException):
    """Raised by a signal handler, in the middle of whatever there is."""


class FakeConnection:
    """Answers each command with its last argument; hangs, fails and refuses where the test says so."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []
        self.unread: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.reading = threading.Event()
        self.raises: BaseException | None = None
        self.closed = False

    def send_packed_command(self, pieces: list[bytes]) -> None:
        """Take the commands apart."""
        words = b"".join(pieces).decode().split("\r\n")
        commands = [chunk.split("\n") for chunk in "\n".join(words).split("\nEVALSHA\n")[1:]]
        answers = [[word for word in command if word and word[0] not in "*$"][-1] for command in commands]
        self.sent.append(answers)
        self.unread += answers

    def read_response(self) -> str:
        """Answer the oldest command."""
        self.reading.set()
        assert self.gate.wait(30)
        if self.raises is not None:
            error, self.raises = self.raises, None
            raise error
        return self.unread.pop(0)

    def can_read(self, timeout: float) -> bool:
        """Say that nothing came unasked."""
        return False

    def disconnect(self) -> None:
        """Note it."""
        self.closed = True


class FakePool:
    """Makes connections."""

    def __init__(self) -> None:
        self.made = [FakeConnection()]
        self.taken = 0

    def get_connection(self) -> FakeConnection:
        """Return the first that was made, then a new one for each that was dropped."""
        self.taken += 1
        if self.taken > len(self.made):
            self.made.append(FakeConnection())
        return self.made[self.taken - 1]

    def release(self, connection: FakeConnection) -> None:
        """Take one back."""


class FakeClient:
    """A redis-py client, as far as the wire knows it."""

    def __init__(self) -> None:
        self.connection_pool = FakePool()


class Callers:
    """Threads that each run one call, and what came of it."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.results: dict[str, Any] = {}
        self.threads: list[threading.Thread] = []

    def call(self, name: str) -> None:
        """Start one more."""
        thread = threading.Thread(target=self._run, args=(name,), daemon=True)
        self.threads.append(thread)
        thread.start()

    def _run(self, name: str) -> None:
        try:
            self.results[name] = self.wire.exchange([(SCRIPT, (f"{name}-1",)), (SCRIPT, (f"{name}-2",))])
        except BaseException as error:
            self.results[name] = error

    def join(self) -> None:
        """Wait for all of them."""
        for thread in self.threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in self.threads), "a thread hangs"


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


def hold(client: FakeClient, wire: Wire, names: list[str]) -> Callers:
    """Let the first caller wait for its answer, and the others for the connection."""
    connection = client.connection_pool.made[0]
    connection.gate.clear()
    callers = Callers(wire)
    callers.call(names[0])
    assert connection.reading.wait(30)
    for name in names[1:]:
        callers.call(name)
    wait_until(lambda: len(wire._waiting) == len(names) - 1, "the others to wait")
    return callers


def test_what_is_packed_as_one_argument_can_be_packed_whatever_it_says() -> None:
    """P6, L1: a name or an id with half a surrogate pair is written with its escape, as an argument of its own is."""
    assert msgspec.msgpack.decode(as_one(("name", "é", 5, ""))) == ["name", "é", 5, ""]
    assert msgspec.msgpack.decode(as_one(("a\ud800", 1 << 52, "b"))) == ["a\\ud800", 1 << 52, "b"]


def test_threads_that_wait_share_one_round_trip(client: FakeClient) -> None:
    """P15, L1: a hundred jobs that begin at once wait for two exchanges; each gets its own answers."""
    names = [f"job{n}" for n in range(100)]
    callers = hold(client, Wire(client, 30.0), names)
    connection = client.connection_pool.made[0]
    connection.gate.set()
    callers.join()
    assert callers.results == {name: [f"{name}-1", f"{name}-2"] for name in names}
    assert [len(sent) for sent in connection.sent] == [2, 198]


@pytest.mark.parametrize("error", [SoftLimit("a signal"), ConnectionError("lost")])
def test_an_exchange_that_is_interrupted_is_an_error_for_everybody(client: FakeClient, error: BaseException) -> None:
    """L1: nobody hangs, nobody reads another's answer, and the next exchange has a connection of its own."""
    wire = Wire(client, 30.0)
    callers = hold(client, wire, ["first", "second", "third"])
    connection = client.connection_pool.made[0]
    run = wire._exchange

    def interrupted(calls: Any) -> Any:
        connection.raises = error
        return run(calls)

    wire._exchange = interrupted  # type: ignore[method-assign]
    connection.gate.set()
    callers.join()
    assert callers.results["first"] == ["first-1", "first-2"]
    raised = sorted(type(callers.results[name]).__name__ for name in ("second", "third"))
    own = "SoftLimit" if isinstance(error, SoftLimit) else "StoreUnavailableError"
    assert raised == sorted([own, "StoreUnavailableError"])
    assert connection.closed
    wire._exchange = run  # type: ignore[method-assign]
    assert wire.exchange([(SCRIPT, ("again",))]) == ["again"]
    assert client.connection_pool.taken == 2


def test_a_thread_does_not_wait_for_the_timeouts_of_others(client: FakeClient) -> None:
    """L1: where Redis hangs, it gives up after its own."""
    wire = Wire(client, 0.05)
    callers = hold(client, wire, ["first"])
    with pytest.raises(StoreUnavailableError, match="no answer within"):
        wire.exchange([(SCRIPT, ("second",))])
    client.connection_pool.made[0].gate.set()
    callers.join()
    assert callers.results["first"] == ["first-1", "first-2"]


def test_an_answer_of_a_replica_drops_the_connection(client: FakeClient) -> None:
    """L1: after a failover the connection leads to what is a replica now; the next one asks for the primary's address."""
    wire = Wire(client, 30.0)
    connection = client.connection_pool.made[0]
    assert wire.exchange([(SCRIPT, ("before",))]) == ["before"]
    connection.raises = ReadOnlyError("READONLY You can't write against a read only replica.")
    (answer,) = wire.exchange([(SCRIPT, ("lost",))])
    assert isinstance(answer, ReadOnlyError)
    assert connection.closed
    assert wire.exchange([(SCRIPT, ("after",))]) == ["after"]
    assert client.connection_pool.taken == 2


REFUSALS = [
    "OOM command not allowed when used memory > 'maxmemory'. script: 4f1a, on @user_script:33.",
    "READONLY You can't write against a read only replica. script: 4f1a, on @user_script:33.",
    "NOPERM No permissions to access a key",
    "NOPERM ACL failure in script: User app has no permissions to run the 'publish' command",
    "ERR Error running script: The user executing the script can't run this command or subcommand script",
    "ERR The user executing the script can't access at least one of the keys mentioned in the command arguments",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "CLUSTERDOWN The cluster is down",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "NOREPLICAS Not enough good replicas to write.",
    "BUSY Redis is busy running a script.",
]


@pytest.mark.parametrize("text", REFUSALS, ids=[text.split()[0] + str(n) for n, text in enumerate(REFUSALS)])
def test_what_keeps_redis_from_writing_is_an_outage_and_no_fault_of_one_job(text: str) -> None:
    """Fault 15, L1: its reports wait; redis-py leaves the code out of the texts of those that it has a class for."""
    answer = BaseParser.parse_error(text)
    with pytest.raises(StoreUnavailableError):
        or_refused(answer)


def test_what_redis_refuses_of_one_job_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """L1: another program's data under its key; the other jobs are told of."""
    assert (
        or_refused(BaseParser.parse_error("WRONGTYPE Operation against a key holding the wrong kind of value")) is Reply.REFUSED
    )
    assert "given up" in caplog.text
