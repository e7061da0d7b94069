"""What a handler waits for ends when its job is to stop; here without a worker, the signal fired by hand."""

# ruff: noqa: PT012 - what raises is the end of a block

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from taskora_celery import (
    JobAbortedError,
    JobCancelledError,
    LocalContext,
    RetryError,
    abortable,
    local_context,
    run_process,
    start_process,
)
from tests.support.processes import group_members
from tests.support.waiting import wait_until

#: A process that says its id and its child's, and waits; the child is in its group.
PARENT = "sleep 600 & echo $$; wait"
#: One that does not end on SIGTERM, nor does its child.
DEAF = "trap '' TERM; sleep 600 & echo $$; while :; do wait; done"


@pytest.fixture
def ctx() -> LocalContext:
    """The context of a job that nobody but the test stops."""
    return local_context("job")


def _aborted(ctx: LocalContext, when: Callable[[], object]) -> threading.Thread:
    """Fire the signal from another thread, as a worker does, as soon as something is there."""

    def fire() -> None:
        wait_until(when, "what the abort waits for")
        ctx.signal.abort("cancelled", "not wanted")

    thread = threading.Thread(target=fire)
    thread.start()
    return thread


def _pid_in(path: Path) -> int:
    text = path.read_text() if path.exists() else ""
    return int(text) if text.endswith("\n") else 0


# --- run_process -------------------------------------------------------------------------------------------------------


def test_a_process_that_ends_by_itself_is_what_subprocess_run_returns(ctx: LocalContext) -> None:
    """The same arguments, and the same result."""
    code = "import sys; print(sys.stdin.read().upper()); print('err', file=sys.stderr)"
    command = [sys.executable, "-c", code]
    done = run_process(ctx, command, input="text", capture_output=True, text=True)
    assert repr(done) == repr(subprocess.run(command, input="text", capture_output=True, text=True, check=True))
    assert (done.args, done.returncode, done.stdout, done.stderr) == (command, 0, "TEXT\n", "err\n")


def test_much_input_and_output_pass_over_several_looks(ctx: LocalContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost between two slices of the wait, of which the first comes before there is anything to read."""
    monkeypatch.setattr("taskora_celery.adapters.SLICE", 0.01)
    code = "import sys, time; time.sleep(0.3); data = sys.stdin.buffer.read(); sys.stdout.buffer.write(data or bytes(3_000_000))"
    data = os.urandom(3_000_000)
    assert run_process(ctx, [sys.executable, "-c", code], input=data, stdout=subprocess.PIPE).stdout == data
    done = run_process(ctx, [sys.executable, "-c", code], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert done.stdout == bytes(3_000_000)


def test_a_return_code_is_an_error_unless_it_is_not_checked(ctx: LocalContext) -> None:
    """``check`` is on, other than in ``subprocess.run``: a job whose tool failed has failed."""
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run_process(ctx, ["sh", "-c", "echo so; exit 3"], capture_output=True)
    assert (failed.value.returncode, failed.value.stdout) == (3, b"so\n")
    assert run_process(ctx, ["sh", "-c", "exit 3"], check=False).returncode == 3


def test_a_command_that_is_not_there_raises_what_popen_raises(ctx: LocalContext) -> None:
    """Nothing was started, and nothing is left at the signal."""
    with pytest.raises(FileNotFoundError):
        run_process(ctx, ["/no/such/command"])
    assert ctx.signal._listeners == []


def test_an_abort_ends_the_process_and_what_it_started(ctx: LocalContext, tmp_path: Path) -> None:
    """SIGTERM reaches the group; the wait ends by JobAbortedError, not by what the return code would say."""
    said = tmp_path / "pid"
    with said.open("wb") as out:
        aborting = _aborted(ctx, lambda: _pid_in(said))
        with pytest.raises(JobAbortedError, match="cancelled: not wanted"):
            run_process(ctx, ["sh", "-c", PARENT], stdout=out)
    aborting.join()
    assert group_members(_pid_in(said)) == []
    with pytest.raises(ChildProcessError):
        os.waitpid(_pid_in(said), os.WNOHANG)
    assert ctx.signal._listeners == []


@pytest.mark.parametrize("captured", [False, True])
def test_what_does_not_end_on_sigterm_is_killed_after_its_grace(ctx: LocalContext, tmp_path: Path, captured: bool) -> None:
    """A group that ignores SIGTERM, also one that holds a pipe open, is gone when the call returns."""
    said = tmp_path / "pid"
    aborting = _aborted(ctx, lambda: _pid_in(said))
    with pytest.raises(JobAbortedError):
        run_process(ctx, ["sh", "-c", DEAF.replace("echo $$", f"echo $$ > {said}")], grace=0.2, capture_output=captured)
    aborting.join()
    wait_until(lambda: not group_members(_pid_in(said)), "the end of the group", 2)


def test_a_child_that_outlives_the_process_is_killed_after_the_grace(ctx: LocalContext, tmp_path: Path) -> None:
    """The process ends on SIGTERM, its child ignores it."""
    said = tmp_path / "pid"
    script = f"(trap '' TERM; sleep 600 & wait; sleep 600) & echo $$ > {said}; wait"
    aborting = _aborted(ctx, lambda: _pid_in(said))
    with pytest.raises(JobAbortedError):
        run_process(ctx, ["sh", "-c", script], grace=0.2)
    aborting.join()
    wait_until(lambda: not group_members(_pid_in(said)), "the end of the group", 2)


def test_a_pipe_that_somebody_else_holds_open_keeps_nobody_waiting(ctx: LocalContext, tmp_path: Path) -> None:
    """What left the session with our pipe cannot be ended by us; after the abort its output is not waited for."""
    said = tmp_path / "pid"
    code = (
        "import os, subprocess, sys, time\n"
        f"p = subprocess.Popen(['sleep', '600'], start_new_session=True); open({str(said)!r}, 'w').write(f'{{p.pid}}\\n')\n"
        "time.sleep(600)"
    )
    aborting = _aborted(ctx, lambda: _pid_in(said))
    with pytest.raises(JobAbortedError):
        run_process(ctx, [sys.executable, "-c", code], grace=0.1, capture_output=True)
    aborting.join()
    os.kill(_pid_in(said), signal.SIGKILL)


def test_a_job_that_is_to_stop_starts_no_process(ctx: LocalContext, tmp_path: Path) -> None:
    """The signal had fired before."""
    ctx.signal.abort("shutdown")
    with pytest.raises(JobAbortedError):
        run_process(ctx, ["touch", str(tmp_path / "made")])
    assert not (tmp_path / "made").exists()


def test_a_process_that_takes_too_long_is_ended_likewise(ctx: LocalContext, tmp_path: Path) -> None:
    """``timeout`` is that of ``subprocess.run``, but the whole group ends, and may clean up."""
    said = tmp_path / "pid"
    script = f"trap 'echo bye; exit' TERM; echo $$ > {said}; sleep 600 & wait"
    with pytest.raises(subprocess.TimeoutExpired) as late:
        run_process(ctx, ["sh", "-c", script], timeout=timedelta(seconds=0.5), stdout=subprocess.DEVNULL)
    assert late.value.timeout == 0.5
    wait_until(lambda: not group_members(_pid_in(said)), "the end of the group", 2)


@pytest.mark.parametrize("bad", [-1, float("nan"), "5"])
@pytest.mark.parametrize("name", ["grace", "timeout"])
def test_what_is_no_duration_starts_nothing(ctx: LocalContext, tmp_path: Path, name: str, bad: object) -> None:
    """It would be noticed only when the process is to end."""
    with pytest.raises((TypeError, ValueError), match=name):
        run_process(ctx, ["touch", str(tmp_path / "made")], **{name: bad})  # type: ignore[arg-type]
    assert not (tmp_path / "made").exists()


# --- start_process -----------------------------------------------------------------------------------------------------


def test_output_is_read_as_it_comes_and_the_code_is_there_behind_the_block(ctx: LocalContext) -> None:
    """The block's end waits for the process."""
    command = ["sh", "-c", "echo 1; echo 2; exit 4"]
    with start_process(ctx, command, check=False, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [line.strip() for line in process.stdout] == ["1", "2"]
    assert process.returncode == 4
    assert process.stdout.closed


def test_a_return_code_is_an_error_behind_the_block(ctx: LocalContext) -> None:
    """As with ``run_process``."""
    with pytest.raises(subprocess.CalledProcessError), start_process(ctx, ["sh", "-c", "exit 4"]):
        pass


def test_an_abort_ends_the_reading(ctx: LocalContext) -> None:
    """The read sees the end of the output, and the block leaves by JobAbortedError."""
    with pytest.raises(JobAbortedError), start_process(ctx, ["sh", "-c", PARENT], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        aborting = None
        for line in process.stdout:
            pid = int(line)
            aborting = _aborted(ctx, lambda: True)
    assert aborting is not None
    aborting.join()
    assert process.returncode == -signal.SIGTERM
    assert group_members(pid) == []


def test_an_error_of_the_block_ends_the_process_and_passes(ctx: LocalContext) -> None:
    """Without an abort it is not touched."""
    with pytest.raises(KeyError), start_process(ctx, ["sh", "-c", PARENT], stdout=subprocess.DEVNULL) as process:
        raise KeyError
    assert group_members(process.pid) == []


def test_when_the_grace_of_the_job_is_over_the_process_gets_none(ctx: LocalContext) -> None:
    """``JobCancelledError`` says that the job's own grace has passed: its process may follow at any moment."""
    with (
        pytest.raises(JobCancelledError),
        start_process(ctx, ["sh", "-c", DEAF], grace=60, stdout=subprocess.PIPE) as process,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        ctx.signal.abort("cancelled")
        raise JobCancelledError
    assert process.returncode == -signal.SIGKILL
    wait_until(lambda: not group_members(process.pid), "the end of the group", 2)


# --- abortable ---------------------------------------------------------------------------------------------------------


def test_a_block_that_no_abort_meets_is_left_alone(ctx: LocalContext) -> None:
    """Its call is not made, then or later, and its errors are its own."""
    called: list[int] = []
    with abortable(ctx, lambda: called.append(1)):
        pass
    with pytest.raises(KeyError), abortable(ctx, lambda: called.append(1)):
        raise KeyError
    ctx.signal.abort("cancelled")
    assert called == []
    assert ctx.signal._listeners == []


def test_what_cannot_be_called_is_refused_before_the_block(ctx: LocalContext) -> None:
    """``abortable(ctx, connection.cancel())`` would be noticed only when the job is to stop, and then not end it."""
    error = "call=None cannot be called: give the function itself, not what it returns"
    with pytest.raises(TypeError, match=error), abortable(ctx, None):  # type: ignore[arg-type]
        raise AssertionError


def test_an_abort_makes_the_call_and_the_blocks_error_is_the_cause(ctx: LocalContext) -> None:
    """What the library raises when it is called off is no failure of the job."""
    off = threading.Event()
    with pytest.raises(JobAbortedError, match="cancelled: not wanted") as aborted, abortable(ctx, off.set):
        aborting = _aborted(ctx, lambda: True)
        assert off.wait(10)
        raise ConnectionError("closed by us")
    aborting.join()
    assert isinstance(aborted.value.__cause__, ConnectionError)


def test_a_block_that_ends_well_behind_the_abort_is_not_believed(ctx: LocalContext) -> None:
    """A body that was cut off may look complete."""
    off = threading.Event()
    with pytest.raises(JobAbortedError), abortable(ctx, off.set):
        aborting = _aborted(ctx, lambda: True)
        assert off.wait(10)
    aborting.join()


def test_a_verdict_of_the_block_passes(ctx: LocalContext) -> None:
    """A retry that the handler asks for is no error of what was called off."""
    ended = ctx.retry(delay=1)
    with pytest.raises(RetryError), abortable(ctx, lambda: None):
        ctx.signal.abort("shutdown")
        raise ended


def test_a_job_that_is_to_stop_does_not_begin_to_wait(ctx: LocalContext) -> None:
    """The signal had fired before."""
    ctx.signal.abort("cancelled")
    with pytest.raises(JobAbortedError), abortable(ctx, lambda: None):
        pytest.fail("the block ran")


def test_the_blocks_end_waits_for_a_call_that_has_begun(ctx: LocalContext) -> None:
    """A cancel that comes late would hit what the connection does next."""
    began, go_on, made = threading.Event(), threading.Event(), list[str]()

    def call() -> None:
        began.set()
        go_on.wait(10)
        made.append("call")

    with pytest.raises(JobAbortedError), abortable(ctx, call):
        aborting = _aborted(ctx, lambda: True)
        assert began.wait(10)
        threading.Timer(0.05, go_on.set).start()
    made.append("end")
    aborting.join()
    assert made == ["call", "end"]


def test_a_call_that_fails_is_logged(ctx: LocalContext, caplog: pytest.LogCaptureFixture) -> None:
    """The block is called off by nobody then, and goes on as it would have."""

    def call() -> None:
        raise OSError("already closed")

    with caplog.at_level(logging.ERROR), pytest.raises(JobAbortedError), abortable(ctx, call):
        ctx.signal.abort("cancelled")
        wait_until(lambda: "thread taskora-abort failed" in caplog.text, "the line in the log")
