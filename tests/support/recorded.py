"""Job records that come a flush later than the result: those of jobs that had nothing to say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskora_celery import JobNotFoundError
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from taskora_celery import JobHandle, JobStatus


def recorded(handle: JobHandle, state: str = "SUCCESS", timeout: float = 10.0) -> JobStatus:
    """Wait until the job's record is in a state, and return it."""

    def found() -> JobStatus | None:
        try:
            status = handle.record()
        except JobNotFoundError:
            return None
        return status if status.state == state else None

    status = wait_until(found, f"{state} in the record of job {handle.id}", timeout)
    assert status is not None
    return status
