"""A small web server that is busy, then down, then well: ``python -m example_project.flaky_server``.

The first request for a page is answered 429 with ``Retry-After``, the second 503, the third 200; then it starts over. Pages below
``/steady/`` are always well, those below ``/missing/`` are not there, and those below ``/busy/`` ask for a longer wait, once.
"""

from __future__ import annotations

import threading
from collections import Counter
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["FlakyServer"]

#: Seconds that the 429 asks for; below ``/busy/``.
RETRY_AFTER = 2
LONG_RETRY_AFTER = 20
_ANSWERS = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.OK)
_BUSY = "/busy/"
#: What other pages are answered, by the beginning of their paths.
_OTHER_ANSWERS = {
    "/steady/": (HTTPStatus.OK,),
    "/missing/": (HTTPStatus.NOT_FOUND,),
    _BUSY: (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.OK),
}
_PAGE = b"<!doctype html><title>Orders</title><h1>Orders</h1><p>All 42 of them have been shipped.</p>\n"


class FlakyServer(ThreadingHTTPServer):
    """Listens on a loopback port; as a context manager it serves from a daemon thread until the block ends."""

    daemon_threads = True
    #: Clients that may wait to be accepted at once; with the standard library's 5, some of a dozen come a second later.
    request_queue_size = 64

    def __init__(self, port: int = 0) -> None:
        """``port`` 0 takes a free one."""
        super().__init__(("127.0.0.1", port), _Handler)
        self._lock = threading.Lock()
        self._requests: Counter[str] = Counter()

    @property
    def url(self) -> str:
        """Where the server listens, without a slash at the end."""
        return f"http://127.0.0.1:{self.server_port}"

    def next_answer(self, path: str) -> HTTPStatus:
        """Return what the next request for this page is answered."""
        answers = next((found for start, found in _OTHER_ANSWERS.items() if path.startswith(start)), _ANSWERS)
        with self._lock:
            answer = answers[self._requests[path] % len(answers)]
            self._requests[path] += 1
            return answer

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), name="flaky-server", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: FlakyServer
    protocol_version = "HTTP/1.1"  # clients may keep their connections

    def do_GET(self) -> None:
        """Answer by the server's list."""
        answer = self.server.next_answer(self.path)
        body = _PAGE if answer is HTTPStatus.OK else f"{answer.value} {answer.phrase}\n".encode()
        self.send_response(answer)
        if answer is HTTPStatus.TOO_MANY_REQUESTS:
            self.send_header("Retry-After", str(LONG_RETRY_AFTER if self.path.startswith(_BUSY) else RETRY_AFTER))
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing: the job's own log tells what happened."""


def main() -> None:
    """Serve until Ctrl-C."""
    server = FlakyServer()
    print(f"listening on {server.url} - Ctrl-C stops")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
