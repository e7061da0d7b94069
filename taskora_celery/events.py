"""What a monitor such as Flower hears of a job between Celery's own events: its progress, and its recovery (rule K1)."""

from __future__ import annotations

import json
import logging
import math
import mmap
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, ClassVar
from weakref import WeakKeyDictionary, ref

from celery.utils.saferepr import saferepr

from taskora_celery.background import Background
from taskora_celery.delivery import attempt_of
from taskora_celery.redaction import Redactor
from taskora_celery.reporter.decisions import Outage
from taskora_celery.scheduling import max_attempts
from taskora_celery.settings import Settings
from taskora_celery.texts import cut_line, duration_text
from taskora_celery.views import LINE_CHARS, percent_of, progress_line, time_left

__all__ = ["EVENT_BYTES", "STARTED", "EventSender", "EventSink", "WatchFlag"]

logger = logging.getLogger("taskora_celery.events")

#: Not Celery's `task-started`: an unknown type becomes a state of its name in upper case, so this one reads as STARTED, and every
#: real outcome wins over it. A type such as `task-progress` would be a state that hides Flower's Terminate.
STARTED = "task-Started"
RETRIED = "task-retried"
#: The size of an event as JSON, without what Celery adds to it.
EVENT_BYTES = 4_096
#: How many characters of the arguments an event shows; the second where the first is too much, and then none.
ARGUMENT_CHARS = (1_024, 200, 0)
#: The time that is left is not told from less than this, in milliseconds.
SOONEST_MS = 1_000
#: How long the broker has to answer, in seconds, and how long a job's end waits for an event of its own that is on its way.
ANSWER_TIMEOUT = 2.0
CLOSE_TIMEOUT = 1.0

#: By kombu's name of the driver. RabbitMQ confirms each event, so that none is on its way any more when the next thing is sent.
_OPTIONS: dict[str, dict[str, Any]] = {
    "redis": {"socket_timeout": ANSWER_TIMEOUT, "socket_connect_timeout": ANSWER_TIMEOUT},
    "amqp": {"confirm_publish": True, "read_timeout": ANSWER_TIMEOUT, "write_timeout": ANSWER_TIMEOUT},
}


class WatchFlag:
    """One byte that says whether an app's worker sends task events: set by the worker's parent, seen by its pool's processes.

    It is shared memory, made before the pool forks: looking at it costs no I/O. Where nobody has made one, nobody watches.
    """

    _by_app: ClassVar[WeakKeyDictionary[Any, WatchFlag]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    @classmethod
    def of(cls, app: Any, *, make: bool = False) -> WatchFlag | None:
        """Return the flag of the worker that runs this app here; ``make`` it where this is its parent."""
        flag = cls._by_app.get(app)
        if flag is None and make:
            flag = cls._by_app[app] = cls()
        return flag

    def __bool__(self) -> bool:
        return self._byte[0] == 1

    def set(self, watched: bool) -> None:
        """Say whether the worker sends task events from now on."""
        self._byte[0] = int(watched)


class EventSender:
    """Sends events to whoever watches the workers of an app, through a connection of its own.

    Thread contract: one daemon thread named ``taskora-events``, started with the first event of a job, asleep while there is
    none; see :class:`~taskora_celery.background.Background`. The connection is opened with the first event. Nothing is repeated
    and no error leaves it; an outage is told once a minute, and the broker is left alone for a while. What waits is the latest
    progress of each running job.
    """

    def __init__(self, app: Any, settings: Settings, redactor: Redactor) -> None:
        # Weakly: the registry forgets an app's runtime only when nothing in it holds the app.
        self._app: Callable[[], Any] = ref(app)
        self._mode = settings.flower_events
        self._flag: WatchFlag | None = None
        self.redactor = redactor
        self._waiting: dict[int, EventSink] = {}
        self._lock = threading.Lock()
        self._dispatcher: Any = None
        self._outage = Outage()
        self._thread = Background("taskora-events", self._turn)

    @property
    def watched(self) -> bool:
        """Whether this worker sends task events."""
        if self._flag is None:
            self._flag = WatchFlag.of(self._app())
        return bool(self._flag)

    @property
    def sticky(self) -> bool:
        """Whether the text is to stay when the outcome has taken its place."""
        return self._mode == "sticky"

    def sink_for(self, task: Any, request: Any, started: float | None = None) -> EventSink | None:
        """Return where a job's progress goes, None where it makes no events; it began at ``started`` (seconds), or now."""
        return (
            EventSink(self, task, request, time.time() if started is None else started)
            if self._mode and task.send_events
            else None
        )

    def offer(self, sink: EventSink) -> None:
        """Send what a job has to show, soon."""
        self._waiting[id(sink)] = sink
        self._thread.start()
        self._thread.wake()

    def retried(self, hostname: str, job_id: str, name: str, reason: str) -> None:
        """Say that a job is not running any more, and why, and will be run again; blocks for a round trip, and is bounded.

        To be called before its message can be received again: after the next start it would be a lie.
        """
        app = self._app()
        task = None if app is None else app.tasks.get(name)
        if self._mode and self.watched and getattr(task, "send_events", True):
            reason = cut_line(self.redactor.text(reason, "reason"), LINE_CHARS)
            self.send(RETRIED, hostname, {"uuid": job_id, "name": name, "exception": reason, "traceback": ""})

    def send(self, kind: str, hostname: str, fields: dict[str, Any]) -> bool:
        """Send one event now; say whether the broker took it. Blocks for a round trip, and is bounded."""
        with self._lock:
            if self._outage.closed_at(time.monotonic()):
                return False
            try:
                self._dispatcher_of(hostname).send(kind, **fields)
            except Exception as exc:  # noqa: BLE001 - any transport's error: it is only an event
                self._hang_up()
                if self._outage.failed(time.monotonic()):
                    logger.warning("events for monitors cannot be sent: %s; jobs go on", exc)
                return False
            self._outage.succeeded()
            return True

    def close(self) -> None:
        """End the thread, and give up the connection."""
        self._thread.stop()
        if self._lock.acquire(timeout=CLOSE_TIMEOUT):
            self._hang_up()
            self._lock.release()

    def _turn(self) -> float | None:
        while self._waiting:
            for key in list(self._waiting):  # copied in one step: meanwhile jobs have more to show
                sink = self._waiting.pop(key)
                if not sink.send():
                    self._waiting[key] = sink
                    return max(self._outage.ask_at - time.monotonic(), 0.05)
        return None

    def _dispatcher_of(self, hostname: str) -> Any:
        if self._dispatcher is not None and self._dispatcher.hostname != hostname:
            self._hang_up()
        if self._dispatcher is None:
            app = self._app()
            driver = app.connection_for_write().transport.driver_type
            connection = app.connection_for_write(transport_options=_OPTIONS.get(driver), connect_timeout=ANSWER_TIMEOUT)
            try:
                # A producer would connect by itself, but sleeps for seconds between its attempts.
                connection.ensure_connection(max_retries=0)
                self._dispatcher = app.events.Dispatcher(
                    connection, hostname, channel=connection.default_channel, buffer_while_offline=False
                )  # fmt: skip
            except BaseException:
                connection.collect(socket_timeout=ANSWER_TIMEOUT)
                raise
        return self._dispatcher

    def _hang_up(self) -> None:
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            with suppress(Exception):  # it may be broken, which is why it is given up
                dispatcher.connection.collect(socket_timeout=ANSWER_TIMEOUT)


class EventSink:
    """One job's progress as events that tell all of it: a monitor that has just begun to listen learns what is running.

    Written by the reporter's thread; sent by the sender's; closed by the job's own before its outcome is known to anybody.
    """

    __slots__ = ("_closed", "_lock", "_request", "_sender", "_since", "_started", "_task", "_value")

    def __init__(self, sender: EventSender, task: Any, request: Any, started: float) -> None:
        self._sender = sender
        self._task = task
        self._request = ref(request)
        self._started = started
        self._lock = threading.Lock()
        self._closed = False
        #: The latest plain value that was not sent, with its instant in milliseconds since the epoch.
        self._value: tuple[Any, int] | None = None
        #: The percentage of the first report and its instant: a job that goes on from a checkpoint begins in the middle.
        self._since: tuple[float, int] | None = None

    def write(self, value: Any) -> None:
        """Show a progress value where somebody watches; never blocks on I/O."""
        if self._sender.watched:
            self._value = value, int(time.time() * 1000)
            self._sender.offer(self)

    def close(self) -> None:
        """Return when no event is on its way, but for one that the broker does not take; none comes after this."""
        taken = self._lock.acquire(timeout=CLOSE_TIMEOUT)
        self._closed = True
        if taken:
            self._lock.release()

    def send(self) -> bool:
        """Send what is to be shown; say whether nothing is left to be sent."""
        with self._lock:
            request, said = self._request(), self._value
            if self._closed or request is None or said is None:
                return True
            if not self._sender.send(STARTED, request.hostname, self._fields(request, *said)):
                return False
            if said is self._value:
                self._value = None
            return True

    def _fields(self, request: Any, value: Any, at_ms: int) -> dict[str, Any]:
        attempt, limit = attempt_of(request.retries), max_attempts(self._task)
        share = percent_of(value)
        again = "" if attempt == 1 else f"attempt {attempt}" + ("" if limit is None else f"/{limit}")
        line = progress_line(value, self._left(share, at_ms), again)
        fields = {
            "uuid": request.id, "name": self._task.name, "started": self._started, "retries": request.retries,
            "attempt": attempt, "max_attempts": limit, "progress": _numbers(value, share), "result": line,
        }  # fmt: skip
        return bounded(fields, self._arguments(request), line if self._sender.sticky else "")

    def _left(self, share: float | None, at_ms: int) -> str:
        if share is None:
            return ""
        if self._since is None or share < self._since[0]:  # the first report, or a new round
            self._since = share, at_ms
        soon = at_ms - self._since[1] < SOONEST_MS
        left = None if soon else time_left(share, at_ms, self._since, int(time.time() * 1000))
        return "" if left is None else f"{duration_text(left)} left"

    def _arguments(self, request: Any) -> dict[str, str]:
        """Return the arguments as Celery's own events show them, without the secrets that can be told by their name."""
        shown = {"args": request.argsrepr or saferepr(request.args), "kwargs": request.kwargsrepr or saferepr(request.kwargs)}
        return {name: self._sender.redactor.text(text, "arguments") for name, text in shown.items()}


def _numbers(value: Any, share: float | None) -> dict[str, Any]:
    """Return plain progress as ``current``, ``total``, ``percent`` and ``message``, as far as it has them."""
    shape = value if isinstance(value, Mapping) else {"current": value, "total": None if share is None else 100}
    found = {key: shape[key] for key in ("current", "total") if _is_number(shape.get(key))}
    if share is not None:
        found["percent"] = share
    if shape.get("message"):
        found["message"] = cut_line(str(shape["message"]), LINE_CHARS)
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def bounded(fields: dict[str, Any], arguments: dict[str, str], before: str = "") -> dict[str, Any]:
    """Return the fields of an event of at most :data:`EVENT_BYTES`, with as much of the arguments as there is room for.

    ``before`` is put before the positional arguments.
    """
    for chars in ARGUMENT_CHARS:
        shown = {name: text if len(text) <= chars else text[:chars] + "…" for name, text in arguments.items()}
        if before:
            shown["args"] = f"[{before}] {shown['args']}"
        whole = {**fields, **shown}
        if len(json.dumps(whole)) <= EVENT_BYTES:
            return whole
    return {**fields, "progress": {}}
