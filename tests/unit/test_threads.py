"""The threads that listen and take turns: woken from anywhere, back after every outage, and ended in time."""

from __future__ import annotations

import signal
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from taskora_celery.background import Background
from taskora_celery.errors import StoreUnavailableError
from taskora_celery.reporter import listener as listener_module
from taskora_celery.reporter.listener import Listener
from taskora_celery.store.memory import MemoryStore
from taskora_celery.store.protocol import CancelRequest, Shutdown
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT = 10.0  # seconds


# --- Background ------------------------------------------------------------------------------------------------------------


class Turns:
    """Counts its turns, and never comes back by itself."""

    def __init__(self) -> None:
        self.taken = 0
        self.thread = Background("taskora-turns", self.turn)

    def turn(self) -> float | None:
        self.taken += 1
        return None


@pytest.fixture
def turns() -> Iterator[Turns]:
    turns = Turns()
    turns.thread.start()
    wait_until(lambda: turns.taken == 1, "the first turn", TIMEOUT)
    yield turns
    turns.thread.stop()


def test_a_wake_is_a_turn(turns: Turns) -> None:
    """Runtime: asleep without a timeout until then."""
    turns.thread.wake()
    wait_until(lambda: turns.taken == 2, "the second turn", TIMEOUT)


def test_a_signal_handler_may_wake_it_whatever_it_interrupts(turns: Turns) -> None:
    """I3, H1: the handler of SIGTERM, say; in the midst of another wake, too."""
    wakes: list[int] = []

    def wake(*_: Any) -> None:
        wakes.append(1)
        turns.thread.wake()

    before = signal.signal(signal.SIGALRM, wake)
    signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
    try:
        while len(wakes) < 300:
            turns.thread.wake()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    taken = turns.taken
    turns.thread.wake()
    wait_until(lambda: turns.taken > taken, "a turn behind all that", TIMEOUT)


def test_many_wakes_are_one_turn() -> None:
    """Runtime: what is due is done in one."""
    busy, go = threading.Event(), threading.Event()
    taken: list[int] = []

    def turn() -> None:
        taken.append(1)
        busy.set()
        go.wait(TIMEOUT)

    thread = Background("taskora-turns", turn)
    thread.start()
    assert busy.wait(TIMEOUT)
    for _ in range(50):
        thread.wake()
    go.set()
    wait_until(lambda: len(taken) == 2, "one more turn", TIMEOUT)
    wait_until(lambda: not thread._wakes.is_set(), "it to be asleep again", TIMEOUT)
    thread.stop()
    assert len(taken) == 2


# --- Listener --------------------------------------------------------------------------------------------------------------


class Connection:
    """Announcements that come as the test sends them; None ends the connection."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[Any] = SimpleQueue()

    def next(self) -> Any:
        item = self.queue.get()
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        self.queue.put(StoreUnavailableError("closed"))


class ListenedStore(MemoryStore):
    """Each `listen` fails, or gives a connection of the test's."""

    def __init__(self) -> None:
        super().__init__()
        self.away = 0
        self.connections: list[Connection] = []

    def listen(self) -> Any:
        if self.away:
            self.away -= 1
            raise StoreUnavailableError("away")
        self.connections.append(Connection())
        return self.connections[-1]


class Heard:
    """A listener, and what it has handed on."""

    def __init__(self) -> None:
        self.store = ListenedStore()
        self.told: list[Any] = []
        self.ready: list[bool] = []
        self.fails: set[str] = set()
        self.listener = Listener(self.store, self.tell, self.on_ready)

    def tell(self, announcement: CancelRequest | Shutdown) -> None:
        self.told.append(announcement)
        if isinstance(announcement, Shutdown) and announcement.worker in self.fails:
            raise RuntimeError("a listener of somebody")

    def on_ready(self) -> None:
        self.ready.append(self.listener.ready)

    def start(self, connections: int = 1) -> Connection:
        self.listener.start()
        return self.connected(connections)

    def connected(self, connections: int) -> Connection:
        wait_until(lambda: len(self.store.connections) == connections and self.listener.ready, "it to listen", TIMEOUT)
        return self.store.connections[-1]


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Heard]:
    monkeypatch.setattr(listener_module, "outage_pause", lambda _: 0.001)
    heard = Heard()
    yield heard
    heard.listener.stop()


def test_each_announcement_is_handed_on_as_it_comes(heard: Heard) -> None:
    """G1, I3: what cannot be read is left out."""
    connection = heard.start()
    for item in (CancelRequest("job-1", 1), None, Shutdown("w1@host")):
        connection.queue.put(item)
    wait_until(lambda: len(heard.told) == 2, "both", TIMEOUT)
    assert heard.told == [CancelRequest("job-1", 1), Shutdown("w1@host")]


def test_it_is_ready_only_behind_what_is_done_when_it_listens(heard: Heard) -> None:
    """G2: what was cancelled before is read in between; who relies on it waits for that."""
    assert heard.listener.ready is False
    heard.start()
    assert (heard.ready, heard.listener.ready) == ([False], True)


def test_a_lost_connection_is_made_anew_and_said_to_be(heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    """G1: what was announced meanwhile was missed: whoever relies on it is called, each time."""
    connection = heard.start()
    heard.store.away = 3
    connection.queue.put(StoreUnavailableError("reset by peer"))
    connection = heard.connected(2)
    connection.queue.put(Shutdown("w1@host"))
    wait_until(lambda: heard.told, "an announcement", TIMEOUT)
    assert heard.ready == [False, False]
    assert caplog.text.count("announcements cannot be heard") == 1


def test_while_it_does_not_listen_it_is_not_ready(heard: Heard) -> None:
    """G2: a first delivery that begins now asks the store."""
    connection = heard.start()
    heard.store.away = 1_000_000
    connection.queue.put(StoreUnavailableError("reset by peer"))
    wait_until(lambda: not heard.listener.ready, "it to know", TIMEOUT)
    heard.store.away = 0
    heard.connected(2)


def test_whatever_ends_a_connection_it_is_not_ready_then(heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    """G2: a driver's error of another kind, too."""
    connection = heard.start()
    connection.queue.put(RuntimeError("a driver's own"))
    wait_until(lambda: "failed in one turn" in caplog.text, "the error to be logged", TIMEOUT)
    assert heard.listener.ready is False


def test_what_is_done_when_it_listens_may_fail(heard: Heard) -> None:
    """G2, L1: the store went away in between; it is not ready, and tries again."""
    failures = [StoreUnavailableError("away"), StoreUnavailableError("away")]

    def on_ready() -> None:
        if failures:
            raise failures.pop()

    heard.listener._on_ready = on_ready
    heard.start(3)
    assert failures == []


def test_a_receiver_that_fails_is_logged_and_the_next_announcement_comes(heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    """C4: a listener of one job's signal is not another job's loss."""
    heard.fails.add("w1@host")
    connection = heard.start()
    for name in ("w1@host", "w2@host"):
        connection.queue.put(Shutdown(name))
    wait_until(lambda: len(heard.told) == 2, "both", TIMEOUT)
    assert "a listener of somebody" in caplog.text


def test_stopping_ends_it_while_it_waits(heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    """Runtime: at once, and without a word."""
    heard.start()
    thread = heard.listener._thread._thread
    assert thread is not None
    heard.listener.stop()
    assert not thread.is_alive()
    assert caplog.records == []


def test_stopping_what_never_started_is_no_error(heard: Heard) -> None:
    """Runtime: an app that only calls."""
    heard.listener.stop()
    heard.listener.stop()
