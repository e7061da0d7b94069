"""``jobs board``: the live board in a browser."""

from __future__ import annotations

import signal
import webbrowser
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import click

from taskora_celery.cli.session import FAILED, USAGE, Failure, JobsCommand, Session
from taskora_celery.metrics.access import is_loopback

__all__ = ["PORT", "command"]

#: Beside the exporter's.
PORT = 10819
MISSING = 'the board needs packages of its own: pip install "taskora-celery[board]"'


@click.command(cls=JobsCommand, name="board", short_help="Show jobs live in a browser.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; another than loopback needs --auth.")
@click.option("--port", default=PORT, show_default=True, help="Port to listen on, 0 for any.")
@click.option(
    "--auth", envvar="TASKORA_BOARD_AUTH", metavar="SECRET",
    help="user:password (HTTP Basic) or a token, not a random one. Better in TASKORA_BOARD_AUTH: a command line is no secret.",
)  # fmt: skip
@click.option("--allow-host", multiple=True, metavar="NAME", help="A name under which this board may be asked for; repeatable.")
@click.option("--read-only", is_flag=True, help="Show jobs, and stop none.")
@click.option("--open", "open_browser", is_flag=True, help="Open it in this machine's browser.")
@click.pass_obj
def command(
    session: Session,
    host: str,
    port: int,
    auth: str | None,
    allow_host: tuple[str, ...],
    *,
    read_only: bool,
    open_browser: bool,
) -> None:
    """Show jobs live in a browser, and stop them, until SIGTERM or Ctrl-C.

    The address that it prints holds a token, which lets one browser after the other in; it is printed once.
    """
    if auth is not None and not auth.strip(": "):
        raise Failure("--auth is empty", USAGE)
    if auth is not None and auth.endswith(":"):
        raise Failure("--auth has a user, and no password: give user:password, or a token without a colon at its end", USAGE)
    if auth is None and not is_loopback(host):
        raise Failure(f"--host {host} can be reached from outside: give --auth, or listen on 127.0.0.1", USAGE)
    parts = _parts()
    secret = auth or parts["new_secret"]()
    named = (*allow_host, *(() if is_loopback(host) or host in {"0.0.0.0", "::"} else (host,)))  # noqa: S104 - compared
    try:
        parts["host_names"](allow_host)
    except ValueError as exc:
        raise Failure(f"--allow-host: {exc}", USAGE) from exc
    board = parts["Board"](session.app, parts["SecretAuth"](secret), named, read_only=read_only, called=session.named)
    try:
        listener = parts["bound"](host, port)
    except OSError as exc:
        raise Failure(f"cannot listen on {host}:{port}: {exc}", FAILED) from exc
    session.on_interrupt = "The board has ended; the jobs go on."
    url = parts["url_of"](listener) + ("" if auth is not None else f"?token={quote(secret)}")
    session.output.write(f"board: {url}")
    signal.signal(signal.SIGTERM, _stop)  # uvicorn raises it again when it has ended
    if open_browser:
        webbrowser.open(url)
    with listener, suppress(SystemExit):
        parts["BoardServer"](board).serve_on(listener)


def _parts() -> dict[str, Any]:
    """Return what needs the extra.

    :raises Failure: it is not installed.
    """
    try:
        from taskora_celery.board import access, app, server
    except ImportError as exc:
        if exc.name is None or exc.name.startswith("taskora_celery"):
            raise
        raise Failure(f"{MISSING} ({exc.name} is not installed)", FAILED) from exc
    return {**vars(access), **vars(app), **vars(server)}


def _stop(*_: object) -> None:
    raise SystemExit(0)
