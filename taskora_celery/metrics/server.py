"""The exporter's HTTP server: ``/metrics`` and ``/-/healthy``, on the standard library."""

from __future__ import annotations

import logging
import socket
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from taskora_celery._version import __version__
from taskora_celery.metrics.access import Access
from taskora_celery.metrics.collect import Collector
from taskora_celery.metrics.text import OPENMETRICS, PROMETHEUS, exposition, wants_openmetrics

__all__ = ["MetricsServer"]

logger = logging.getLogger("taskora_celery.metrics")

#: A client has so many seconds to send its request, and to take the answer.
CLIENT_TIMEOUT = 10.0
_PLAIN = "text/plain; charset=utf-8"


class MetricsServer(ThreadingHTTPServer):
    """Serves a collector's samples until :meth:`shutdown`, each request in a daemon thread of its own."""

    daemon_threads = True
    # A restart must not wait for the last scrapes' connections; but no two servers share a port either.
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], collector: Collector, access: Access) -> None:
        """Bind ``address``; port 0 is any that is free.

        :raises OSError: the address is in use, or not this machine's.
        """
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)
        self.collector = collector
        self.access = access

    @property
    def url(self) -> str:
        """Where the metrics are."""
        host, port = self.server_address[:2]
        host = host.decode() if isinstance(host, bytes) else str(host)
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a scraper that went away in the middle is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: MetricsServer
    timeout = CLIENT_TIMEOUT
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def version_string(self) -> str:
        return f"taskora-celery/{__version__}"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the standard library's signature
        """Say nothing: a line for each scrape would be all that there is."""

    def _answer(self) -> None:
        access, path = self.server.access, self.path.partition("?")[0]
        if not access.knows(self.headers.get("Host")):
            self._send(HTTPStatus.MISDIRECTED_REQUEST, _PLAIN, "not a name of this server\n")
        elif path == "/-/healthy":
            self._send(HTTPStatus.OK, _PLAIN, "ok\n")
        elif not access.admits(self.headers.get("Authorization")):
            self._send(HTTPStatus.UNAUTHORIZED, _PLAIN, "not without --auth's secret\n", {"WWW-Authenticate": access.scheme})
        elif path == "/metrics":
            self._metrics()
        else:
            self._send(HTTPStatus.NOT_FOUND, _PLAIN, "there are /metrics and /-/healthy\n")

    def _metrics(self) -> None:
        openmetrics = wants_openmetrics(self.headers.get("Accept", ""))
        try:
            text = exposition(self.server.collector.samples(), openmetrics=openmetrics)
        except Exception:  # the outer edge of this request's thread; a store that is away is among the samples
            logger.exception("the metrics cannot be made")
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, _PLAIN, "the exporter's own log says what went wrong\n")
        else:
            self._send(HTTPStatus.OK, OPENMETRICS if openmetrics else PROMETHEUS, text)

    def _send(self, status: HTTPStatus, kind: str, text: str, headers: dict[str, str] | None = None) -> None:
        body = text.encode("utf-8", "replace")
        self.send_response(status)
        for name, value in {
            "Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff", **(headers or {}),
        }.items():  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
