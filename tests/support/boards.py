"""A board over a Redis that holds jobs, served by a real uvicorn, and a client that is let in."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from taskora_celery.board.access import SecretAuth
from taskora_celery.board.app import Board
from taskora_celery.board.server import BoardServer, bound, url_of
from taskora_celery.runtime import Runtime
from tests.support.browser import Frame, Reading
from tests.support.executions import ScriptedExecution
from tests.support.scripted_jobs import shop_app
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

    from taskora_celery.store.protocol import JobStore

SECRET = "a-secret-of-the-tests"
#: What a browser sends with a form of the page itself.
FROM_HERE = {"Sec-Fetch-Site": "same-origin"}


@contextlib.contextmanager
def running(board: Board, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve a board in a thread, on a free port; yield its address, without a slash at its end."""
    listener = bound(host, 0)
    server = BoardServer(board)
    thread = threading.Thread(target=server.serve_on, args=(listener,), daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started, "the server")
        yield url_of(listener).rstrip("/")
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
        assert not thread.is_alive(), "a stream kept the server"


class Stream:
    """What a viewer is told."""

    def __init__(self, response: httpx.Response) -> None:
        self.told: list[Frame] = []
        self.reading = Reading(response)

    def next(self) -> Frame:
        """The next event; fails where the stream has ended."""
        frame = self.reading.next()
        assert frame is not None, f"the stream ended; it had told {[frame.name for frame in self.told]}"
        self.told.append(frame)
        return frame

    def until(self, name: str, part: str = "") -> Frame:
        """The next event of this name that holds this text."""
        while True:
            event = self.next()
            if event.holds(name, part):
                return event

    def until_all(self, *wanted: tuple[str, str]) -> None:
        """Read on until each of these, a name and a text, has been told, in any order."""
        while not all(any(event.holds(name, part) for event in self.told) for name, part in wanted):
            self.next()


class Client(httpx.Client):
    """A browser that was let in."""

    @contextlib.contextmanager
    def watching(self, path: str, last_id: str | None = None) -> Iterator[Stream]:
        """Open a stream."""
        headers = {} if last_id is None else {"Last-Event-ID": last_id}
        with self.stream("GET", path, headers=headers, timeout=10) as response:
            assert response.status_code == 200, response.read()
            yield Stream(response)


def client_of(url: str, secret: str = SECRET) -> Client:
    """A client that sends the secret with each request."""
    return Client(base_url=url, headers={"Authorization": f"Bearer {secret}"}, timeout=20)


class Shop:
    """An app's jobs, and their board."""

    def __init__(self, app: Celery, url: str, board: Board) -> None:
        self.app = app
        self.url = url
        self.board = board
        self.store: JobStore = Runtime.of(app).readable()

    def client(self) -> Client:
        """A client that is let in."""
        return client_of(self.url)

    def begin(self, job_id: str, name: str = "import.csv", **fields: Any) -> ScriptedExecution:
        """Begin a job now."""
        now_ms = int(time.time() * 1000)
        job = ScriptedExecution(self.store, job_id, name=name, now_ms=now_ms, created_ms=now_ms - 1000, **fields)
        self.store.note([job_id], [], now_ms)
        return job

    def end(self, job: ScriptedExecution, *how: Any) -> None:
        """End a job now."""
        job.now_ms = int(time.time() * 1000)
        job.end(*how)
        self.store.note([], [job.id], job.now_ms)


@pytest.fixture
def shop_board(redis_url: str) -> Iterator[Shop]:
    """A board of an app without jobs, on the test's database."""
    app = shop_app(redis_url)
    board = Board(app, SecretAuth(SECRET), (), read_only=False)
    with running(board) as url:
        yield Shop(app, url, board)
    Runtime.forget(app)
