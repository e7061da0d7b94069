"""``jobs exporter``: Prometheus metrics of the app's jobs."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import click

from taskora_celery.cli.apps import app_of

if TYPE_CHECKING:
    from taskora_celery.metrics.server import MetricsServer

__all__ = ["PORT", "command"]

#: Free in the list of Prometheus's default ports, which is full from 9100 to 9999; 9808 is celery-exporter's.
PORT = 10818


@click.command("exporter")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; another than loopback needs --auth.")
@click.option("--port", default=PORT, show_default=True, help="Port to listen on, 0 for any.")
@click.option(
    "--auth", envvar="TASKORA_EXPORTER_AUTH", metavar="SECRET",
    help="user:password (HTTP Basic) or a token (Bearer). Better in TASKORA_EXPORTER_AUTH: a command line is no secret.",
)  # fmt: skip
@click.option("--allow-host", multiple=True, metavar="NAME", help="A name under which this server may be asked for; repeatable.")
@click.pass_context
def command(ctx: click.Context, host: str, port: int, auth: str | None, allow_host: tuple[str, ...]) -> None:
    """Serve Prometheus metrics of jobs under /metrics, until SIGTERM or Ctrl-C."""
    from taskora_celery.metrics.access import Access, is_loopback

    app = app_of(ctx)
    if auth is not None and not auth.strip(": "):
        raise click.UsageError("--auth is empty")
    if auth is None and not is_loopback(host):
        raise click.UsageError(f"--host {host} can be reached from outside: give --auth, or listen on 127.0.0.1")
    server = _server(app, (host, port), Access(auth, allow_host))
    click.echo(f"metrics: {server.url}")
    signal.signal(signal.SIGTERM, _stop)
    try:
        server.serve_forever()
    except SystemExit:
        pass
    finally:
        server.server_close()


def _server(app: Any, address: tuple[str, int], access: Any) -> MetricsServer:
    from taskora_celery.errors import SettingsError, StoreNotConfiguredError
    from taskora_celery.metrics.collect import Collector
    from taskora_celery.metrics.server import MetricsServer
    from taskora_celery.runtime import Runtime

    try:
        return MetricsServer(address, Collector(Runtime.of(app).readable()), access)
    except (SettingsError, StoreNotConfiguredError) as exc:
        raise click.UsageError(str(exc)) from exc
    except OSError as exc:
        raise click.ClickException(f"cannot listen on {address[0]}:{address[1]}: {exc}") from exc


def _stop(*_: object) -> None:
    raise SystemExit(0)
