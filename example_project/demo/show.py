"""What goes on behind the board of ``--board``: jobs of all kinds, sent in turns for as long as somebody looks."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any, cast

from example_project.demo.cancellation import CANCEL_AT, REASON
from example_project.demo.jobs import Feed, JobView
from example_project.demo.panel import event_line, line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from example_project.demo.terminal import Screen
    from taskora_celery import JobHandle
    from taskora_celery.records import Event

__all__ = ["Show", "due", "programme"]

#: Seconds between two jobs; so few are sent without a pause, and no more than so many are under way. One that waits for its next
#: attempt is not.
PACE = 1.0
FEW = 3
ENOUGH = 6
#: Jobs that have ended stay in the panel until so many others have.
ENDED_SHOWN = 4
_MARKS = {"SUCCESS": ("OK", "green"), "FAILURE": ("FAILED", "red"), "REVOKED": ("CANCEL", "red")}


def due(now: float, sent_at: float, active: int) -> bool:
    """Whether the next job is to be sent; both times are in seconds since the epoch."""
    return active < FEW or (active < ENOUGH and now - sent_at >= PACE)


def programme(pages: str, directory: Path, root: Mapping[str, str]) -> Iterator[JobView]:
    """Yield jobs without end; each is sent when it is asked for.

    ``pages`` is the address of a ``FlakyServer``, ``directory`` is for what is packed, and ``root`` names the source tree to
    read, if it is not the default one.
    """
    from example_project.tasks import fetch_page, fetch_pages, index_sources, pack_sources, word_count

    for turn in itertools.count(1):
        yield _view("index_sources", index_sources.delay(dict(root)))
        yield _view("fetch_page", fetch_page.delay({"url": f"{pages}/missing/{turn}"}))  # fails
        yield _view("pack_sources", pack_sources.delay({**root, "target": str(directory / f"sources-{turn}.tar.xz")}))
        yield _view("fetch_page", fetch_page.delay({"url": f"{pages}/busy/{turn}"}))  # waits long for its second attempt
        yield _view("fetch_page", fetch_page.delay({"url": f"{pages}/orders/{turn}"}))  # comes at its third
        paths = (*(f"steady/{n}" for n in range(1, 11)), f"invoices/{turn}", f"customers/{turn}")
        yield _view("fetch_pages", fetch_pages.delay({"urls": [f"{pages}/{path}" for path in paths]}))
        yield _view("index_sources", index_sources.delay({"root": f"/nonexistent/checkout-{turn}"}))  # fails
        yield _view("word_count", word_count.delay("One line of text, or two."))


class Show:
    """Sends the jobs of a programme, cancels one of a kind in the middle of its work, and says what comes of each."""

    def __init__(self, screen: Screen, jobs: Iterator[JobView]) -> None:
        self._screen = screen
        self._jobs = jobs
        self._feed = Feed()
        self._views: list[JobView] = []
        self._sent_at = 0.0

    @property
    def views(self) -> list[JobView]:
        """The jobs that go on, and the last that have ended."""
        return list(self._views)

    def turn(self, timeout: float) -> list[str]:
        """Send the next job if it is time, wait up to ``timeout`` seconds for what happens, and return the lines about that."""
        now = time.time()
        if due(now, self._sent_at, sum(not view.ended and view.next_at is None for view in self._views)):
            view, self._sent_at = next(self._jobs), now
            self._views.append(view)
            self._feed.follow(view)
        lines = [line for view, event in self._feed.take(timeout) if (line := self._take(view, event)) is not None]
        ended = [view for view in self._views if view.ended]
        for view in ended[:-ENDED_SHOWN]:
            self._views.remove(view)
        return lines

    def withdraw(self, reason: str) -> None:
        """Cancel what has not ended, so that no worker takes it up later; it is not waited for."""
        for view in self._views:
            if not view.ended:
                view.handle.cancel(reason)

    def _take(self, view: JobView, event: Event | None) -> str | None:
        if event is None:
            status = view.handle.status()
            view.end(status.state)
            mark, color = _MARKS.get(status.state, (status.state, ""))
            return line(self._screen, view, int(time.time() * 1000), mark, _outcome(view, status.reason), color)
        before = view.progress
        said = event_line(self._screen, view, event) if event.kind == "state" else None
        view.apply(event)
        if view.title == "pack_sources" and _share(before) < CANCEL_AT <= _share(view.progress):
            view.handle.cancel(REASON)
        return said


def _outcome(view: JobView, reason: str | None) -> str:
    tries = f"at attempt {view.attempt}, " if view.attempt > 1 else ""
    seconds = f"{tries}after {(view.ended_at or 0.0) - view.sent_at:.1f} s"
    return f"{seconds}: {reason}" if reason else seconds


def _share(progress: Any) -> float:
    return float(progress["percent"]) if isinstance(progress, dict) and progress.get("percent") is not None else 0.0


def _view(title: str, sent: Any) -> JobView:
    sent.backend.remove_pending_result(sent)  # nobody waits for its result: what is shown is what its record says
    # Celery's own type of `delay` is AsyncResult; with this app's task_cls it is a JobHandle.
    return JobView(title, cast("JobHandle", sent))
