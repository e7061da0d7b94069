"""The loop on which jobs' coroutines run, with no Celery around it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import inspect
import logging
import subprocess
import sys
import threading
import time
import weakref
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from taskora_celery import loop_job as module
from taskora_celery.background import Background
from taskora_celery.loop import JobLoop, on_job_loop
from taskora_celery.loop_job import LoopJob
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

ROOT = Path(__file__).parents[2]
mark: ContextVar[str] = ContextVar("mark", default="")


class Steps:
    """A scope that counts its steps, and knows whether one is being taken."""

    def __init__(self) -> None:
        self.taken = 0
        self.inside = False
        self.reports: list[tuple[float, str]] = []

    def enter(self) -> None:
        assert not self.inside
        self.inside = True
        self.taken += 1

    def leave(self) -> None:
        assert self.inside
        self.inside = False

    def blocked(self, seconds: float, stack: str) -> None:
        self.reports.append((seconds, stack))


@pytest.fixture
def loop() -> Iterator[JobLoop]:
    found = JobLoop("default")
    yield found
    found.stop()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("taskora-loop")]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEFT_WITHIN", 0.2)
    monkeypatch.setattr(module, "CLOSED_WITHIN", 0.5)


def test_all_coroutines_share_one_loop_and_the_caller_waits(loop: JobLoop) -> None:
    """M1: it is made by the first of them."""

    async def own() -> tuple[int, str]:
        await asyncio.sleep(0)
        return id(asyncio.get_running_loop()), threading.current_thread().name

    found = {loop.run(own(), Steps()) for _ in range(3)}
    assert len(found) == 1
    assert found.pop()[1] == "taskora-loop"


def test_each_step_is_taken_in_the_scope_that_of_child_tasks_too(loop: JobLoop) -> None:
    """M1: between two steps the scope is left, since another's step comes."""
    first, second = Steps(), Steps()
    running = threading.Barrier(2, timeout=10)

    async def child(own: Steps) -> None:
        await asyncio.sleep(0)
        assert own.inside

    async def work(own: Steps, other: Steps) -> None:
        for _ in range(10):
            assert own.inside
            assert not other.inside
            await asyncio.sleep(0.001)
            await asyncio.gather(child(own), child(own))

    def run(own: Steps, other: Steps) -> None:
        running.wait()
        loop.run(work(own, other), own)

    threads = [threading.Thread(target=run, args=pair) for pair in ((first, second), (second, first))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert first.taken == second.taken
    assert first.taken > 40
    assert not first.inside
    assert not second.inside


def test_context_variables_are_the_callers_and_go_no_further(loop: JobLoop) -> None:
    """M1: a copy: what the coroutine sets, the next does not see."""
    mark.set("caller")

    async def look() -> str:
        found = mark.get()
        mark.set("coroutine")
        return found

    assert [loop.run(look(), Steps()) for _ in range(2)] == ["caller", "caller"]
    assert mark.get() == "caller"


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
def test_what_a_coroutine_raises_is_raised_here_and_the_loop_goes_on(loop: JobLoop, error: BaseException) -> None:
    """M1: be it what ends a loop elsewhere."""

    async def fail() -> None:
        await asyncio.sleep(0)
        raise error

    with pytest.raises(type(error)) as caught:
        loop.run(fail(), Steps())
    assert caught.value is error

    async def go_on() -> int:
        return 3

    assert loop.run(go_on(), Steps()) == 3


def test_a_coroutine_is_cancelled_from_any_thread(loop: JobLoop) -> None:
    """M2: at its next await."""
    inside, cleaned = threading.Event(), threading.Event()

    async def wait() -> None:
        try:
            inside.set()
            await asyncio.sleep(60)
        finally:
            cleaned.set()

    def begun(job: LoopJob) -> None:
        def cancel() -> None:
            assert inside.wait(5)
            job.cancel()

        threading.Thread(target=cancel).start()

    with pytest.raises(asyncio.CancelledError):
        loop.run(wait(), Steps(), begun=begun)
    assert cleaned.is_set()


def test_a_cancel_is_not_lost_however_early_it_comes(loop: JobLoop) -> None:
    """M2: the coroutine has taken no step yet, or its first."""
    for _ in range(30):
        with pytest.raises(asyncio.CancelledError):
            loop.run(asyncio.sleep(5), Steps(), begun=LoopJob.cancel)


def test_a_job_has_heard_of_its_cancel_when_it_takes_a_step(loop: JobLoop) -> None:
    """M2: not while another blocks the loop."""
    blocks, go_on, jobs, heard = threading.Event(), threading.Event(), list[LoopJob](), list[bool]()

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            heard.append(jobs[0].has_heard)

    async def block() -> None:
        blocks.set()
        go_on.wait(10)
        heard.append(jobs[0].has_heard)

    def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run(wait(), Steps(), begun=jobs.append)

    threads = [threading.Thread(target=run), threading.Thread(target=lambda: loop.run(block(), Steps()))]
    threads[0].start()
    wait_until(lambda: jobs, "the first")
    threads[1].start()
    assert blocks.wait(5)
    jobs[0].cancel()
    go_on.set()
    for thread in threads:
        thread.join(5)
    assert heard == [False, True]


def test_whoever_catches_the_cancel_is_closed(loop: JobLoop) -> None:
    """M2: it takes no further step; its child tasks neither."""
    jobs: list[LoopJob] = []
    steps: list[str] = []
    caught = threading.Event()

    async def stubborn(name: str) -> None:
        while True:
            try:
                await asyncio.sleep(0.001)
                steps.append(name)
            except asyncio.CancelledError:
                caught.set()

    async def work() -> None:
        child = asyncio.create_task(stubborn("child"))
        await stubborn("handler")
        await child

    def stop() -> None:
        wait_until(lambda: jobs and {"child", "handler"} <= set(steps), "both")
        jobs[0].cancel()
        assert caught.wait(5)
        jobs[0].close()

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(asyncio.CancelledError):
        loop.run(work(), Steps(), begun=jobs.append)
    stopper.join()
    assert all(task.done() for task in jobs[0].tasks)


def test_one_that_awaits_while_it_is_closed_is_not_asked_again(loop: JobLoop, caplog: pytest.LogCaptureFixture) -> None:
    """M2: the caller is not held up by a `finally` that waits for ever."""
    inside = threading.Event()

    async def work() -> None:
        inside.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(60)

    def begun(job: LoopJob) -> None:
        def close() -> None:
            assert inside.wait(5)
            job.close()

        threading.Thread(target=close).start()

    with pytest.raises(asyncio.CancelledError):
        loop.run(work(), Steps(), begun=begun)
    assert "a coroutine of an ended job did not close" in caplog.text


def test_tasks_that_are_left_behind_end_with_the_job(loop: JobLoop, caplog: pytest.LogCaptureFixture) -> None:
    """M1: they are told so, and the caller goes on only when they have ended."""
    ended = []

    async def left() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
            ended.append(True)
            raise

    async def work() -> int:
        asyncio.create_task(left(), name="left")  # noqa: RUF006 - that is what it is about
        await asyncio.sleep(0)  # it has begun behind that
        return 3

    assert loop.run(work(), Steps()) == 3
    assert ended == [True]
    assert "1 task(s) that it had started; they are cancelled: left (test_tasks" in caplog.text


def test_an_async_generator_that_is_not_iterated_to_its_end_is_closed_in_peace(
    loop: JobLoop, caplog: pytest.LogCaptureFixture
) -> None:
    """M1: asyncio closes it in a task of its own, which is nothing that the handler has forgotten to wait for."""
    closed = []

    async def rows() -> AsyncIterator[int]:
        try:
            for row in range(10):
                yield row
        finally:
            await asyncio.sleep(0.01)
            closed.append(True)

    async def work() -> int:
        async for row in rows():
            if row == 2:
                return row
        return -1

    assert loop.run(work(), Steps()) == 2
    assert closed == [True]
    assert caplog.text == ""


def test_a_handler_that_cancels_all_tasks_ends_the_jobs_and_leaves_nobody_waiting(loop: JobLoop) -> None:
    """M1: as recipes for an orderly shutdown do it."""

    async def rude() -> int:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)
        return 3

    inside, outcome = threading.Event(), list[BaseException]()

    async def other() -> None:
        inside.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)

    def run() -> None:
        try:
            loop.run(other(), Steps())
        except BaseException as exc:
            outcome.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    assert inside.wait(5)
    assert loop.run(rude(), Steps()) == 3
    thread.join(5)
    assert [type(exc) for exc in outcome] == [asyncio.CancelledError]


def test_what_is_no_coroutine_is_refused_as_ever(loop: JobLoop) -> None:
    """M1: where it is given, not later in a task that nobody looks at."""

    async def work() -> None:
        asyncio.create_task(print)  # type: ignore[arg-type] # noqa: RUF006

    with pytest.raises(TypeError, match="a coroutine was expected"):
        loop.run(work(), Steps())


def test_what_a_job_has_made_may_start_tasks_when_the_job_is_over(loop: JobLoop) -> None:
    """M1: a shared client's callbacks run in the variables of the job that made it, however that ended."""
    made: list[asyncio.Task[None]] = []
    reconnected, scope = threading.Event(), Steps()
    callbacks: list[Callable[[], object]] = []

    async def reconnect() -> None:
        await asyncio.sleep(0)
        reconnected.set()

    async def work() -> None:
        own, variables = asyncio.get_running_loop(), contextvars.copy_context()
        callbacks.append(lambda: variables.run(lambda: made.append(own.create_task(reconnect()))))

    loop.run(work(), scope)
    taken = scope.taken
    loop.soon(callbacks[0])
    assert reconnected.wait(5)
    assert scope.taken == taken


def test_a_job_that_is_over_waits_for_no_garbage_collector(loop: JobLoop) -> None:
    """P11: its task holds its variables, and they hold it."""
    jobs: list[weakref.ref[LoopJob]] = []
    gc.collect()
    gc.disable()
    try:
        loop.run(asyncio.sleep(0), Steps(), begun=lambda job: jobs.append(weakref.ref(job)))
        wait_until(lambda: jobs[0]() is None, "its end", timeout=5)
    finally:
        gc.enable()


def test_what_is_started_in_no_jobs_context_outlives_it(loop: JobLoop, caplog: pytest.LogCaptureFixture) -> None:
    """M1: the way to keep a background task of a shared client."""
    kept: list[asyncio.Task[int]] = []

    ready = asyncio.Event()

    async def background() -> int:
        await ready.wait()
        return 3

    async def work() -> None:
        kept.append(contextvars.Context().run(asyncio.create_task, background()))
        await asyncio.sleep(0)

    async def use() -> int:
        ready.set()
        return await kept[0]

    loop.run(work(), Steps())
    assert not kept[0].done()
    assert loop.run(use(), Steps()) == 3
    assert caplog.text == ""


def test_an_exception_in_the_waiting_thread_cancels_the_coroutine_first(loop: JobLoop) -> None:
    """M2: as a time limit in the main thread is; nothing runs on behind it."""
    import ctypes

    cleaned = threading.Event()
    begun = threading.Event()
    outcome: list[BaseException] = []

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.set()

    class LimitError(Exception):
        pass

    class Done(threading.Event):
        """One that the test can interrupt: the exception comes between two bytecodes."""

        def wait(self, timeout: float | None = None) -> bool:
            if timeout is not None:
                return super().wait(timeout)
            while not super().wait(0.01):
                pass
            return True

    def begun_job(job: LoopJob) -> None:
        job._done = Done()

    def run() -> None:
        try:
            loop.run(wait(), Steps(), begun=begun_job, patience=5.0)
        except BaseException as exc:
            outcome.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(5)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(LimitError))
    thread.join(10)
    assert [type(exc) for exc in outcome] == [LimitError]
    assert cleaned.is_set()


def test_an_exception_that_comes_before_the_wait_cancels_the_coroutine_too(
    loop: JobLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M2: a time limit may land in any line, also where the coroutine runs already, and nobody waits for it yet."""
    begun, cleaned, call = threading.Event(), threading.Event(), loop._call

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.set()

    def call_and_raise(action: Any) -> None:
        call(action)
        monkeypatch.setattr(loop, "_call", call)
        assert begun.wait(5)
        raise InterruptedError

    monkeypatch.setattr(loop, "_call", call_and_raise)
    with pytest.raises(InterruptedError):
        loop.run(wait(), Steps(), patience=5.0)
    assert cleaned.is_set()


def test_an_exception_that_comes_before_the_first_step_leaves_none_to_take(loop: JobLoop) -> None:
    """M2: and nobody waits for what will not come."""
    coro = asyncio.sleep(60)

    def interrupt(_: LoopJob) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        loop.run(coro, scope := Steps(), begun=interrupt, patience=60.0)
    assert (inspect.getcoroutinestate(coro), scope.taken) == (inspect.CORO_CLOSED, 0)


def test_a_step_that_blocks_the_loop_is_reported_once(loop: JobLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """M3: while it still blocks, and with the stack where it does."""
    monkeypatch.setattr(module, "BLOCKED_AFTER", 0.1)
    go_on, scope = threading.Event(), Steps()

    async def block() -> None:
        go_on.wait(10)
        await asyncio.sleep(0)
        time.sleep(0.3)  # noqa: ASYNC251 - it is to block

    thread = threading.Thread(target=lambda: loop.run(block(), scope))
    thread.start()
    wait_until(lambda: scope.reports, "the report")
    go_on.set()
    thread.join(10)
    ((seconds, stack),) = scope.reports
    assert seconds >= 0.1
    assert "go_on.wait(10)" in stack
    assert stack.splitlines()[0].endswith("in block"), "what is ours and asyncio's is left out"


def test_a_step_that_nobody_could_look_at_is_reported_at_its_end(loop: JobLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """M3: under greenlets, in C code that holds the interpreter's lock, or between two looks."""
    monkeypatch.setattr(module, "BLOCKED_AFTER", 0.1)
    monkeypatch.setattr(loop, "_watch", Background("unused", lambda: None))
    scope = Steps()

    async def block() -> None:
        for _ in range(2):
            time.sleep(0.15)  # noqa: ASYNC251 - it is to block
            await asyncio.sleep(0.01)

    loop.run(block(), scope)
    ((seconds, stack),) = scope.reports
    assert seconds >= 0.15
    assert "await asyncio.sleep(0.01)" in stack


def test_many_short_steps_are_nothing_to_report(loop: JobLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """M3: a handler that awaits is a good neighbour, however long it runs."""
    monkeypatch.setattr(module, "BLOCKED_AFTER", 0.1)
    scope, until = Steps(), time.monotonic() + 3 * module.BLOCKED_AFTER

    async def work() -> None:
        while time.monotonic() < until:  # noqa: ASYNC110 - its steps are what this is about
            await asyncio.sleep(0)

    loop.run(work(), scope)
    assert scope.taken > 10
    assert scope.reports == []


def test_nobody_looks_while_no_job_runs(loop: JobLoop) -> None:
    """P11: a process without jobs has nothing to do."""
    looks: list[float | None] = []

    async def look() -> None:
        looks.append(loop._look())

    loop.run(look(), Steps())
    looks.append(loop._look())
    assert looks == [module.BLOCKED_AFTER / 2, None]


def test_whether_the_loop_answers(loop: JobLoop) -> None:
    """G4: a loop that is blocked is told from a coroutine that catches its cancel."""
    go_on, inside = threading.Event(), threading.Event()

    async def block() -> None:
        inside.set()
        go_on.wait(10)

    thread = threading.Thread(target=lambda: loop.run(block(), Steps()))
    thread.start()
    assert inside.wait(5)
    assert not loop.answers()
    go_on.set()
    thread.join(10)
    assert loop.answers()


def test_a_coroutine_that_runs_another_to_its_end_does_not_deadlock(loop: JobLoop) -> None:
    """M1: an eager call inside a handler; it has a loop of its own for the time."""

    async def inner() -> tuple[int, int]:
        await asyncio.sleep(0.01)
        return id(asyncio.get_running_loop()), 3

    async def outer() -> tuple[int, Any]:
        return id(asyncio.get_running_loop()), loop.run(inner(), Steps())

    own, (other, found) = loop.run(outer(), Steps())
    assert found == 3
    assert own != other


def test_where_a_coroutine_of_a_job_is(loop: JobLoop) -> None:
    """M3: `ctx.sleep` is refused there, and not in a thread that it starts."""

    async def look() -> tuple[bool, bool]:
        return on_job_loop(), await asyncio.to_thread(on_job_loop)

    assert loop.run(look(), Steps()) == (True, False)
    assert not on_job_loop()
    assert asyncio.run(_elsewhere()) is False


async def _elsewhere() -> bool:
    return on_job_loop()


def test_stopping_ends_what_still_runs(caplog: pytest.LogCaptureFixture) -> None:
    """M2: at the end of the process; who waits is not left to wait."""
    caplog.set_level(logging.WARNING)
    loop = JobLoop("default")
    begun = threading.Event()
    outcome: list[BaseException] = []

    async def wait() -> None:
        begun.set()
        await asyncio.sleep(60)

    def run() -> None:
        try:
            loop.run(wait(), Steps())
        except BaseException as exc:
            outcome.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(5)
    loop.stop()
    thread.join(5)
    assert [type(exc) for exc in outcome] == [asyncio.CancelledError]
    assert caplog.text == ""
    loop.stop()  # once more
    JobLoop("default").stop()  # never started


def test_many_that_are_stuck_are_stopped_in_the_time_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """M1: the end of a process is bounded."""
    monkeypatch.setattr(module, "CLOSED_WITHIN", 0.2)
    monkeypatch.setattr("taskora_celery.loop.STOPPED_WITHIN", 0.1)
    loop, inside, go_on = JobLoop("default"), threading.Semaphore(0), threading.Event()

    async def wait() -> None:
        inside.release()
        await asyncio.sleep(60)

    async def block() -> None:
        inside.release()
        go_on.wait(20)

    def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run(work(), Steps())

    threads = [threading.Thread(target=run, args=(work,)) for work in (*[wait] * 20, block)]
    for thread in threads:
        thread.start()
        assert inside.acquire(timeout=5)
    began = time.monotonic()
    loop.stop()
    assert time.monotonic() - began < 2
    go_on.set()
    for thread in threads:
        thread.join(5)


def test_a_task_of_no_job_is_cancelled_when_the_loop_ends() -> None:
    """M1: a shared client's background task may close it there."""
    loop, closed = JobLoop("default"), []

    async def background() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            closed.append(True)

    async def work() -> None:
        kept.append(contextvars.Context().run(asyncio.create_task, background()))
        await asyncio.sleep(0)

    kept: list[asyncio.Task[None]] = []
    loop.run(work(), Steps())
    loop.stop()
    assert closed == [True]
    assert kept[0].cancelled()


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_a_loop_in_a_greenlet_leaves_the_others_theirs(library: str) -> None:
    """M1: whatever a plain handler does with a loop of its own; in a process that the library has patched, see the script."""
    pytest.importorskip(library)
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.greenlet_loops", library],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "all is well\n"), done.stdout + done.stderr
