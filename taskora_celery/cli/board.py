"""``jobs board``: the live board in a browser."""

from __future__ import annotations

import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import quote

import click

from taskora_celery.cli import serving
from taskora_celery.cli.session import FAILED, Failure, JobsCommand, Session
from taskora_celery.metrics.access import is_loopback
from taskora_celery.texts import missing_extra

__all__ = ["PORT", "command"]

#: Beside the exporter's.
PORT = 10819


@click.command(cls=JobsCommand, name="board", short_help="Show jobs live in a browser.")
@serving.host
@serving.port(PORT)
@click.option(
    "--auth", envvar="TASKORA_BOARD_AUTH", metavar="SECRET",
    help="user:password (HTTP Basic) or a token, not a random one. Better in TASKORA_BOARD_AUTH: a command line is no secret.",
)  # fmt: skip
@serving.allow_host("board")
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
    serving.check_secret(auth, host)
    with _extra():
        from taskora_celery.board.access import SecretAuth, new_secret
        from taskora_celery.board.app import Board
        from taskora_celery.board.server import BoardServer, bound, url_of

    names = allow_host if is_loopback(host) or host in serving.ALL_ADDRESSES else (*allow_host, host)
    listener = serving.listening(host, port, lambda: bound(host, port))
    secret = auth or new_secret()
    with listener, suppress(SystemExit):
        board = Board(session.app, SecretAuth(secret), names, read_only=read_only, called=session.named)
        session.on_interrupt = "The board has ended; the jobs go on."
        url = url_of(listener) + ("" if auth is not None else f"?token={quote(secret)}")
        serving.end_by_sigterm()  # uvicorn raises it again when it has ended
        session.output.write(f"board: {url}")
        if open_browser:
            webbrowser.open(url)
        BoardServer(board).serve_on(listener)


@contextmanager
def _extra() -> Iterator[None]:
    """Import what needs the packages of the extra.

    :raises Failure: they are not installed.
    """
    try:
        yield
    except ImportError as exc:
        if exc.name is None or exc.name.startswith("taskora_celery"):
            raise
        raise Failure(missing_extra("the board", "board", exc.name), FAILED) from exc
