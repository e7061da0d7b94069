"""A server for an ASGI application, and a client that reads Server-Sent Events as a browser does."""

from __future__ import annotations

import contextlib
import json
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn

from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def served(application: Any) -> Iterator[str]:
    """Serve an ASGI application by uvicorn, in a thread, on a free port."""
    server = uvicorn.Server(uvicorn.Config(application, port=0, log_level="warning", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started, "the server")
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@dataclass
class Frame:
    """One event, as a browser would hand it on."""

    name: str
    id: str
    data: Any

    def holds(self, name: str, part: str) -> bool:
        """Whether it is called so, and has this text."""
        return self.name == name and part in json.dumps(self.data, ensure_ascii=False)


class Reading:
    """One connection of a client."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.comments = 0
        self.lines = response.iter_lines()

    def next(self) -> Frame | None:
        """The next event, None at the end. Comments are counted."""
        fields: dict[str, str] = {}
        for line in self.lines:
            if not line:
                if "event" in fields:
                    return Frame(fields["event"], fields.get("id", ""), json.loads(fields["data"]))
                fields = {}
                continue
            name, _, value = line.partition(":")
            if not name:
                self.comments += 1
                continue
            assert name not in fields, "each frame has one line of each kind"
            fields[name] = value.removeprefix(" ")
        return None

    def rest(self) -> list[Frame]:
        """All that comes until the end."""
        return list(iter(self.next, None))


@contextlib.contextmanager
def read(url: str, last_id: str | None = None) -> Iterator[Reading]:
    """Open a stream, as a browser that comes back does where `last_id` is given."""
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    with httpx.stream("GET", url, headers=headers, timeout=30) as response:
        assert response.status_code == 200
        yield Reading(response)


def shown(frames: list[Frame]) -> list[tuple[str, Any]]:
    """What a reader of the tests wants to know of them."""
    what = {"log": "message", "state": "state", "outcome": "state", "cancel": "phase"}
    return [(frame.name, frame.data[what[frame.name]] if frame.name in what else frame.data) for frame in frames]
