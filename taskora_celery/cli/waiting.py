"""What the commands share that go on until jobs end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from taskora_celery.cli.session import CANCELLED, DONE, FAILED, NOT_FOUND, Session
from taskora_celery.cli.text import one_line
from taskora_celery.errors import StoreUnavailableError
from taskora_celery.following import Change, JobsFollower
from taskora_celery.listing import final_state
from taskora_celery.records import Outcome
from taskora_celery.views import STATES, named

__all__ = ["EXPIRED", "end_of", "exit_code", "following", "goes_on"]

#: In the place of a state: the record of a job that was followed is there no more.
EXPIRED = "expired"
#: The first of these that is among the ends of several jobs is the exit code.
_CODES = {"failed": FAILED, EXPIRED: NOT_FOUND, "cancelled": CANCELLED}
#: So many jobs are named.
_NAMED = 3


def following(session: Session, job_ids: Sequence[str]) -> JobsFollower:
    """Return a follower of jobs that tells of outages."""

    def told(outage: StoreUnavailableError | None) -> None:
        if outage is None:
            session.output.note("Redis is back.")
        else:
            session.output.note(f"Redis cannot be reached, trying again: {one_line(outage)}")

    return JobsFollower(
        session.reader.store,
        job_ids,
        is_over=lambda job_id: final_state(session.app, job_id) is not None,
        on_outage=told,
    )


def end_of(session: Session, change: Change) -> tuple[str, str | None] | None:
    """Return the word for how a job has ended, and why; None where it has not."""
    if not change.over:
        return None
    if change.snapshot is None:
        return EXPIRED, None
    fields = change.snapshot.fields
    state = fields.get("s")
    if state not in Outcome.FINAL:
        state = final_state(session.app, change.id) or Outcome.FAILURE
    why = None if state == Outcome.SUCCESS else named(fields.get("z"), fields.get("r"))
    return STATES.get(state, state.lower()), (fields.get("r") or None) if state == Outcome.REVOKED else why


def exit_code(ends: Iterable[str]) -> int:
    """Return the exit code for how jobs have ended."""
    found = set(ends)
    return next((code for state, code in _CODES.items() if state in found), DONE)


def goes_on(job_ids: Sequence[str]) -> str:
    """Return what to say when the watching is stopped: the jobs are not."""
    if len(job_ids) > _NAMED:
        return f"Not watching any more; the {len(job_ids)} jobs go on."
    names = ", ".join(one_line(job_id) for job_id in job_ids)
    return f"Not watching any more; {'job' if len(job_ids) == 1 else 'jobs'} {names} {'goes' if len(job_ids) == 1 else 'go'} on."
