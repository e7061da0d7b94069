"""More tasks of the app in `tests.support.jobs`: those that outlive a timeout, are killed, hang, or kill.

Each start of a handler is told to the test (`starts`), which is how a job that runs twice is found out.
"""

# mypy: allow-untyped-decorators, disallow-any-decorated=False
# Celery itself carries no types.

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from typing import Any

from celery.exceptions import Ignore, Reject

from taskora_celery import Context, JobHandle
from tests.support import gates
from tests.support.fleet import fleet_body
from tests.support.jobs import app, facts
from tests.support.waiting import wait_until

__all__ = ["app"]

#: The silence, in seconds, after which a job of the tasks that have one counts as stalled.
HEARTBEAT_TIMEOUT = 1.5
#: The same for jobs that are silent for longer, on purpose.
PATIENCE = 10.0
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def start(ctx: Context) -> int:
    """Tell that the handler has started, and where; return how many starts there are."""
    told = {"at": time.time(), "pid": os.getpid(), "delivery": ctx.delivery, "attempt": ctx.attempt, "fence": ctx.fence}
    return gates.tell(ctx.id, "starts", told)


def starts(job_id: str) -> list[dict[str, Any]]:
    """In a test: what the starts of a job told."""
    return gates.told(job_id, "starts")


# --- that take long ----------------------------------------------------------------------------------------------------


@app.task(name="faults.sleep", acks_late=True)
def sleep(seconds: float, ctx: Context) -> int:
    """Sleep, without a word."""
    number = start(ctx)
    time.sleep(seconds)
    return number


@app.task(name="faults.sleep_in_c", acks_late=True)
def sleep_in_c(seconds: int, ctx: Context) -> int:
    """Keep the interpreter's lock for so long: no other thread of the process runs meanwhile."""
    number = start(ctx)
    ctypes.PyDLL(None).sleep(seconds)
    return number


@app.task(name="faults.sleep_in_c_watched", heartbeat_timeout=PATIENCE)
def sleep_in_c_watched(seconds: int, ctx: Context) -> int:
    """The same, where a sign of life is wanted, but not so soon."""
    return int(sleep_in_c(seconds))


@app.task(name="faults.beat", heartbeat_timeout=HEARTBEAT_TIMEOUT)
def beat(seconds: float, ctx: Context) -> int:
    """Show life all the time."""
    number = start(ctx)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ctx.heartbeat()
        time.sleep(0.05)
    return number


@app.task(name="faults.mark", acks_late=True)
def mark(ctx: Context) -> int:
    """Only start."""
    return start(ctx)


@app.task(name="faults.mark_early", acks_late=False)
def mark_early(ctx: Context) -> int:
    """Only start; acknowledged before."""
    return start(ctx)


@app.task(name="faults.mark_watched", heartbeat_timeout=HEARTBEAT_TIMEOUT)
def mark_watched(ctx: Context) -> int:
    """Only start, in a job that must show life."""
    return start(ctx)


@app.task(name="faults.retry_late", acks_late=True, max_retries=3)
def retry_late(delay: float, ctx: Context) -> int:
    """Retry once, after a delay."""
    number = start(ctx)
    if ctx.attempt == 1:
        raise ctx.retry(delay=delay, reason="later")
    return number


# --- that are killed ---------------------------------------------------------------------------------------------------


def stand(ctx: Context) -> dict[str, Any]:
    """Report, then show life until the gate of this delivery is opened."""
    found = facts(ctx)
    start(ctx)
    ctx.log.info("delivered", delivery=ctx.delivery)
    ctx.progress(ctx.delivery)
    ctx.checkpoint({"row": ctx.delivery * 100})
    beat_until_open(ctx, f"delivery{ctx.delivery}")
    return found


def beat_until_open(ctx: Context, gate: str) -> None:
    """Show life until a gate is opened."""
    with gates.gate_client() as client:
        while not gates.is_open(client, ctx.id, gate):
            ctx.heartbeat()
            time.sleep(0.02)


@app.task(name="faults.stand_early", acks_late=False)
def stand_early(ctx: Context) -> dict[str, Any]:
    """Acknowledged before: its death is the job's."""
    return stand(ctx)


@app.task(name="faults.stand_late", acks_late=True)
def stand_late(ctx: Context) -> dict[str, Any]:
    """Acknowledged at the end; Celery's default acknowledges where the process was lost, too."""
    return stand(ctx)


@app.task(name="faults.stand_rejected", acks_late=True, reject_on_worker_lost=True)
def stand_rejected(ctx: Context) -> dict[str, Any]:
    """Given back where the process was lost."""
    return stand(ctx)


@app.task(name="faults.stand_patient", heartbeat_timeout=PATIENCE)
def stand_patient(ctx: Context) -> dict[str, Any]:
    """A job that must show life, which is given back by that alone; longer than Celery needs to see that a process is gone."""
    return stand(ctx)


@app.task(name="faults.stand_watched", heartbeat_timeout=HEARTBEAT_TIMEOUT)
def stand_watched(ctx: Context) -> dict[str, Any]:
    """A job that must show life."""
    return stand(ctx)


# --- that come back from the dead --------------------------------------------------------------------------------------


def haunt(task: Any, how: str, ctx: Context) -> Any:
    """The first start reports until its gate is opened, then waits for its signal and ends in one of many ways."""
    number = start(ctx)
    ctx.checkpoint({"start": number})
    if number > 1:
        ctx.progress({"start": number})
        ctx.log.info(f"start {number}")
        beat_until_open(ctx, f"start{number}")
        return {"start": number, "delivery": ctx.delivery, "checkpoint": ctx.last_checkpoint}
    ctx.log.info("start 1")
    with gates.gate_client() as client:
        while not gates.is_open(client, ctx.id, "start1"):
            ctx.progress({"start": 1, "n": time.monotonic()})
            time.sleep(0.01)
    ctx.signal.wait(30)
    ctx.log.info("zombie")
    ctx.progress("zombie")
    ctx.checkpoint("zombie")
    ctx.heartbeat()
    gates.tell(ctx.id, "zombie", {"reason": ctx.signal.reason, "message": ctx.signal.message, "fence": ctx.fence})
    return _end_as_zombie(task, how, ctx)


def _end_as_zombie(task: Any, how: str, ctx: Context) -> str:
    if how == "raise":
        raise ValueError("zombie")
    if how == "autoretry":
        raise KeyError("zombie")
    if how == "ctx.retry":
        raise ctx.retry(delay=0, reason="zombie")
    if how == "self.retry":
        raise task.retry(exc=ValueError("zombie"), countdown=0)
    if how == "ignore":
        raise Ignore
    if how in {"reject", "requeue"}:
        raise Reject("zombie", requeue=how == "requeue")
    return "zombie"


@app.task(bind=True, name="faults.note")
def note(self: Any, result: Any) -> None:
    """A callback: counts for the job that called it."""
    gates.count(self.request.parent_id, "remembered")


@app.task(name="faults.note_error")
def note_error(request: Any, exc: Any, traceback: Any) -> None:
    """An error callback: tells for the job that failed what it heard."""
    gates.tell(request.id, "errors", f"{type(exc).__name__}: {exc}")


@app.task(bind=True, name="faults.haunted", acks_late=True, max_stalls=None, max_retries=3, autoretry_for=(KeyError,))
def haunted(self: Any, how: str, ctx: Context) -> Any:
    """A job whose first worker sleeps and wakes again."""
    return haunt(self, how, ctx)


@app.task(bind=True, name="faults.haunted_watched", heartbeat_timeout=HEARTBEAT_TIMEOUT, max_stalls=None)
def haunted_watched(self: Any, how: str, ctx: Context) -> Any:
    """The same, where a sign of life is wanted."""
    return haunt(self, how, ctx)


@app.task(bind=True, name="faults.orphaned", acks_late=True)
def orphaned(self: Any, how: str, ctx: Context) -> Any:
    """A job whose process outlives the worker's parent."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0)
    return haunt(self, how, ctx)


# --- that workers without the library run, too -------------------------------------------------------------------------


@app.task(bind=True, name="faults.fleet", acks_late=True, shared=False)
def fleet(self: Any, ends: int) -> dict[str, Any]:
    """The task that `tests.support.plain_jobs` has, too; it takes no context."""
    return fleet_body(self.request.id, ends)


# --- that kill ---------------------------------------------------------------------------------------------------------


def last_words(ctx: Context) -> None:
    """Report, and wait until it is stored."""
    number = start(ctx)
    ctx.log.info(f"last words {number}")
    ctx.progress({"start": number})
    handle = JobHandle(ctx.id, app=app)
    wait_until(lambda: handle.get_progress() == {"start": number}, "the last words", timeout=10)


def _exit(times: int, ctx: Context) -> str:
    last_words(ctx)
    if len(starts(ctx.id)) <= times:
        os._exit(3)
    return "survived"


#: By how many losses are allowed: tasks that end their own process.
exits = {
    stalls: app.task(_exit, name=f"faults.exit_{stalls}", heartbeat_timeout=PATIENCE, max_stalls=stalls)
    for stalls in (0, 1, 2, None)
}
#: The same by Celery's own options alone.
exit_rejected = app.task(_exit, name="faults.exit_rejected", acks_late=True, reject_on_worker_lost=True)


@app.task(name="faults.leave", acks_late=True, reject_on_worker_lost=True)
def leave(ctx: Context) -> int:
    """End its own process in the first start, as a program ends itself."""
    number = start(ctx)
    if number == 1:
        sys.exit(3)
    return number


@app.task(name="faults.kill_worker", heartbeat_timeout=HEARTBEAT_TIMEOUT)
def kill_worker(from_child: bool, ctx: Context) -> None:
    """End the whole worker."""
    last_words(ctx)
    os.kill(os.getppid() if from_child else os.getpid(), signal.SIGKILL)
    time.sleep(60)  # a child ends with its parent


@app.task(name="faults.kill_at_once", heartbeat_timeout=HEARTBEAT_TIMEOUT)
def kill_at_once(from_child: bool, ctx: Context) -> int:
    """End the whole worker in the first start, before anything else."""
    if ctx.delivery == 1:
        os.kill(os.getppid() if from_child else os.getpid(), signal.SIGKILL)
        time.sleep(60)  # a child ends with its parent
    return start(ctx)


# --- that hang ---------------------------------------------------------------------------------------------------------


@app.task(name="faults.hang_for_good", heartbeat_timeout=HEARTBEAT_TIMEOUT, max_stalls=0)
def hang_for_good(ctx: Context) -> str:
    """Show no life, and heed no signal, until the gate is opened."""
    start(ctx)
    gates.stop_at(ctx.id, "late")
    return "zombie"


@app.task(name="faults.hang", heartbeat_timeout=HEARTBEAT_TIMEOUT)
def hang(how: str, ctx: Context) -> Any:
    """The first delivery shows no life: in Python, in C, or in a sleep that its signal ends."""
    found = facts(ctx)
    number = start(ctx)
    ctx.log.info(f"start {number}")
    if number > 1:
        return found
    if how == "python":
        while True:
            pass
    if how == "c":
        ctypes.PyDLL(None).sleep(600)
    ctx.signal.wait(60)
    gates.tell(ctx.id, "zombie", {"reason": ctx.signal.reason, "message": ctx.signal.message, "fence": ctx.fence})
    gates.stop_at(ctx.id, "late")
    ctx.log.info("zombie")
    return "zombie"
