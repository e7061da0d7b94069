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
from tests.support.jobs import app

__all__ = ["KINDS", "app"]

#: How a job ends where nobody cancels it.
KINDS = {"plain": "SUCCESS", "obedient": "SUCCESS", "deaf": "SUCCESS", "failing": "FAILURE", "retrying": "SUCCESS"}
_STEP = 0.05  # seconds between two words of a job
_ESTABLISHED = "01"


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
    """What this worker's process has: threads of the library by name, and connections to a port."""
    names = collections.Counter(thread.name for thread in threading.enumerate() if thread.name.startswith("taskora-"))
    return {"pid": os.getpid(), "threads": dict(names), "connections": _connections(port)}


def _connections(port: int) -> int:
    sockets = set()
    for fd in Path("/proc/self/fd").iterdir():
        try:
            sockets.add(str(fd.readlink()))
        except OSError:  # closed meanwhile
            continue
    found = 0
    for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        remote, state, inode = fields[2], fields[3], fields[9]
        found += state == _ESTABLISHED and int(remote.rpartition(":")[2], 16) == port and f"socket:[{inode}]" in sockets
    return found
