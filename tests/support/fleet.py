"""What workers with and without the library do alike; it imports nothing of either."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from tests.support import gates


def tell_start(job_id: str) -> int:
    """Tell that a handler has started, and where; return how many starts there are."""
    told = {"at": time.time(), "pid": os.getpid(), "library": "taskora_celery.task" in sys.modules}
    return gates.tell(job_id, "starts", told)


def fleet_body(job_id: str, ends: int) -> dict[str, Any]:
    """Wait at a gate in the starts before number `ends`; say where it ended."""
    number = tell_start(job_id)
    if number < ends:
        gates.stop_at(job_id, f"start{number}")
    return {"start": number, "library": "taskora_celery.task" in sys.modules}
