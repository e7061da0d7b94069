"""The one class that starts threads, and its contract."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from taskora_celery import background
from taskora_celery.background import Background, Wakes
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


ROOT = Path(__file__).parents[2]


class Turns:
    """What a thread does: it counts its turns, and each goes on when it may."""

    def __init__(self) -> None:
        self.taken = 0
        self.pauses: list[float | None] = []
        self.errors: list[BaseException] = []
        self.gate = threading.Event()
        self.gate.set()
        self.within = threading.Event()
        self.threads: set[threading.Thread] = set()

    def __call__(self) -> float | None:
        self.taken += 1
        self.threads.add(threading.current_thread())
        self.within.set()
        self.gate.wait(30)
        if self.errors:
            raise self.errors.pop(0)
        return self.pauses.pop(0) if self.pauses else None

    def wait_for(self, number: int) -> None:
        wait_until(lambda: self.taken >= number, f"turn {number}")


@pytest.fixture
def turns() -> Turns:
    return Turns()


@pytest.fixture
def make(turns: Turns) -> Iterator[Callable[..., Background]]:
    made: list[Background] = []

    def make(**options: float) -> Background:
        made.append(Background("taskora-test", turns, **options))
        return made[-1]

    yield make
    turns.gate.set()
    for thread in made:
        thread.stop()


def alive() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "taskora-test"]


def test_nothing_runs_before_the_start(turns: Turns, make: Callable[..., Background]) -> None:
    """Thread contract, fork: whoever forks before has no thread to lose."""
    make()
    assert (turns.taken, alive()) == (0, [])


def test_it_is_named_and_a_daemon_and_starts_once(turns: Turns, make: Callable[..., Background]) -> None:
    """Thread contract: whoever looks at a process's threads knows whose it is, and it never holds up an exit."""
    thread = make()
    for _ in range(3):
        thread.start()
    turns.wait_for(1)
    assert [found.daemon for found in alive()] == [True]
    assert len(turns.threads) == 1


def test_it_is_started_in_no_jobs_name(turns: Turns, make: Callable[..., Background], monkeypatch: pytest.MonkeyPatch) -> None:
    """Thread contract: a tracer gives a new thread what its starter does; this one outlives the job, and works for all."""
    job: ContextVar[str] = ContextVar("job", default="none")
    given: list[str] = []
    start = threading.Thread.start

    def traced(thread: threading.Thread) -> None:
        given.append(job.get())
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", traced)
    token = job.set("the first")
    try:
        make().start()
    finally:
        job.reset(token)
    turns.wait_for(1)
    assert given == ["none"]


def test_all_threads_are_started_in_one_place() -> None:
    """Thread contract: what holds for one of them holds for all."""
    package = Path(background.__file__).parent
    starters = [path.name for path in package.rglob("*.py") if "Thread(" in path.read_text(encoding="utf-8")]
    assert starters == ["background.py"]


#: Patches Python after this package was imported: a thread that slept natively would stop all greenlets.
_PATCHED_LATE = """
import sys
from taskora_celery.background import Background
if sys.argv[1] == "gevent":
    from gevent import monkey, sleep
    monkey.patch_all()
else:
    from eventlet import monkey_patch, sleep
    monkey_patch()
turns = []
thread = Background("taskora-test", lambda: turns.append(1))
thread.start()
for number in (1, 2):
    while len(turns) < number:
        sleep(0.01)
    thread.wake()
print("through")
"""


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_python_may_be_patched_after_the_import(library: str) -> None:
    """A6: in gunicorn with preload, or where a program starts a worker itself; Celery goes on there, too."""
    pytest.importorskip(library)
    command = [sys.executable, "-W", "ignore", "-c", _PATCHED_LATE, library]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "through\n"


def test_the_first_turn_comes_at_once_and_the_next_when_it_is_woken(turns: Turns, make: Callable[..., Background]) -> None:
    """P11: a thread with nothing to do sleeps without a timeout."""
    thread = make()
    thread.start()
    turns.wait_for(1)
    thread.wake()
    turns.wait_for(2)
    assert turns.taken == 2


def test_the_next_turn_comes_when_the_last_one_said(turns: Turns, make: Callable[..., Background]) -> None:
    """Thread contract: `turn` decides, the thread only waits."""
    turns.pauses = [0.0, 0.001, 0.001]
    make().start()
    turns.wait_for(4)
    assert turns.taken == 4


def test_a_wake_in_the_middle_of_a_turn_is_not_lost(turns: Turns, make: Callable[..., Background]) -> None:
    """Thread contract: the turn may have looked already at what has changed since."""
    turns.gate.clear()
    thread = make()
    thread.start()
    assert turns.within.wait(10)
    thread.wake()
    turns.gate.set()
    turns.wait_for(2)


def test_it_survives_any_error_and_tells_it(
    turns: Turns, make: Callable[..., Background], caplog: pytest.LogCaptureFixture
) -> None:
    """Thread contract: the next turn comes after a pause, and the log names the thread."""
    turns.errors = [RuntimeError("first"), MemoryError("second")]
    make(pause=0.001).start()
    turns.wait_for(3)
    told = [record for record in caplog.records if record.name == "taskora_celery"]
    assert [record.message for record in told] == ["thread taskora-test failed in one turn; it goes on"] * 2
    assert [str(record.exc_info[1]) for record in told if record.exc_info] == ["first", "second"]


class RecordingWakes(Wakes):
    """Remembers for how long it was waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.timeouts: list[float | None] = []

    def wait(self, timeout: float | None) -> None:
        self.timeouts.append(timeout)
        super().wait(timeout)


def test_after_an_error_it_pauses(turns: Turns, make: Callable[..., Background]) -> None:
    """Thread contract: what fails at once would otherwise keep a core busy and fill the log."""
    turns.errors = [RuntimeError("once")]
    thread = make(pause=3_600.0)
    wake = RecordingWakes()
    thread._wakes = wake
    thread.start()
    wait_until(lambda: wake.timeouts, "the pause")
    thread.wake()
    wait_until(lambda: len(wake.timeouts) == 2, "the sleep behind the next turn")
    assert (wake.timeouts, turns.taken) == ([3_600.0, None], 2)


def test_stop_ends_a_thread_that_sleeps(turns: Turns, make: Callable[..., Background]) -> None:
    """Thread contract: it is woken, and no turn comes after."""
    thread = make()
    thread.start()
    turns.wait_for(1)
    thread.stop()
    assert (turns.taken, alive()) == (1, [])


def test_stop_waits_for_the_turn_that_is_under_way(turns: Turns, make: Callable[..., Background]) -> None:
    """Thread contract: what it holds may be closed behind it."""
    turns.gate.clear()
    thread = make()
    thread.start()
    assert turns.within.wait(10)
    threading.Timer(0.02, turns.gate.set).start()
    thread.stop()
    assert (turns.gate.is_set(), turns.taken, alive()) == (True, 1, [])


def test_stop_is_idempotent_and_for_good(turns: Turns, make: Callable[..., Background]) -> None:
    """Thread contract: a shutdown may come by several ways, and nothing starts behind it."""
    thread = make()
    thread.start()
    turns.wait_for(1)
    thread.stop()
    thread.stop()
    thread.start()
    thread.wake()
    assert (turns.taken, alive()) == (1, [])


def test_what_was_stopped_before_it_started_never_starts(turns: Turns, make: Callable[..., Background]) -> None:
    """Thread contract: a worker that is stopped while it starts."""
    thread = make()
    thread.stop()
    thread.start()
    assert (turns.taken, alive()) == (0, [])


def test_a_turn_may_stop_its_own_thread(caplog: pytest.LogCaptureFixture) -> None:
    """Thread contract: a thread cannot wait for itself."""
    taken: list[int] = []

    def turn() -> float:
        taken.append(1)
        thread.stop()
        return 0.0

    thread = Background("taskora-test", turn)
    thread.start()
    wait_until(lambda: taken and not alive(), "the thread to end")
    assert (taken, caplog.records) == ([1], [])


def test_stop_is_bounded_and_names_the_thread_that_hangs(
    turns: Turns, make: Callable[..., Background], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Thread contract: a worker that shuts down does not wait for a broker that hangs."""
    monkeypatch.setattr(background, "JOIN_TIMEOUT", 0.02)
    turns.gate.clear()
    thread = make()
    thread.start()
    assert turns.within.wait(10)
    thread.stop()
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.WARNING, "thread taskora-test did not stop within 0.02 s; it is left to end with the process")
    ]
    turns.gate.set()
    wait_until(lambda: not alive(), "the thread to end behind its turn")
    assert turns.taken == 1
