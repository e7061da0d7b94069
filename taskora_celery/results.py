"""Progress in the result backend: state ``PROGRESS``, written so that it never damages an outcome (rules E4, E5)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import ref

from celery import states

from taskora_celery.databases import let_go_of_databases
from taskora_celery.events import EventSender
from taskora_celery.progress import backend_meta
from taskora_celery.reporter.report import JobReport
from taskora_celery.store.swapping import swap_result

__all__ = ["PROGRESS", "sink_for", "sinks_opener"]

logger = logging.getLogger("taskora_celery.results")

PROGRESS = "PROGRESS"

#: Over these a PROGRESS is never written. RETRY is special: an attempt's own is final, the one before may be overwritten.
_FINAL = frozenset({states.SUCCESS, states.FAILURE, states.REVOKED, states.IGNORED, states.REJECTED})


def sink_for(task: Any, request: Any, backend: Any = None) -> BackendSink | None:
    """Return the sink of a job, None where its result is ignored or there is no backend.

    ``backend`` is the task's as the handler's thread has it: Celery makes one for each thread.
    """
    backend = backend or task.backend
    ignored = vars(request).get("ignore_result")
    if (task.ignore_result if ignored is None else ignored) or type(backend).__name__ == "DisabledBackend":
        return None
    first = not request.retries
    if hasattr(backend, "connparams") and hasattr(backend, "client") and hasattr(backend, "get_key_for_task"):
        return RedisSink(backend, request, first_attempt=first)
    return BackendSink(backend, request, first_attempt=first)


def sinks_opener(task: Any, request: Any, events: EventSender, started: float) -> Callable[[JobReport], None]:
    """Return what gives a job's report its sinks, once there is progress; the job began at ``started``, in seconds."""
    # By weak reference: the reporter holds the report, and lets go of it at the latest with the request.
    return partial(_open_sinks, task, ref(request), task.backend, events, started)


def _open_sinks(
    task: Any, request_ref: Callable[[], Any], backend: Any, events: EventSender, started: float, report: JobReport
) -> None:  # fmt: skip
    request = request_ref()
    if request is not None:
        report.sink, report.events = sink_for(task, request, backend), events.sink_for(task, request, started)


class BackendSink:
    """Writes PROGRESS through any backend: looks at the state, then stores.

    The worker's parent may store an outcome between the two (it does when it revokes, or when the hard limit is reached), a
    window of one round trip; where the backend is Redis, :class:`RedisSink` has none. The job's own outcome comes after
    :meth:`close`, which waits for a write that is under way.
    """

    def __init__(self, backend: Any, request: Any, *, first_attempt: bool) -> None:
        self._backend = backend
        # Weakly: the reporter holds the sink, and lets go of it at the latest with the request.
        self._request = ref(request)
        self._id: str = request.id
        self._lock = threading.Lock()
        self._closed = False
        self._told = False
        #: The RETRY of the attempt before may be overwritten, once.
        self._over_retry = not first_attempt

    def write(self, value: Any) -> None:
        """Store a progress value; never raises."""
        with self._lock:
            if self._closed:
                return
            try:
                self._write(backend_meta(value))
            except Exception as exc:  # noqa: BLE001 - any backend's error; a report may be lost, a job may not be hurt
                if not self._told:
                    self._told = True
                    logger.warning("job %s: progress cannot be written to the result backend: %s", self._id, exc)

    def close(self) -> None:
        """Return when no write is under way; none comes after this."""
        with self._lock:
            self._closed = True

    def _write(self, meta: Any) -> None:
        try:
            if self._may_replace(self._backend.get_state(self._id) if self._asks() else states.PENDING):
                self._backend.store_result(self._id, meta, PROGRESS, request=self._request())
        finally:
            let_go_of_databases()  # the backend may be Django's, and this thread lives as long as the process

    def _asks(self) -> bool:
        # rpc sends results to the caller's queue; to ask for one would take it from there.
        return type(self._backend).__module__ != "celery.backends.rpc"

    def _may_replace(self, state: str) -> bool:
        if state in _FINAL or (state == states.RETRY and not self._over_retry):
            self._closed = True
            return False
        self._over_retry = False
        return True


class RedisSink(BackendSink):
    """Writes PROGRESS with a compare-and-set, in one round trip once the key's content is known.

    So a write that is still under way when the outcome is stored changes nothing: :meth:`close` waits for none.
    """

    def __init__(self, backend: Any, request: Any, *, first_attempt: bool) -> None:
        super().__init__(backend, request, first_attempt=first_attempt)
        self._expected: bytes | None = None

    def close(self) -> None:
        """Begin no write any more."""
        self._closed = True

    def _write(self, meta: Any) -> None:
        backend = self._backend
        key = backend.get_key_for_task(self._id)
        data = backend.encode({
            **backend._get_result_meta(result=meta, state=PROGRESS, traceback=None, request=self._request()),  # noqa: SLF001
            "task_id": self._id,
        })  # fmt: skip
        raw = data if isinstance(data, bytes) else data.encode()
        if self._expected is not None and self._swap(key, self._expected, raw):
            return
        # Something else is there (or this is the first write): look, judge, and set it only if it is still the same.
        for _ in range(3):
            current = backend.client.get(key) or b""
            if self._closed:  # asked behind the look: what it has found may be the outcome, and a RETRY looks like the one before
                return
            state = backend.decode_result(current)["status"] if current else states.PENDING
            if not self._may_replace(state) or self._swap(key, current, raw):
                return

    def _swap(self, key: Any, expected: bytes, new: bytes) -> bool:
        ttl = self._backend.expires
        swapped = swap_result(self._backend.client, key, expected, new, int(ttl or 0))
        self._expected = new if swapped else None
        return swapped
