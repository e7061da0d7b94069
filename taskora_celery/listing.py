"""The reader of many jobs: the list, and the job that somebody means. Every face finds its jobs through it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from celery import states

from taskora_celery.errors import JobNotFoundError, TaskoraError
from taskora_celery.reading import JobBrief, brief_of, history_of
from taskora_celery.records import AttemptRecord, LogEntry
from taskora_celery.runtime import Runtime
from taskora_celery.scheduling import max_attempts
from taskora_celery.store.journal import decode_logs
from taskora_celery.store.protocol import JobStore, Snapshot
from taskora_celery.views import ENDED, GOING, JobFilter, JobView, Paces, TaskFacts, view_of

__all__ = [
    "ALL", "PREFIX_CHARS", "AmbiguousIdError", "Glance", "JobDetail", "JobsReader", "TaskBook", "final_state", "load_tasks",
]  # fmt: skip

logger = logging.getLogger("taskora_celery")

#: So many characters of an id at least say which job is meant.
PREFIX_CHARS = 6
#: So many records are read before it is looked whether there are enough: at least, and at most.
_CHUNK_LEAST, _CHUNK_MOST = 50, 500
#: A limit for all jobs: more than any index holds.
ALL = 1_000_000


class AmbiguousIdError(TaskoraError, LookupError):
    """More than one job's id begins like this."""

    def __init__(self, prefix: str, job_ids: list[str]) -> None:
        super().__init__(prefix, job_ids)
        self.prefix = prefix
        self.job_ids = job_ids


class JobDetail(msgspec.Struct, frozen=True):
    """One job with all that its record tells."""

    view: JobView
    #: Oldest first; the last is that of now.
    attempts: list[AttemptRecord]
    #: The newest log entries.
    logs: list[LogEntry]


class Glance(msgspec.Struct, frozen=True):
    """What a look at how many jobs stand has found."""

    #: Those in the wanted state, in the order of the list.
    jobs: tuple[JobBrief, ...]
    #: So many jobs were looked at.
    looked: int
    #: So many more are listed and were not looked at, since they are too many.
    left: int = 0


class TaskBook:
    """What an app's tasks say of their jobs. The app's task modules are imported at the first question, as a worker does."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._loaded = False

    def __call__(self, name: str) -> TaskFacts:
        """Return the facts of a task; of one that is not registered here nothing is known."""
        if not self._loaded:
            self._loaded = True
            load_tasks(self._app)
        task = self._app.tasks.get(name)
        if task is None:
            return TaskFacts()
        return TaskFacts(max_attempts(task), getattr(task, "heartbeat_timeout", None))


def load_tasks(app: Any) -> None:
    """Import an app's task modules, as a worker does; where that fails the log says so."""
    try:
        app.loader.import_default_modules()
    except Exception as exc:  # noqa: BLE001 - users' modules; their jobs are shown all the same
        logger.warning("the app's tasks cannot be imported, so what they define is not known: %s", exc)


def final_state(app: Any, job_id: str) -> str | None:
    """Return how a job has ended as the result backend has it; None where it has not, or nobody can be asked.

    Some ends (a process that was killed) are known only there.
    """
    try:
        state = app.backend.get_state(job_id)
    except Exception:  # noqa: BLE001 - any result backend's, or none: the record decides
        return None
    return str(state) if state in states.READY_STATES else None


class JobsReader:
    """Reads the jobs of one app. Remembers their progress between two looks, for the time left; not shared between threads."""

    def __init__(self, store: JobStore, keep: int, facts: Callable[[str], TaskFacts], *, indexed: bool = True) -> None:
        """``keep`` is the number of newest log entries that count as kept; ``indexed`` says that the store has a list of jobs."""
        self.store = store
        self.keep = keep
        self.indexed = indexed
        self.facts = facts
        self._paces = Paces()

    @classmethod
    def of(cls, app: Any) -> JobsReader:
        """Return a reader of an app's jobs.

        :raises StoreNotConfiguredError: no Redis is known to keep job records in.
        """
        runtime = Runtime.of(app)
        settings = runtime.settings
        return cls(runtime.readable(), settings.log_limit, TaskBook(app), indexed=settings.index_limit > 0)

    def views(self, wanted: JobFilter, limit: int, now_ms: int) -> list[JobView]:
        """Return the jobs that pass, at most ``limit``: those that have not ended first, the last change of state first.

        Two round trips, and one more for each 500 jobs that are looked at. A job that waits in its queue has no record yet.
        """
        found: list[JobView] = []
        read = set[str]()
        for going, chunk in self._chunks(wanted, read, min(max(limit, _CHUNK_LEAST), _CHUNK_MOST)):
            for job_id, snapshot in zip(chunk, self.store.records(chunk, going=going), strict=True):
                if snapshot is None:
                    continue
                view = self.seen(job_id, snapshot, now_ms)
                if going and view.over:  # it comes with the others: here it would push out one that goes on
                    read.discard(job_id)
                elif wanted.takes(view):
                    found.append(view)
            if len(found) >= limit:
                break
        found.sort(key=lambda view: view.over)  # the index is a moment behind the records
        return found[: max(limit, 0)]

    def glance(self, state: str, most: int, *, going: bool = False, since_ms: int = 0) -> Glance:
        """Look how ``most`` of the listed jobs stand; return those in a state, a Celery one, without what they have to say.

        The jobs whose state changed last; with ``going``, of those that have not ended the ones whose state has not changed for
        longest, of which a hung one would be one. ``since_ms`` is as in :class:`~taskora_celery.views.JobFilter`. One round trip,
        and one for each 500 jobs. Unlike the rest of this reader it may be used by several threads.
        """
        listed = [job_id for job_id, changed_ms in self.store.listed(ALL, going=going) if changed_ms >= since_ms]
        job_ids = listed[-most:] if going else listed[:most]
        found: list[JobBrief] = []
        for at in range(0, len(job_ids), _CHUNK_MOST):
            chunk = job_ids[at : at + _CHUNK_MOST]
            records = zip(chunk, self.store.records(chunk, brief=True), strict=True)
            found += [brief_of(job_id, record) for job_id, record in records if record and record.fields.get("s") == state]
        return Glance(tuple(found), len(job_ids), len(listed) - len(job_ids))

    def _chunks(self, wanted: JobFilter, read: set[str], size: int) -> Iterator[tuple[bool, list[str]]]:
        """Yield jobs that may be wanted and are not in ``read``, to which they are added; and whether they are said to go on."""
        kinds: tuple[bool, ...] = (True, False)
        if wanted.states:
            kinds = (True,) if wanted.states <= GOING else (False,) if wanted.states <= ENDED else kinds
        for going in kinds:
            listed = self.store.listed(ALL, going=going)
            job_ids = [job_id for job_id, changed_ms in listed if changed_ms >= wanted.since_ms and job_id not in read]
            read.update(job_ids)
            for at in range(0, len(job_ids), size):
                yield going, job_ids[at : at + size]

    def seen(self, job_id: str, snapshot: Snapshot, now_ms: int) -> JobView:
        """Return a job whose record was read already, with its last attempt, as it is seen now."""
        return view_of(job_id, snapshot, self.keep, self.facts(snapshot.fields.get("n", "")), now_ms, self._paces)

    def detail(self, job_id: str, now_ms: int, *, logs: int) -> JobDetail:
        """Return one job with its attempts and its newest ``logs`` log entries, from one round trip.

        :raises JobNotFoundError: there is no record of it.
        """
        snapshot = self.store.read(job_id, 0 if logs else None, attempts=True)
        if snapshot is None:
            raise JobNotFoundError(job_id)
        view = self.seen(job_id, snapshot, now_ms)
        return JobDetail(view, history_of(snapshot), decode_logs(snapshot.journal)[-logs:] if logs else [])

    def find(self, text: str) -> str:
        """Return the id that is ``text``, or that alone begins so; a beginning has six characters or more.

        :raises JobNotFoundError: there is none.
        :raises AmbiguousIdError: there are several.
        """
        if self.store.read(text) is not None:
            return text
        known: set[str] = set()
        if len(text) >= PREFIX_CHARS:
            for going in (True, False):
                known.update(job_id for job_id, _ in self.store.listed(ALL, going=going) if job_id.startswith(text))
        # One whose record has expired is still listed for a moment.
        ids = sorted(known)
        found = [job_id for job_id, record in zip(ids, self.store.records(ids, brief=True), strict=True) if record]
        if not found:
            raise JobNotFoundError(text)
        if len(found) > 1:
            raise AmbiguousIdError(text, found)
        return found[0]
