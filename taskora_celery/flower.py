"""Progress, attempts and logs in unmodified Flower, by one line in its ``flowerconfig.py`` (rule K2).

.. code-block:: python

    from taskora_celery.flower import format_task, tasks_columns

Flower runs that file as Python and takes its options from the names in it: ``format_task`` is called with a copy of each task
that is shown, ``tasks_columns`` names the columns of the list. What they show comes from the job's record, through the
reader that all faces have.
"""

from __future__ import annotations

import functools
import logging
import time
from contextlib import suppress
from typing import Any

import click
from celery import current_app
from celery.events.state import Task

from taskora_celery.clock import instant
from taskora_celery.errors import JobNotFoundError, StoreNotConfiguredError, StoreUnavailableError
from taskora_celery.listing import JobDetail, JobsReader, TaskBook
from taskora_celery.records import AttemptRecord, LogEntry
from taskora_celery.reporter.decisions import Outage
from taskora_celery.runtime import Runtime
from taskora_celery.texts import cut_line, duration_text
from taskora_celery.views import JobView, attempt_text, named, progress_line

__all__ = ["format_task", "tasks_columns"]

logger = logging.getLogger("taskora_celery.flower")

#: Flower's own columns, and ours.
tasks_columns = "name,uuid,state,progress,attempt,received,runtime,worker"
_COLUMNS = {"progress": "Progress", "attempt": "Attempt"}

#: How many of a job's newest log entries, and of its newest attempts, its page shows, and how many characters of each.
LOG_TAIL = 10
ATTEMPTS_SHOWN = 20
CHARS = 500

with suppress(ImportError):  # Flower before 2.2 has no such table; a job's page shows it all the same
    from flower.views.tasks import TASK_COLUMNS

    TASK_COLUMNS.update(_COLUMNS)


def format_task(task: Any) -> Any:
    """Return a task as Flower shows it; never raises: the list needs what its columns name, for each of its rows."""
    return ShownTask(task.as_dict(), _records())


class Records:
    """The records of the jobs that Flower shows. A store that is away is left alone for a while: pages do not wait for it."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self._tasks = TaskBook(app)
        self._outage = Outage()

    def read(self, job_id: str, *, logs: int = 0) -> JobDetail | None:
        """Return a job as it is now, with its newest ``logs`` log entries; None without a record, or a store that answers."""
        if self._outage.closed_at(time.monotonic()):
            return None
        try:
            runtime = Runtime.of(self.app)
            # A reader of its own for each look: Flower may ask from several threads, and a reader is for one.
            reader = JobsReader(runtime.readable(), runtime.settings.log_limit, self._tasks)
            found = reader.detail(job_id, int(time.time() * 1000), logs=logs)
        except (JobNotFoundError, StoreNotConfiguredError):
            return None
        except StoreUnavailableError as exc:
            if self._outage.failed(time.monotonic()):
                logger.warning("job records cannot be read: %s; Flower shows what events tell", exc)
            return None
        except Exception:  # the edge to Flower: it would show the row without its columns, and the browser an error
            if self._outage.failed(time.monotonic()):
                logger.exception("job records cannot be read; Flower shows what events tell")
            return None
        self._outage.succeeded()
        return found


class ShownTask(Task):  # type: ignore[misc]
    """Celery's state of a task as Flower shows it, with the job's record.

    A row of the list costs one round trip. A job's own page goes through ``_fields``, one line for each: only then its attempts
    and its log are read. What is text here is text there: Flower escapes it.
    """

    def __init__(self, told: dict[str, Any], records: Records) -> None:
        """``told`` is what events told of the task."""
        super().__init__(**told)
        self._told = told
        self._records = records
        found = records.read(told["uuid"])
        self.progress = None if found is None else _progress(found.view) or None
        self.attempt = None if found is None else _attempt(found.view)

    def as_dict(self) -> dict[str, Any]:
        """Return the row of the list."""
        return {**self._told, "progress": self.progress, "attempt": self.attempt}

    @property
    def _fields(self) -> tuple[str, ...]:
        timezone, found = self._records.app.timezone, self._records.read(self.uuid, logs=LOG_TAIL)
        history, logs = ([], []) if found is None else (found.attempts[-ATTEMPTS_SHOWN:], found.logs)
        attempts = {_number(record): _outcome(record, timezone) for record in history}
        entries = {f"log {entry.seq} {_clock(entry.timestamp, timezone)}": _line(entry) for entry in logs}
        # The page asks for each by its name.
        self.__dict__.update({**attempts, **entries})
        return ("progress", "attempt", *attempts, *entries, *Task._fields)


def _progress(view: JobView) -> str:
    return progress_line(view.status.progress, "" if view.left is None else f"{duration_text(view.left)} left")


def _attempt(view: JobView) -> str:
    return attempt_text(view) + ("" if view.status.delivery == 1 else f", delivery {view.status.delivery}")


def _number(record: AttemptRecord) -> str:
    return f"attempt {record.number}" + ("" if record.delivery == 1 else f", delivery {record.delivery}")


def _outcome(record: AttemptRecord, timezone: Any) -> str:
    """Return one attempt on one line, such as ``RETRY after 2 s on w1@host · ConnectionError: refused · next in 8 s``."""
    since = (
        f"since {_clock(record.started_ms, timezone)}" if record.duration is None else f"after {duration_text(record.duration)}"
    )
    why = named(record.error, record.reason)
    after = "" if record.delay is None else f"next in {duration_text(record.delay)}"
    parts = (f"{record.outcome or 'running'} {since} on {record.worker}", why, after)
    return cut_line(" · ".join(part for part in parts if part), CHARS)


def _line(entry: LogEntry) -> str:
    fields = "".join(f" {key}={value!r}" for key, value in (entry.meta or {}).items())
    return cut_line(f"{entry.level.upper()} {entry.message}{fields}", CHARS)


def _clock(ms: int, timezone: Any) -> str:
    return f"{instant(ms).astimezone(timezone):%H:%M:%S.%f}"[:-3]


@functools.cache
def _records() -> Records:
    """Return the records of the app that Flower was started with."""
    context = click.get_current_context(silent=True)
    app = getattr(getattr(context, "obj", None), "app", None)
    return Records(current_app._get_current_object() if app is None else app)  # noqa: SLF001 - the proxy's way to what it stands for
