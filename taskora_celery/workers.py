"""An app's workers as people see them: what they answered, and what the records of the jobs on them say. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

import msgspec

from taskora_celery.inspecting import Answer, Round
from taskora_celery.reading import JobBrief

__all__ = ["JOBS_LOOKED_AT", "OFFLINE_AFTER", "WorkerState", "WorkerView", "standing_text", "workers_seen"]

#: A worker that does not answer counts as alive for so many seconds after the last that was heard of it: two rounds, so that an
#: answer that comes too late is not the end of a worker.
OFFLINE_AFTER = 10.0
#: One that is offline, with no job on it, is shown for so many seconds: it was shut down, and nobody misses it.
OFFLINE_SHOWN_FOR = 600.0
#: So many jobs that have not ended are looked at, those whose state has not changed for longest.
JOBS_LOOKED_AT = 10_000


class WorkerState(str, Enum):
    """How a worker stands."""

    #: It answered.
    ONLINE = "online"
    #: It did not answer, but was heard of a moment ago: it is busy (the solo pool answers between two jobs only), or slow.
    SILENT = "silent"
    #: It did not answer, and nothing was heard of it.
    OFFLINE = "offline"
    #: Nobody could ask it.
    UNKNOWN = "unknown"


class WorkerView(msgspec.Struct, frozen=True):
    """One worker at one moment; None where it is not known."""

    name: str
    state: WorkerState
    #: The last that was heard of it, an answer or a job's sign of life, in milliseconds since the epoch.
    heard_ms: int | None = None
    #: Jobs that run on it, by their records.
    jobs: int = 0
    #: What it said last.
    answer: Answer | None = None

    @property
    def live(self) -> bool:
        """Whether it works, as far as is known."""
        return self.state in {WorkerState.ONLINE, WorkerState.SILENT}

    @property
    def queues(self) -> tuple[str, ...] | None:
        """The queues that it takes jobs from."""
        return None if self.answer is None else self.answer.queues

    @property
    def lost(self) -> bool:
        """Whether it is offline, and jobs are said to run on it: they are lost, or will be delivered again."""
        return self.state is WorkerState.OFFLINE and self.jobs > 0


def workers_seen(found: Round | None, running: Iterable[JobBrief], now_ms: int) -> list[WorkerView]:
    """Return the workers: first those that are offline with jobs on them, then by name.

    ``found`` is the last round, None where none is over yet; ``running`` are the jobs that run.
    """
    asked = found is not None and found.workers_error is None
    here, answers = (frozenset[str](), dict[str, Answer]()) if found is None else (found.present, found.answers)
    jobs, alive = dict[str, int](), dict[str, int]()
    for job in running:
        if job.worker:
            jobs[job.worker] = jobs.get(job.worker, 0) + 1
            alive[job.worker] = max(alive.get(job.worker, 0), job.alive_ms)
    views = []
    for name in {*here, *answers, *jobs}:
        answer = answers.get(name)
        instants = [*([answer.at_ms] if answer else []), *([alive[name]] if alive.get(name) else [])]
        heard = min(max(instants), now_ms) if instants else None  # a worker's clock may be ahead
        state = _state(now_ms, heard, present=name in here, asked=asked)
        view = WorkerView(name, state, heard, jobs.get(name, 0), answer)
        if not _is_forgotten(view, now_ms):
            views.append(view)
    return sorted(views, key=lambda view: (not view.lost, view.name))


def _state(now_ms: int, heard: int | None, *, present: bool, asked: bool) -> WorkerState:
    if present:
        return WorkerState.ONLINE
    if heard is not None and now_ms - heard <= OFFLINE_AFTER * 1000:
        return WorkerState.SILENT
    return WorkerState.OFFLINE if asked else WorkerState.UNKNOWN


def _is_forgotten(view: WorkerView, now_ms: int) -> bool:
    return not view.live and not view.jobs and now_ms - (view.heard_ms or 0) > OFFLINE_SHOWN_FOR * 1000


def standing_text(view: WorkerView) -> str:
    """Return how a worker stands, in words: ``online``, ``no answer``, ``offline with 2 running jobs``, ``not known``."""
    if view.lost:
        return f"offline with {view.jobs} running {'job' if view.jobs == 1 else 'jobs'}"
    return {WorkerState.SILENT: "no answer", WorkerState.UNKNOWN: "not known"}.get(view.state, view.state.value)
