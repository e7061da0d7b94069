"""An app without the library: what Celery does by itself, for the controls and for mixed fleets.

Its jobs do what those in `tests.support.fault_jobs` do, as far as they can without a context.
"""

# mypy: allow-untyped-decorators
# Celery itself carries no types.

from __future__ import annotations

import ctypes
import json
import os
import time
from typing import Any

from celery import Celery

from tests.support import gates
from tests.support.fleet import fleet_body, tell_start

app = Celery(
    "plain", broker=os.environ.get("BROKER_URL", "memory://"), backend=os.environ.get("RESULT_BACKEND", "cache+memory://")
)
app.conf.update(result_expires=600, broker_connection_retry_on_startup=True)
app.conf.update(json.loads(os.environ.get("JOBS_CONF", "{}")))

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


@app.task(bind=True, name="plain.sleep", acks_late=True)
def sleep(self: Any, seconds: float) -> int:
    """Sleep."""
    number = tell_start(self.request.id)
    time.sleep(seconds)
    return number


@app.task(bind=True, name="plain.mark", acks_late=True)
def mark(self: Any) -> int:
    """Only start."""
    return tell_start(self.request.id)


@app.task(bind=True, name="plain.retry_late", acks_late=True)
def retry_late(self: Any, delay: float) -> int:
    """Retry once, after a delay."""
    number = tell_start(self.request.id)
    if not self.request.retries:
        raise self.retry(countdown=delay)
    return number


def _stand(task: Any) -> dict[str, int]:
    number = tell_start(task.request.id)
    with gates.gate_client() as client:
        while not gates.is_open(client, task.request.id, f"start{number}"):
            time.sleep(0.02)
    return {"start": number}


@app.task(bind=True, name="plain.stand", acks_late=True)
def stand(self: Any) -> dict[str, int]:
    """Wait until the gate of this start is opened."""
    return _stand(self)


@app.task(bind=True, name="plain.orphaned", acks_late=True)
def orphaned(self: Any) -> dict[str, int]:
    """Outlive the worker's parent."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0)
    return _stand(self)


@app.task(bind=True, name="plain.exit_rejected", acks_late=True, reject_on_worker_lost=True)
def exit_rejected(self: Any, times: int) -> str:
    """End the process, so often."""
    if tell_start(self.request.id) <= times:
        os._exit(3)
    return "survived"


@app.task(bind=True, name="plain.hang", acks_late=True, reject_on_worker_lost=True)
def hang(self: Any) -> None:
    """Never come back."""
    tell_start(self.request.id)
    while True:
        time.sleep(60)


@app.task(bind=True, name="faults.fleet", acks_late=True, shared=False)
def fleet(self: Any, ends: int) -> dict[str, Any]:
    """The task that workers with the library have, too."""
    return fleet_body(self.request.id, ends)
