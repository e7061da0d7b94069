"""The demo's command line and its course."""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from kombu.exceptions import OperationalError
from redis import RedisError

from example_project.demo.jobs import Feed, JobView
from example_project.demo.panel import brief, event_line, rows
from example_project.demo.processes import Processes
from example_project.demo.redis_server import RedisServer, own_redis, users_redis
from example_project.demo.stop import DemoError, Interrupted, Stop
from example_project.demo.summary import attempts_table, further, report_table, words_table
from example_project.demo.terminal import OutputGoneError, Screen
from example_project.demo.worker import POOLS, Worker, require_pool
from example_project.flaky_server import FlakyServer
from taskora_celery import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from taskora_celery import JobHandle
    from taskora_celery.records import Event

__all__ = ["main"]

#: Seconds between two drawings of the panel.
FRAME = 0.1
#: So long, in seconds, may nothing at all happen to a job that has not ended.
SILENCE = 120.0
#: Seconds that a result which is there already may take.
RESULT_TIMEOUT = 10.0

#: What would take Celery away from the Redis that the demo has chosen.
_OVERRIDES = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL", "CELERY_RESULT_BACKEND")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit code: 0, 1 (a job or the worker failed), 2 (something is missing), 130 (Ctrl-C)."""
    options = _options(arguments)
    stop = Stop()
    stop.install()
    stdout = cast("TextIO", sys.stdout)
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    screen = Screen(stdout)
    try:
        require_pool(options.pool)
        return _Demo(screen, stop, options).run()
    except DemoError as exc:
        screen.close()
        print(f"\n{exc}", file=sys.stderr)
        return exc.code
    except Interrupted as exc:
        return exc.code
    except (StoreUnavailableError, RedisError, OperationalError) as exc:
        screen.close()
        print(f"\nRedis does not answer any more: {exc}", file=sys.stderr)
        return 1
    except OutputGoneError:
        # Nothing more can be said, not even what Python still holds in its buffer at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m example_project.demo",
        description="Runs three jobs in a real Celery worker and follows them.",
        epilog="REDIS_URL names the Redis to use; without it the demo starts one of its own.",
    )
    parser.add_argument("--pool", choices=POOLS, default="prefork", help="the worker's pool (default: %(default)s)")
    parser.add_argument("--root", type=_directory, help="the source tree to read (default: Python's standard library)")
    parser.add_argument("--stay", action="store_true", help="leave worker and Redis running at the end, until Ctrl-C")
    return parser.parse_args(arguments)


def _directory(value: str) -> Path:
    path = Path(value).expanduser().resolve()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"no directory: {value}")
    return path


class _Demo:
    """One run, from the Redis to the report."""

    def __init__(self, screen: Screen, stop: Stop, options: argparse.Namespace) -> None:
        self._screen = screen
        self._stop = stop
        self._options = options

    def run(self) -> int:
        """Bring everything up, run the jobs, and take everything down; return the exit code.

        :raises DemoError: something is missing, or the worker failed.
        :raises Interrupted: a signal came.
        """
        with self._processes() as processes, FlakyServer() as pages:
            server = self._redis(processes)
            worker = self._worker(processes, server)
            views = _send(self._options.root, pages)
            self._watch(views, server, worker)
            return self._finish(views, server, worker)

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
            self._screen.print(f"\n{self._stop.name}: stopping worker and Redis (Ctrl-C again: at once)")

    def _redis(self, processes: Processes) -> RedisServer:
        url = os.environ.get("REDIS_URL")
        server = users_redis(url) if url else own_redis(processes, self._stop)
        _point_at(server.url)
        title = self._screen.style("taskora_celery demo", "bold")
        origin = "started for the demo" if server.own else "from REDIS_URL"
        self._screen.print(title, f"  Redis {server.version} on {server.address}, {origin}")
        return server

    def _worker(self, processes: Processes, server: RedisServer) -> Worker:
        worker = Worker(processes, self._options.pool, server.url)
        self._screen.print(f"  $ {worker.command}")
        seconds = worker.wait_ready(self._stop)
        self._screen.print(f"  ready after {seconds:.1f} s", "")
        return worker

    def _watch(self, views: Sequence[JobView], server: RedisServer, worker: Worker) -> None:
        """Show what happens until all jobs have ended."""
        feed, heard = Feed(), time.monotonic()
        for view in views:
            feed.follow(view)
        while not all(view.ended for view in views):
            self._stop.check()
            server.check()
            worker.check()
            news = feed.take(FRAME)
            heard = time.monotonic() if news else heard
            if time.monotonic() - heard > SILENCE:
                raise DemoError(f"Nothing has happened for {SILENCE:g} s. {worker.tail()}")
            lines = [line for view, event in news if (line := self._take(view, event)) is not None]
            now = time.time()
            self._screen.update(lines, rows(self._screen, views, now), brief(views, now))

    def _take(self, view: JobView, event: Event | None) -> str | None:
        if event is None:
            view.end(view.handle.status().state)
            return None
        line = event_line(self._screen, view, event)
        view.apply(event)
        return line

    def _finish(self, views: Sequence[JobView], server: RedisServer, worker: Worker) -> int:
        self._screen.close()
        failed = [view for view in views if view.state != "SUCCESS"]
        if failed:
            told = "\n".join(f"{view.title} ended as {view.state}: {_result(view)!r}" for view in failed)
            raise DemoError(f"{told}\n{worker.tail()}")
        self._report(*views)
        index = views[-1]
        self._screen.print(*further(self._screen, server, index, running=self._options.stay))
        while self._options.stay:
            self._stop.sleep(1.0)
            worker.check()
        return 0

    def _report(self, words: JobView, page: JobView, index: JobView) -> None:
        seconds = (index.ended_at or 0.0) - index.sent_at
        self._screen.print(
            *words_table(self._screen, _result(words)),
            *attempts_table(self._screen, _result(page), list(page.handle.history())),
            *report_table(self._screen, _result(index), seconds),
        )


def _result(view: JobView) -> Any:
    """Return the result of a job that has ended; where it failed, its exception."""
    return view.handle.get(timeout=RESULT_TIMEOUT, propagate=False)


def _point_at(url: str) -> None:
    """Make the app of this process use the Redis that the worker uses."""
    from example_project import app

    for name in _OVERRIDES:
        os.environ.pop(name, None)
    app.conf.update(broker_url=url, result_backend=url)


def _send(root: Path | None, pages: FlakyServer) -> tuple[JobView, JobView, JobView]:
    """Send the three jobs, the short ones first: in the solo pool one runs after the other."""
    from example_project.tasks import fetch_page, index_sources, word_count

    text = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
    return (
        _view("word_count", word_count.delay(text)),
        _view("fetch_page", fetch_page.delay({"url": f"{pages.url}/orders"})),
        _view("index_sources", index_sources.delay({"root": str(root)} if root else {})),
    )


def _view(title: str, handle: Any) -> JobView:
    # Celery's own type of `delay` is AsyncResult; with this app's task_cls it is a JobHandle.
    return JobView(title, cast("JobHandle", handle))
