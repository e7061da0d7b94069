"""One round through an app's workers and its broker: asked once in a while, for all who look.

Workers answer by Celery's remote control, which costs them and the broker a message each and takes as long as it is waited for.
So nobody asks for himself who wants to see them again and again.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import Any, ClassVar
from weakref import WeakKeyDictionary, ref

from taskora_celery.clock import SYSTEM_CLOCK, Clock
from taskora_celery.errors import StoreUnavailableError
from taskora_celery.inspecting import ANSWER_TIMEOUT, Answer, Round, answers_of
from taskora_celery.lease.resolve import connected
from taskora_celery.lease.waiting import Waiting, waiting_in
from taskora_celery.listing import load_tasks
from taskora_celery.looks import Looks
from taskora_celery.queues import queues_counted, queues_named
from taskora_celery.runtime import Runtime
from taskora_celery.texts import cut_line

__all__ = ["ASK_EVERY", "REMEMBERED_FOR", "Inspector"]

logger = logging.getLogger("taskora_celery")

#: Workers and broker are asked again after so many seconds at the earliest.
ASK_EVERY = 5.0
#: What a worker said of itself is remembered for so many seconds: one that is busy, or gone, is still known.
REMEMBERED_FOR = 3_600.0
#: So many workers are remembered, those that answered last.
WORKERS_REMEMBERED = 10_000
#: So many queues are looked at.
QUEUES_LOOKED_AT = 500
#: An error's text is cut to so many characters.
_ERROR_CHARS = 300


NO_BROADCASTS = "this broker has no broadcasts, so workers cannot be asked"


class Inspector:
    """Goes through the workers and the queues of one app, and remembers what workers said. Safe to use from several threads.

    :meth:`seen` goes in a thread of its own (``taskora-inspector``, see :class:`~taskora_celery.looks.Looks`), once in a while
    for all who ask; :meth:`look` goes at once and blocks. Not to be used over a fork: there :meth:`of` returns another.
    """

    _by_app: ClassVar[WeakKeyDictionary[Any, Inspector]] = WeakKeyDictionary()
    _registry_lock = threading.Lock()

    def __init__(self, app: Any, *, timeout: float = ANSWER_TIMEOUT, clock: Clock = SYSTEM_CLOCK) -> None:
        """``timeout`` is how long workers have to answer, in seconds. The app is not kept alive."""
        self._app = ref(app)
        self._timeout = timeout
        self._clock = clock
        self._pid = os.getpid()
        self._loaded = False
        self._looking = threading.Lock()
        self._answers: dict[str, Answer] = {}
        self._looks = Looks("taskora-inspector", self.look, ASK_EVERY, clock)

    @classmethod
    def of(cls, app: Any) -> Inspector:
        """Return the app's inspector in this process."""
        with cls._registry_lock:
            inspector = cls._by_app.get(app)
            if inspector is None or inspector._pid != os.getpid():  # noqa: SLF001 - this class's own
                inspector = cls._by_app[app] = cls(app)
            return inspector

    def seen(self, wait: float) -> Round | None:
        """Return the last round, which says how old it is, and begin another where it is time.

        Blocks for ``wait`` seconds at most; None where the first is not over by then.
        """
        return self._looks.get(wait)

    def look(self) -> Round:
        """Ask now: all workers, then the broker. Blocks for some seconds at most.

        What cannot be asked is said in the round, and not raised.
        """
        with self._looking:
            app, asked_ms = self._app(), int(self._clock.time() * 1000)
            if app is None:
                return Round(asked_ms, workers_error="the app is gone", queues_error="the app is gone")
            answers, workers_error = self._ask_workers(app)
            self._answers.update((answer.worker, answer) for answer in answers)
            names = sorted(self._queues(app))
            waiting, queues_error = _ask_broker(app, names[:QUEUES_LOOKED_AT])
            return Round(
                asked_ms, frozenset(answer.worker for answer in answers), self._remembered(asked_ms), workers_error, waiting,
                queues_error, max(len(names) - QUEUES_LOOKED_AT, 0),
            )  # fmt: skip

    def _ask_workers(self, app: Any) -> tuple[list[Answer], str | None]:
        """Return what workers answer, and why they could not be asked."""
        try:
            answers = answers_of(app, self._timeout)
        except Exception as exc:  # noqa: BLE001 - the transport's or the driver's: what they say is what is wrong
            return [], _text(exc)
        return ([], NO_BROADCASTS) if answers is None else (answers, None)

    def _remembered(self, now_ms: int) -> dict[str, Answer]:
        """Forget what is too old or too much, and return the rest."""
        kept = [answer for answer in self._answers.values() if now_ms - answer.at_ms <= REMEMBERED_FOR * 1000]
        kept.sort(key=lambda answer: -answer.at_ms)
        self._answers = {answer.worker: answer for answer in kept[:WORKERS_REMEMBERED]}
        return dict(self._answers)

    def _queues(self, app: Any) -> set[str]:
        if not self._loaded:
            self._loaded = True
            load_tasks(app)
        names = set(queues_named(app)).union(*(answer.queues or () for answer in self._answers.values()))
        store = Runtime.of(app).store
        if store is not None:
            try:
                names.update(queues_counted(store.counts()))
            except StoreUnavailableError as exc:  # whoever shows the jobs says so
                logger.debug("the counts cannot be read, so queues that only they name are not known: %s", exc)
        return names


def _ask_broker(app: Any, names: list[str]) -> tuple[dict[str, Waiting], str | None]:
    """Return what waits in these queues, and why the broker could not be asked."""
    try:
        with connected(app) as connection:
            return waiting_in(connection, names), None
    except Exception as exc:  # noqa: BLE001 - as above
        return {}, _text(exc)


def _text(exc: Exception) -> str:
    return cut_line(f"{type(exc).__name__}: {exc}", _ERROR_CHARS)
