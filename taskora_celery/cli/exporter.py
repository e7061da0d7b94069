"""``jobs exporter``: Prometheus metrics of the app's jobs."""

from __future__ import annotations

import signal
from contextlib import suppress

import click

from taskora_celery.cli.session import FAILED, USAGE, Failure, JobsCommand, Session
from taskora_celery.metrics.access import Access, is_loopback
from taskora_celery.metrics.collect import Collector
from taskora_celery.metrics.server import MetricsServer

__all__ = ["PORT", "command"]

#: Not in the list of Prometheus's default ports, which is full from 9100 to 9999; 9808 there is celery-exporter's.
PORT = 10818


@click.command(cls=JobsCommand, name="exporter", short_help="Serve Prometheus metrics.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; another than loopback needs --auth.")
@click.option("--port", type=click.IntRange(0, 65_535), default=PORT, show_default=True, help="Port to listen on, 0 for any.")
@click.option(
    "--auth", envvar="TASKORA_EXPORTER_AUTH", metavar="SECRET",
    help="user:password (HTTP Basic) or a token (Bearer). Better in TASKORA_EXPORTER_AUTH: a command line is no secret.",
)  # fmt: skip
@click.option("--allow-host", multiple=True, metavar="NAME", help="A name under which this server may be asked for; repeatable.")
@click.pass_obj
def command(session: Session, host: str, port: int, auth: str | None, allow_host: tuple[str, ...]) -> None:
    """Serve Prometheus metrics of jobs under /metrics, until SIGTERM or Ctrl-C."""
    if auth is not None:
        _check_secret(auth)
    if auth is None and not is_loopback(host):
        raise Failure(f"--host {host} can be reached from outside: give --auth, or listen on 127.0.0.1", USAGE)
    collector = Collector(session.reader.store)
    try:
        server = MetricsServer((host, port), collector, Access(auth, allow_host))
    except OSError as exc:
        raise Failure(f"cannot listen on {host}:{port}: {exc}", FAILED) from exc
    session.on_interrupt = "The exporter has ended."
    session.output.write(f"metrics: {server.url}")
    signal.signal(signal.SIGTERM, _stop)
    with server, suppress(SystemExit):
        server.serve_forever()


def _check_secret(auth: str) -> None:
    """Look whether a client can send this.

    :raises Failure: it cannot.
    """
    if not auth.strip(": "):
        raise Failure("--auth is empty", USAGE)
    try:
        auth.encode()
    except UnicodeEncodeError as exc:
        raise Failure("--auth is no UTF-8 text", USAGE) from exc


def _stop(*_: object) -> None:
    raise SystemExit(0)
