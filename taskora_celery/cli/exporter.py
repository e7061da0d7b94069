"""``jobs exporter``: Prometheus metrics of the app's jobs."""

from __future__ import annotations

from contextlib import suppress

import click

from taskora_celery.cli import serving
from taskora_celery.cli.session import JobsCommand, Session
from taskora_celery.metrics.access import Access
from taskora_celery.metrics.collect import Collector
from taskora_celery.metrics.server import MetricsServer

__all__ = ["PORT", "command"]

#: Not in the list of Prometheus's default ports, which is full from 9100 to 9999; 9808 there is celery-exporter's.
PORT = 10818


@click.command(cls=JobsCommand, name="exporter", short_help="Serve Prometheus metrics.")
@serving.host
@serving.port(PORT)
@click.option(
    "--auth", envvar="TASKORA_EXPORTER_AUTH", metavar="SECRET",
    help="user:password (HTTP Basic) or a token (Bearer). Better in TASKORA_EXPORTER_AUTH: a command line is no secret.",
)  # fmt: skip
@serving.allow_host("server")
@click.pass_obj
def command(session: Session, host: str, port: int, auth: str | None, allow_host: tuple[str, ...]) -> None:
    """Serve Prometheus metrics of jobs under /metrics, until SIGTERM or Ctrl-C."""
    serving.check_secret(auth, host)
    collector, access = Collector(session.reader.store), Access(auth, allow_host)
    server = serving.listening(host, port, lambda: MetricsServer((host.strip("[]"), port), collector, access))
    session.on_interrupt = "The exporter has ended."
    serving.end_by_sigterm()
    session.output.write(f"metrics: {server.url}")
    with server, suppress(SystemExit):
        server.serve_forever()
