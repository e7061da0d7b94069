"""The demo's course."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from example_project.demo.accident import Accident
from example_project.demo.board import Board
from example_project.demo.cancellation import Cancellation
from example_project.demo.jobs import Feed, JobView
from example_project.demo.panel import TITLE, brief, event_line, rows
from example_project.demo.processes import Processes
from example_project.demo.redis_server import RedisServer, own_redis, users_redis
from example_project.demo.show import Show, programme
from example_project.demo.stop import DemoError, Interrupted, Stop
from example_project.demo.summary import (
    attempts_table,
    deliveries_table,
    further,
    pages_table,
    report_table,
    rows_table,
    words_table,
)
from example_project.demo.terminal import Screen
from example_project.demo.worker import Worker
from example_project.flaky_server import FlakyServer

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from taskora_celery import JobHandle
    from taskora_celery.records import Event

__all__ = ["Run"]

#: Seconds between two drawings of the panel.
FRAME = 0.1
#: So long, in seconds, may nothing at all happen to a job that has not ended.
SILENCE = 120.0
#: Seconds that a result which is there already may take.
RESULT_TIMEOUT = 10.0

#: What would take Celery away from the Redis that the demo has chosen.
_OVERRIDES = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL", "CELERY_RESULT_BACKEND")


class Run:
    """One run, from the Redis to the report."""

    def __init__(self, screen: Screen, stop: Stop, options: argparse.Namespace) -> None:
        self._screen = screen
        self._stop = stop
        self._options = options
        self._workers: list[Worker] = []
        self._views: list[JobView] = []
        #: What happens to the one job of ``--kill`` and ``--cancel``; None without them.
        self._scene: Accident | Cancellation | None = None

    def run(self) -> int:
        """Bring everything up, run the jobs, and take everything down; return the exit code.

        :raises DemoError: something is missing, or a worker failed.
        :raises Interrupted: a signal came.
        """
        with self._processes() as processes, FlakyServer() as pages:
            server = self._redis(processes)
            self._start_workers(processes, server)
            if self._options.board:
                self._show_board(processes, server, pages)
            self._send(pages, processes.directory)
            self._watch(server)
            return self._finish(server)

    @contextmanager
    def _processes(self) -> Iterator[Processes]:
        processes = Processes()
        try:
            yield processes
        finally:
            try:
                self._farewell()
            finally:  # also where the terminal is gone
                processes.close(self._stop)

    def _farewell(self) -> None:
        self._screen.close()
        if self._stop.name is not None:
            what = "board, workers and Redis" if self._options.board else "worker and Redis"
            self._screen.print(f"\n{self._stop.name}: stopping {what} (Ctrl-C again: at once)")

    def _redis(self, processes: Processes) -> RedisServer:
        url = os.environ.get("REDIS_URL")
        server = users_redis(url) if url else own_redis(processes, self._stop)
        _point_at(server.url)
        title = self._screen.style("taskora_celery demo", "bold")
        origin = "started for the demo" if server.own else "from REDIS_URL"
        self._screen.print(title, f"  Redis {server.version} on {server.address}, {origin}")
        return server

    def _start_workers(self, processes: Processes, server: RedisServer) -> None:
        for name in ("w1@demo", "w2@demo") if self._options.kill or self._options.board else (None,):
            worker = Worker(processes, self._options.pool, server.url, name)
            self._screen.print(f"  $ {worker.command}")
            self._workers.append(worker)
        seconds = max(worker.wait_ready(self._stop) for worker in self._workers)
        self._screen.print(f"  ready after {seconds:.1f} s", "")

    def _show_board(self, processes: Processes, server: RedisServer, pages: FlakyServer) -> NoReturn:
        """Show jobs on the board, and send more of them, until a signal comes."""
        board = Board(processes, server.url)
        self._screen.print(f"  $ {board.command}")
        address = board.wait_ready(self._stop)
        text = "Jobs are sent in turns until Ctrl-C. Their board, with a token that lets this browser in:"
        self._screen.print("", f"  {text}", "", f"  {self._screen.style(address, 'bold')}", "")
        show = Show(self._screen, programme(pages.url, processes.directory, self._root()))
        try:
            while True:
                self._stop.check()
                server.check()
                board.check()
                self._check_workers()
                self._screen.update(show.turn(FRAME), rows(self._screen, show.views, time.time()), "")
        except Interrupted:
            if not server.own:
                show.withdraw("the demo has ended")
            raise

    def _send(self, pages: FlakyServer, directory: Path) -> None:
        """Send the jobs, the short ones first: in the solo pool one runs after the other. A scene has one job."""
        from example_project.tasks import fetch_page, fetch_pages, index_sources, pack_sources, partial_of, word_count

        root = self._root()
        if self._options.cancel:
            data = {**root, "target": str(directory / "sources.tar.xz")}
            pack = _view("pack_sources", pack_sources.delay(data))
            self._views.append(pack)
            self._scene = Cancellation(self._screen, pack, partial_of(data))
            return
        if not self._options.kill:
            text = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
            self._views.append(_view("word_count", word_count.delay(text)))
            self._views.append(_view("fetch_page", fetch_page.delay({"url": f"{pages.url}/orders"})))
            paths = (*(f"steady/{n}" for n in range(1, 11)), "invoices", "customers")
            self._views.append(_view("fetch_pages", fetch_pages.delay({"urls": [f"{pages.url}/{path}" for path in paths]})))
        index = _view("index_sources", index_sources.delay(root))
        self._views.append(index)
        if self._options.kill:
            self._scene = Accident(self._screen, index, self._workers)

    def _root(self) -> dict[str, str]:
        return {"root": str(self._options.root)} if self._options.root else {}

    def _watch(self, server: RedisServer) -> None:
        """Show what happens until all jobs have ended."""
        feed, heard = Feed(), time.monotonic()
        for view in self._views:
            feed.follow(view)
        while not all(view.ended for view in self._views):
            self._stop.check()
            server.check()
            self._check_workers()
            news = feed.take(FRAME)
            heard = time.monotonic() if news else heard
            if time.monotonic() - heard > SILENCE:
                raise DemoError(f"Nothing has happened for {SILENCE:g} s. {self._tails()}")
            lines = [line for view, event in news if (line := self._take(view, event)) is not None]
            self._show(lines)

    def _show(self, lines: list[str]) -> None:
        now = time.time()
        scene = self._scene
        if scene is None:
            self._screen.update(lines, rows(self._screen, self._views, now), brief(self._views, now))
            return
        lines += scene.turn()
        panel = [*rows(self._screen, self._views, now), *scene.rows(TITLE)]
        self._screen.update(lines, panel, f"{brief(self._views, now)} | {scene.brief()}")

    def _take(self, view: JobView, event: Event | None) -> str | None:
        if event is None:
            view.end(view.handle.status().state)
            return None
        line = event_line(self._screen, view, event) if self._scene is None else self._scene.event_line(event)
        view.apply(event)
        return line

    def _finish(self, server: RedisServer) -> int:
        self._screen.close()
        wanted = "REVOKED" if self._options.cancel else "SUCCESS"
        failed = [view for view in self._views if view.state != wanted]
        if failed:
            told = "\n".join(f"{view.title} ended as {view.state}: {_result(view)!r}" for view in failed)
            raise DemoError(f"{told}\n{self._tails()}")
        self._report()
        self._screen.print(*further(self._screen, server, self._views[-1], running=self._options.stay))
        while self._options.stay:
            self._stop.sleep(1.0)
            self._check_workers()
        return 0

    def _report(self) -> None:
        *short, last = self._views
        lines: list[str] = []
        if short:
            words, page, pages = short
            lines += words_table(self._screen, _result(words))
            lines += attempts_table(self._screen, _result(page), list(page.handle.history()))
            lines += pages_table(self._screen, _result(pages), (pages.ended_at or 0.0) - pages.sent_at)
        if isinstance(self._scene, Cancellation):
            lines += rows_table(self._screen, last.title, self._scene.table())
        else:
            lines += report_table(self._screen, _result(last), (last.ended_at or 0.0) - last.sent_at)
        if isinstance(self._scene, Accident):
            lines += deliveries_table(self._screen, list(last.handle.history()))
        self._screen.print(*lines)

    def _check_workers(self) -> None:
        for worker in self._workers:
            worker.check()

    def _tails(self) -> str:
        return "\n".join(worker.tail() for worker in self._workers)


def _result(view: JobView) -> Any:
    """Return the result of a job that has ended; where it failed, its exception."""
    return view.handle.get(timeout=RESULT_TIMEOUT, propagate=False)


def _point_at(url: str) -> None:
    """Make the app of this process use the Redis that the worker uses."""
    from example_project import app

    for name in _OVERRIDES:
        os.environ.pop(name, None)
    app.conf.update(broker_url=url, result_backend=url)


def _view(title: str, handle: Any) -> JobView:
    # Celery's own type of `delay` is AsyncResult; with this app's task_cls it is a JobHandle.
    return JobView(title, cast("JobHandle", handle))
