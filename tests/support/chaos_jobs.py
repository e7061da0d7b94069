"""More tasks of the app in `tests.support.jobs`: those that are in the middle of whatever happens."""

# mypy: allow-untyped-decorators, disallow-any-decorated=False
# Celery itself carries no types.

from __future__ import annotations

import collections
import os
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from taskora_celery import Context
from taskora_celery.runtime import Runtime
from tests.support.jobs import app

__all__ = ["KINDS", "app"]

#: How a job ends where nobody cancels it.
KINDS = {"plain": "SUCCESS", "obedient": "SUCCESS", "deaf": "SUCCESS", "failing": "FAILURE", "retrying": "SUCCESS"}
_STEP = 0.05  # seconds between two words of a job
_TICK = 0.4  # seconds
#: What the kernel knows of sockets: one whose connection was cut off is in none of these until it is closed.
_TABLES = ("tcp", "tcp6", "udp", "udp6", "unix", "netlink", "packet", "raw", "raw6")


@app.task(name="chaos.together", acks_late=True)
def together(ctx: Context) -> int:
    """End at the next tick, as all others do that run."""
    time.sleep(_TICK - time.time() % _TICK)
    return ctx.delivery


@app.task(name="chaos.work", acks_late=True, reject_on_worker_lost=True, max_stalls=None, max_retries=1, cancel_grace=1.0)
def work(kind: str, seconds: float, ctx: Context) -> str:
    """Talk for a while, and end in the way of this kind; each run of it has a name of its own in its entries."""
    run, until, n = uuid.uuid4().hex, time.monotonic() + seconds, 0
    while time.monotonic() < until:
        ctx.log.info("entry", run=run, n=n)
        ctx.progress(n)
        n += 1
        if kind == "deaf":
            time.sleep(_STEP)
        else:
            ctx.sleep(_STEP)
    if kind == "failing":
        raise ValueError("as it should")
    if kind == "retrying" and ctx.attempt == 1:
        raise ctx.retry(delay=0.1, reason="once more")
    return kind


@app.task(name="chaos.left", acks_late=True, ignore_result=False)
def left(port: int) -> dict[str, Any]:
    """What this worker's process has: threads by name, sockets that lead or led to a port, and the store's idle readers."""
    names = collections.Counter(thread.name for thread in threading.enumerate())
    store: Any = Runtime.of(app).store
    readers = 0 if store._reader is None else len(store._reader.connection_pool._available_connections)
    return {"pid": os.getpid(), "threads": dict(names), "sockets": _sockets(port), "readers": readers}


def _sockets(port: int) -> int:
    """Count them in whatever state, those included whose connection is gone and which nobody has closed."""
    held = set()
    for fd in Path("/proc/self/fd").iterdir():
        try:
            held.add(str(fd.readlink()))
        except OSError:  # closed meanwhile
            continue
    there, inodes = 0, {name[8:-1] for name in held if name.startswith("socket:[")}
    for table in _TABLES:
        try:
            lines = Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]
        except OSError:  # not in this kernel
            continue
        for line in lines:
            fields = line.split()
            if found := inodes & set(fields):
                inodes -= found
                there += table == "tcp" and int(fields[2].rpartition(":")[2], 16) == port
    return there + len(inodes)
