"""Tasks that are stopped: cooperative, deaf, shielded, and short ones to race with."""

# mypy: allow-untyped-decorators, allow-subclassing-any
# Celery itself carries no types.

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import redis
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import task_revoked

from taskora_celery import Context, ContextTask, JobCancelledError, NotSupportedError
from tests.support import gates
from tests.support.jobs import app

_clients = threading.local()


def client() -> redis.Redis:
    """A client of the gates' database that stays open: a short job has no time for a new connection each time."""
    found: redis.Redis | None = getattr(_clients, "client", None)
    if found is None or _clients.pid != os.getpid():
        url = os.environ.get("GATE_URL") or app.conf.broker_url
        found = _clients.client = redis.Redis.from_url(url)
        _clients.pid = os.getpid()
    return found


def tell(job_id: str, what: str) -> None:
    """In a handler: write a line into the job's story."""
    with client().pipeline(transaction=False) as pipeline:
        pipeline.rpush(f"story:{job_id}", f"{what} {time.time():.6f}")
        pipeline.expire(f"story:{job_id}", 600)
        pipeline.execute()


def story(job_id: str) -> list[str]:
    """In a test: what the job's handler and its hooks have told, in order, without the times."""
    return [line.rpartition(" ")[0] for line in _lines(job_id)]


def told_at(job_id: str, what: str) -> list[float]:
    """In a test: the instants at which something was told, in seconds since the epoch."""
    return [float(line.rpartition(" ")[2]) for line in _lines(job_id) if line.rpartition(" ")[0] == what]


def _lines(job_id: str) -> list[str]:
    with gates.gate_client() as connection:
        return [line.decode() for line in connection.lrange(f"story:{job_id}", 0, -1)]


# --- races -------------------------------------------------------------------------------------------------------------

KINDS = ["silent", "reporting", "failing", "sleeping", "retrying", "self-retrying", "auto-retrying", "requeuing"]


def tell_cleaned(ctx: Context, *args: Any) -> None:
    """Clean up behind a cancel: only say so."""
    tell(ctx.id, "cleaned")


@app.task(bind=True, max_retries=5, default_retry_delay=0, autoretry_for=(LookupError,), on_cancel=tell_cleaned, cancel_grace=5)
def race(self: Any, kind: str, ms: int, ctx: Context) -> str:
    """Be over in a moment, in one of several ways."""
    tell(ctx.id, "started")
    if kind == "reporting":
        ctx.progress(1, total=2)
        ctx.log.info("half", kind=kind)
    if kind == "sleeping":
        ctx.sleep(ms / 1000)
    else:
        time.sleep(ms / 1000)
    if kind == "reporting":
        ctx.progress(2, total=2)
    if kind == "failing":
        raise ValueError("as it should")
    if ctx.attempt <= 2:
        _go_round(self, kind, ctx)
    if kind == "requeuing" and ctx.delivery == 1:
        raise ctx.requeue()
    return kind


def _go_round(task: Any, kind: str, ctx: Context) -> None:
    if kind == "retrying":
        raise ctx.retry(delay=0, reason="again")
    if kind == "later":
        raise ctx.retry(delay=1)
    if kind == "self-retrying":
        raise task.retry(countdown=0)
    if kind == "auto-retrying":
        raise KeyError("again")


# --- handlers that obey --------------------------------------------------------------------------------------------------


@app.task(max_retries=3)
def obey(how: str, ctx: Context) -> str:
    """Run for ten minutes, unless the signal fires; end in one of several ways."""
    tell(ctx.id, "started")
    woken = threading.Event()
    ctx.signal.add_listener(lambda _: woken.set())
    ctx.log.info("runs")
    gates.arrive(ctx.id)
    if how == "sleep":
        ctx.sleep(600)
    elif how == "look":
        while not ctx.signal.wait(0.01):
            ctx.signal.raise_if_aborted()
        ctx.signal.raise_if_aborted()
    elif how == "listen":
        woken.wait(600)
        return "listened"
    else:
        ctx.signal.wait(600)
    tell(ctx.id, f"woken {ctx.signal.reason}")
    if how == "raise":
        raise ValueError("interrupted in the middle")
    if how == "retry":
        raise ctx.retry(delay=0)
    return "a result"


# --- handlers that do not --------------------------------------------------------------------------------------------------


@app.task(cancel_grace=0.5, soft_time_limit=None)
def deaf(how: str, seconds: float, ctx: Context) -> str:
    """Take no notice of the signal for some seconds."""
    tell(ctx.id, "started")
    gates.arrive(ctx.id)
    until = time.monotonic() + seconds
    try:
        if how == "sleep":
            time.sleep(seconds)
        while True:  # Python 3.13.0 does not catch what is raised in the test of a loop, though that stands within the `try`
            if time.monotonic() >= until:
                break
            if how == "swallow":
                try:
                    while time.monotonic() < until:
                        time.sleep(0.01)
                except Exception:
                    tell(ctx.id, "swallowed")
            elif how == "lock":
                hold_the_interpreter(until - time.monotonic())
    except JobCancelledError:
        tell(ctx.id, "interrupted")
        raise
    finally:
        tell(ctx.id, "left")
    return "a result"


def hold_the_interpreter(seconds: float) -> None:
    """Stay in C code with the interpreter's lock held."""
    import ctypes

    ctypes.PyDLL(None).usleep(int(seconds * 1_000_000))


@app.task
def hold(ctx: Context) -> None:
    """Keep a place in the pool until the gate is opened."""
    gates.stop_at(ctx.id)


@app.task(max_retries=3)
def mark(ctx: Context) -> str:
    """Say that it ran: what was cancelled before must not."""
    tell(ctx.id, "started")
    return "ran"


@app.task(max_retries=3)
def retry_later(ctx: Context) -> None:
    """Run once, then wait for a retry."""
    tell(ctx.id, "started")
    raise ctx.retry(delay=2, reason="later")


@app.task(acks_late=True)
def talk(silent: bool, ctx: Context) -> str:
    """Go on for long: with a word at every step, or without."""
    tell(ctx.id, "started")
    gates.arrive(ctx.id)
    until = time.monotonic() + 60
    while time.monotonic() < until and not ctx.signal.aborted:
        if not silent:
            ctx.progress(until - time.monotonic())
        time.sleep(0.01)
    return "a result"


@app.task(cancel_grace=0.4)
def shielded(seconds: float, ctx: Context) -> str:
    """Keep a block whole, in which the grace ends."""
    tell(ctx.id, "started")
    gates.arrive(ctx.id)
    try:
        with ctx.shield():
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                time.sleep(0.01)
            tell(ctx.id, "whole")
        while time.monotonic() < until + 30:
            time.sleep(0.01)
    except JobCancelledError:
        tell(ctx.id, "interrupted")
        raise
    return "a result"


def _clean_up(ctx: Context, how: str) -> None:
    tell(ctx.id, f"cleans {ctx.signal.reason}")
    ctx.log.info("cleaning up", how=how)
    if how == "error":
        raise OSError("no way to clean up")
    if how == "slow":
        until = time.monotonic() + 30
        while time.monotonic() < until:
            time.sleep(0.01)
    tell(ctx.id, "cleaned")


@app.task(on_cancel=_clean_up, cancel_grace=0.5)
def clean_by_option(how: str, ctx: Context) -> None:
    """Be cleaned up behind by a function."""
    gates.arrive(ctx.id)
    try:
        ctx.sleep(60)
    finally:
        tell(ctx.id, "left")


class CleanByMethod(ContextTask):
    """Be cleaned up behind by a method."""

    name = "stopping_jobs.clean_by_method"
    cancel_grace = 0.5

    def run(self, how: str, ctx: Context) -> None:
        """Wait."""
        gates.arrive(ctx.id)
        try:
            ctx.sleep(60)
        finally:
            tell(ctx.id, "left")

    def on_cancel(self, ctx: Context, how: str) -> None:
        """Clean up."""
        assert self.request.id == ctx.id
        _clean_up(ctx, how)


clean_by_method = app.register_task(CleanByMethod())


@app.task
def tell_error(request: Any, exc: Any, traceback: Any) -> None:
    """What ``link_error`` calls."""
    tell(request.id, f"error {type(exc).__name__}")


@task_revoked.connect
def _tell_revoked(request: Any, terminated: bool, signum: Any, expired: bool, **_: Any) -> None:
    if request.task.startswith("tests.support.stopping_jobs."):
        tell(f"{request.id}:revoked", f"terminated={terminated}")


# --- time limits and shutdown ----------------------------------------------------------------------------------------------


def limited(how: str, ctx: Context) -> str:
    """Meet the soft time limit of a second."""
    tell(ctx.id, "started")
    gates.arrive(ctx.id)
    try:
        if how == "sleep":
            time.sleep(4)
        elif how == "obey":
            ctx.sleep(30)
        elif how == "wait":
            ctx.signal.wait(30)
            tell(ctx.id, f"woken {ctx.signal.reason}")
            return "a result"
        elif how == "extend":
            before = ctx.remaining()
            ctx.extend_deadline(2)
            after = ctx.remaining()
            assert before is not None
            assert after is not None
            assert 1.9 < after - before < 2.1
            ctx.sleep(1.5)
            tell(ctx.id, "held off")
        until = time.monotonic() + 30
        while time.monotonic() < until:
            time.sleep(0.01)
    except SoftTimeLimitExceeded:
        tell(ctx.id, f"limit {ctx.signal.reason}")
        raise
    return "a result"


soft = app.task(name="stopping_jobs.soft", soft_time_limit=1)(limited)
soft_again = app.task(
    name="stopping_jobs.soft_again",
    soft_time_limit=1,
    autoretry_for=(SoftTimeLimitExceeded,),
    max_retries=1,
    default_retry_delay=0,
)(limited)


@app.task(soft_time_limit=20, time_limit=30)
def extend_too_far(ctx: Context) -> list[Any]:
    """Ask for more time than the hard limit leaves."""
    try:
        ctx.extend_deadline(10)
    except NotSupportedError as exc:
        return [str(exc), ctx.deadline is not None and ctx.deadline.timestamp() - time.time() < 20]
    return []


@app.task
def extend_nothing(ctx: Context) -> str:
    """Ask for more time where there is no limit."""
    assert (ctx.deadline, ctx.remaining()) == (None, None)
    try:
        ctx.extend_deadline(10)
    except NotSupportedError as exc:
        return str(exc)
    return ""


@app.task(bind=True)
def without_context(self: Any) -> str:
    """Take no context, and so see no signal; return when the gate is opened."""
    gates.stop_at(self.request.id)
    return "kept"


@app.task(acks_late=True)
def obey_always(ctx: Context) -> int:
    """Sleep in each delivery, until the signal or the gate; return the delivery's number."""
    tell(ctx.id, "started")
    gates.arrive(ctx.id)
    with gates.gate_client() as connection:
        while not gates.is_open(connection, ctx.id):
            ctx.sleep(0.05)
    return ctx.delivery


def _long(how: str, ctx: Context) -> dict[str, Any]:
    tell(ctx.id, "started")
    found = {"attempt": ctx.attempt, "delivery": ctx.delivery, "checkpoint": ctx.last_checkpoint}
    if ctx.delivery > 1:
        return found
    ctx.checkpoint({"row": 7})
    ctx.progress(7)
    gates.arrive(ctx.id)
    if how == "obey":
        ctx.sleep(60)
    elif how == "ask":
        ctx.signal.wait(60)
        raise ctx.requeue("somewhere else")
    else:
        with gates.gate_client() as connection:
            while not gates.is_open(connection, ctx.id):
                time.sleep(0.01)
        ctx.signal.wait(10)  # the processes of a pool are told a moment behind their worker's log
    return {**found, "reason": ctx.signal.reason}


long_late = app.task(name="stopping_jobs.long_late", acks_late=True, reject_on_worker_lost=True)(_long)
long_early = app.task(name="stopping_jobs.long_early", acks_late=False)(_long)


# --- in the middle of a line -----------------------------------------------------------------------------------------------


@app.task(soft_time_limit=1)
def chatter(delay: float, ctx: Context) -> str:
    """Arrange for the soft limit's own signal after a random moment, and do nothing but speak to the library until it comes."""
    threading.Timer(delay, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    try:
        number = 0
        while True:
            number += 1
            ctx.progress(number)
            ctx.log.info("entry", number=number)
            ctx.heartbeat()
            ctx.checkpoint(number)
            _ = ctx.signal.aborted
    except SoftTimeLimitExceeded:
        ctx.log.warning("limit", last=number)
        raise


@app.task
def fork_and_go_on(how: str, ctx: Context) -> int:
    """Fork after the library was used; the child reports, too, for nobody; the parent goes on."""
    ctx.progress(1)
    ctx.log.info("before")
    if how == "fork":
        pid = os.fork()
        if not pid:
            ctx.progress(99)
            ctx.log.info("from the child")
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    else:
        from billiard import Process  # the daemonic children of a pool may start none of multiprocessing's

        process = Process(target=_in_process, args=(ctx.id,))
        process.start()
        process.join(20)
        code = process.exitcode
    for number in range(50):
        ctx.log.info("after", number=number)
    ctx.progress(100)
    return int(code or 0)


def _in_process(job_id: str) -> None:
    tell(job_id, "in the process")


@app.task
def threads_and_nested(ctx: Context) -> list[Any]:
    """Report from threads while this thread calls another task directly."""

    def report(name: int) -> None:
        for number in range(100):
            ctx.progress(number)
            ctx.log.info("entry", thread=name, number=number)

    threads = [threading.Thread(target=report, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    found = [nested_once(number) for number in range(20)]
    for thread in threads:
        thread.join()
    return found


@app.task
def nested_once(number: int, ctx: Context) -> int:
    """Be called directly: the same job."""
    ctx.log.info("nested", number=number)
    return number
