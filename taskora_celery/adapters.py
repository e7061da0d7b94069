"""What a handler waits for ends when its job is to stop, in every pool: processes, and whatever can be called off from a thread.

They hang on ``ctx.signal``, so they need no exception in the handler, and work where none can be raised in a blocking call. They
are for the handler's own thread, not for coroutines. See docs/stopping.md for how they fit requests, httpx, psycopg and others.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from kombu.utils.compat import detect_environment

from taskora_celery.background import in_background
from taskora_celery.clock import seconds
from taskora_celery.context import Context
from taskora_celery.errors import JobAbortedError, JobCancelledError, NotSupportedError, TaskoraError
from taskora_celery.loop import on_job_loop
from taskora_celery.undisturbed import undisturbed

__all__ = ["abortable", "run_process", "start_process"]

Arguments = str | bytes | os.PathLike[Any] | Sequence[Any]

#: Seconds between two looks at a process that is waited for. A thread can be interrupted in between.
SLICE = 0.5
#: Seconds between the first two looks at whether a group that was asked to end has done so, and at most.
LOOK, LOOK_MAX = 0.01, 0.1
#: Not errors of what was called off: they say how the job is to end.
_VERDICTS = (TaskoraError, Retry, Ignore, Reject, SoftTimeLimitExceeded)


@contextlib.contextmanager
def abortable(ctx: Context, call: Callable[[], object]) -> Iterator[None]:
    """Make a block end when the job is to stop, by something that is called then, a connection's ``cancel``, say.

    ``call`` is called once at most, in a thread (or greenlet) of its own, and never after the block's end, which waits for it.
    It should make whatever the block waits for return or raise; what it raises itself is logged. However the block
    ends then, it leaves by ``JobAbortedError``, with an error of the block as the cause: what was cut off may look complete.
    Exceptions of this library and of Celery that say how the job is to end (a retry, say) pass.

    :raises JobAbortedError: the job is to stop, before or meanwhile.
    :raises TypeError: ``call`` cannot be called.
    """
    if not callable(call):
        raise TypeError(f"call={call!r} cannot be called: give the function itself, not what it returns")
    ctx.signal.raise_if_aborted()
    once = _Once(call)
    try:
        with _whole(ctx):
            ctx.signal.add_listener(once.start)
        yield
    except Exception as exc:
        if isinstance(exc, _VERDICTS) or not ctx.signal.aborted:
            raise
        raise JobAbortedError(ctx.signal.reason or "cancelled", ctx.signal.message) from exc
    finally:
        with _whole(ctx):
            ctx.signal.remove_listener(once.start)
            once.close()
    ctx.signal.raise_if_aborted()


def run_process(
    ctx: Context,
    args: Arguments,
    *,
    grace: float | timedelta = 5.0,
    check: bool = True,
    input: Any = None,  # noqa: A002 - the name that subprocess.run has for it
    capture_output: bool = False,
    timeout: float | timedelta | None = None,
    **popen_options: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run a process and wait for its end, as ``subprocess.run`` does; end it when the job is to stop.

    It runs in a session of its own. When the job is to stop, or at ``timeout`` (seconds), the process and all that it started get
    SIGTERM, and what is left after ``grace`` seconds SIGKILL; when the job's own grace is over (``JobCancelledError`` arrives in
    the wait), SIGKILL at once. Nothing is left running, and no zombie, however the wait ends; but a pool process that is killed
    itself (hard time limit, ``terminate=True``) takes nothing with it.

    :raises JobAbortedError: the job is to stop, before or meanwhile; the process has ended.
    :raises subprocess.CalledProcessError: with ``check``, its return code is not 0.
    :raises subprocess.TimeoutExpired: it did not end within ``timeout`` seconds; it has ended now.
    :raises OSError: it cannot be started.
    :raises TypeError, ValueError: ``grace`` or ``timeout`` is no duration; nothing was started.
    :raises NotSupportedError: called in a coroutine; it would hold up all others.
    """
    limit = None if timeout is None else seconds(timeout, "timeout")
    if capture_output:
        popen_options["stdout"] = popen_options["stderr"] = subprocess.PIPE
    if input is not None:
        popen_options["stdin"] = subprocess.PIPE
    with _started(ctx, args, grace, popen_options) as group:
        output, errors = _communicate(group, input, limit)
    code = group.process.returncode
    if check and code:
        raise subprocess.CalledProcessError(code, group.process.args, output, errors)
    return subprocess.CompletedProcess(group.process.args, code, output, errors)


@contextlib.contextmanager
def start_process(
    ctx: Context, args: Arguments, *, grace: float | timedelta = 5.0, check: bool = True, **popen_options: Any
) -> Iterator[subprocess.Popen[Any]]:
    """Start a process that ends when the job is to stop; the block may read its output, and its end waits for the process.

    How it is ended is what :func:`run_process` says; a read from its pipes returns then. An exception that leaves the block ends
    the process, too.

    :raises JobAbortedError: the job is to stop, before or meanwhile; the process has ended.
    :raises subprocess.CalledProcessError: with ``check``, after the block, its return code is not 0.
    :raises OSError: it cannot be started.
    :raises NotSupportedError: called in a coroutine; it would hold up all others.
    """
    with _started(ctx, args, grace, popen_options) as group:
        yield group.process
    if check and group.process.returncode:
        raise subprocess.CalledProcessError(group.process.returncode, group.process.args)


@contextlib.contextmanager
def _started(ctx: Context, args: Arguments, grace: float | timedelta, options: dict[str, Any]) -> Iterator[_Group]:
    if on_job_loop():
        raise NotSupportedError(
            "this would block the event loop until the process ends: use asyncio.create_subprocess_exec(), or asyncio.to_thread()"
        )
    ctx.signal.raise_if_aborted()
    pause = seconds(grace, "grace")
    group: _Group | None = None
    try:
        with _whole(ctx):
            group = _Group(_module().Popen(args, start_new_session=True, **options), pause)
            ctx.signal.add_listener(group.end)
        yield group
        group.wait()
    except BaseException as exc:
        if group is not None:
            group.end(at_once=isinstance(exc, JobCancelledError))
        if isinstance(exc, _VERDICTS) or not isinstance(exc, Exception) or not ctx.signal.aborted:
            raise
        raise JobAbortedError(ctx.signal.reason or "cancelled", ctx.signal.message) from exc
    finally:
        if group is not None:
            with _whole(ctx):
                ctx.signal.remove_listener(group.end)
                group.close()
    ctx.signal.raise_if_aborted()


def _communicate(group: _Group, data: Any, timeout: float | None) -> tuple[Any, Any]:
    """Wait for the process and its output, in slices; what was killed and still has its pipes open somewhere is left."""
    process, until = group.process, None if timeout is None else time.monotonic() + timeout
    # A second look would forget what of the input is not written yet (subprocess, at least until Python 3.13).
    longest = None if data is not None else SLICE
    while True:
        left = None if until is None else max(until - time.monotonic(), 0.0)
        pause = min((limit for limit in (longest, left) if limit is not None), default=None)
        try:
            output, errors = process.communicate(data, timeout=pause)
        except subprocess.TimeoutExpired as exc:
            if group.killed:
                return None, None
            if until is not None and time.monotonic() >= until:
                raise subprocess.TimeoutExpired(process.args, timeout or 0.0, exc.output, exc.stderr) from None
        else:
            return output, errors


class _Group:
    """A process and those that it started, and their end: SIGTERM, and SIGKILL when they have had their grace."""

    def __init__(self, process: subprocess.Popen[Any], grace: float) -> None:
        """``grace`` is in seconds."""
        self.process = process
        self.killed = False
        self._grace = grace
        self._ending = False
        self._over = threading.Event()

    def end(self, _: object = None, *, at_once: bool = False) -> None:
        """Let all of them end. From any thread, and again; once the process has ended by itself it does nothing."""
        if self.process.returncode is not None and not self._ending:
            return
        first, self._ending = not self._ending, True
        if at_once:
            self._kill()
        elif first:
            self._send(signal.SIGTERM)
            in_background("taskora-process", self._kill_later)

    def wait(self) -> None:
        """Do what the end of ``with Popen(…)`` does: close the pipes and wait."""
        for pipe in (self.process.stdout, self.process.stderr, self.process.stdin):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self.process.wait()

    def close(self) -> None:
        """Wait for the end of the process; of all of them, where they are being ended. Bounded by the grace in that case."""
        pause = LOOK
        while self._ending and not self.killed and self._is_there():
            time.sleep(pause)
            pause = min(2 * pause, LOOK_MAX)
        self._over.set()
        with contextlib.suppress(OSError, ValueError):  # a pipe with data that nobody takes any more
            self.wait()

    def _kill_later(self) -> None:
        if not self._over.wait(self._grace):
            self._kill()

    def _kill(self) -> None:
        self._send(signal.SIGKILL)
        self.killed = True

    def _is_there(self) -> bool:
        if self.process.poll() is None:
            return True
        return self._send(0) and _lives(self.process.pid)

    def _send(self, number: int) -> bool:
        """Send a signal to all; say whether there is anybody."""
        try:
            os.killpg(self.process.pid, number)
        except (ProcessLookupError, PermissionError):  # the latter: nobody but zombies, on macOS
            return False
        return True


def _lives(group: int) -> bool:
    """Say whether a process group has more than zombies. Those of orphans may stay for long: in containers nobody reaps them."""
    stats = list(Path("/proc").glob("[0-9]*/stat"))
    for path in stats:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            state, _, its_group = path.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in {"Z", "X"}:
                return True
    return not stats  # macOS has no /proc, and launchd reaps


class _Once:
    """A call at the abort, exclusive with :meth:`close`: it may be meant for what somebody else uses next."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call: Callable[[], object] | None = call
        self._lock = threading.Lock()

    def start(self, _: object = None) -> None:
        """Call, in the background: whoever tells of the abort has others to tell."""
        in_background("taskora-abort", self._run)

    def close(self) -> None:
        """Let no call begin any more, and wait for the one that has."""
        with self._lock:
            self._call = None

    def _run(self) -> None:
        with self._lock:
            call, self._call = self._call, None
            if call is not None:
                call()


@contextlib.contextmanager
def _whole(ctx: Context) -> Iterator[None]:
    """Hold back all that interrupts a handler, Celery's soft limit, too."""
    with ctx.shield(), undisturbed():
        yield


def _module() -> Any:
    """Return the module to start processes with: the standard library's blocks all greenlets of eventlet."""
    if detect_environment() != "eventlet":
        return subprocess  # as gevent has patched it, where it did
    from eventlet.green import subprocess as green

    return green
