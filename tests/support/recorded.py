"""Job records that come a flush later than the result, and what those of a job that was lost once say in the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskora_celery import JobNotFoundError
from tests.support import gates
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


def ends_in_its_second_delivery(handle: JobHandle, hostname: str) -> None:
    """Let a job of ``fault_jobs.stand`` end that began once more, on this worker; nothing of its first delivery is lost."""
    wait_until(lambda: handle.get_progress() == 2, "the report of the second delivery")
    gates.open_gate(handle.id, "delivery2")
    found = handle.get(timeout=20)
    assert (found["attempt"], found["delivery"], found["checkpoint"]) == (1, 2, {"row": 100})
    assert recorded(handle).worker == hostname
    assert [(record.delivery, record.outcome) for record in handle.history()] == [(1, "LOST"), (2, "SUCCESS")]
    assert [entry.meta for entry in handle.get_logs()] == [{"delivery": 1}, {"delivery": 2}]
