"""A web server whose answers do not end by themselves."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

#: The body that is announced, and the part of it that comes.
ANNOUNCED, SENT = 1_000_000, 1_000
#: Seconds after which an answer goes on all the same.
PATIENCE = 60.0


class SlowPages(ThreadingHTTPServer):
    """``/whole`` answers; ``/body`` sends the begin of a body, ``/headers`` nothing at all. A request sets `asked`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked = threading.Event()
        self.over = threading.Event()

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), name="slow-pages", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: SlowPages

    def do_GET(self) -> None:
        if self.path != "/headers":
            self.send_response(200)
            self.send_header("Content-Length", str(SENT if self.path == "/whole" else ANNOUNCED))
            self.end_headers()
            self.wfile.write(b"x" * SENT)
            self.wfile.flush()
        self.server.asked.set()
        if self.path != "/whole":
            self.server.over.wait(PATIENCE)
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
