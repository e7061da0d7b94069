"""What the commands share that serve HTTP until they are told to end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any, TypeVar

import click

from taskora_celery.cli.session import FAILED, USAGE, Failure
from taskora_celery.metrics.access import host_names, is_loopback

__all__ = ["ALL_ADDRESSES", "allow_host", "check_secret", "end_by_sigterm", "host", "listening", "port"]

#: What stands for each address of this machine, and is no name of it.
ALL_ADDRESSES = frozenset({"", "0.0.0.0", "::", "[::]"})  # noqa: S104 - nothing listens there by this

T = TypeVar("T")

host = click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; another than loopback needs --auth."
)


def port(default: int) -> Callable[[Any], Any]:
    """Return the option for the port."""
    kind = click.IntRange(0, 65_535)
    return click.option("--port", type=kind, default=default, show_default=True, help="Port to listen on, 0 for any.")


def _names(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return host_names(values)
    except ValueError as exc:
        raise click.BadParameter(str(exc), ctx, param) from exc


def allow_host(what: str) -> Callable[[Any], Any]:
    """Return the option for the names under which a server is answered."""
    text = f"A name under which this {what} may be asked for; repeatable."
    return click.option("--allow-host", callback=_names, multiple=True, metavar="NAME", help=text)


def check_secret(auth: str | None, host: str) -> None:
    """Look whether a client can send the secret, and whether the address may do without one.

    :raises Failure: not so.
    """
    if auth is None:
        if not is_loopback(host):
            raise Failure(f"--host {host} can be reached from outside: give --auth, or listen on 127.0.0.1", USAGE)
        return
    if not auth.strip(": "):
        raise Failure("--auth is empty", USAGE)
    if auth.endswith(":"):
        raise Failure("--auth has a user, and no password: give user:password, or a token without a colon at its end", USAGE)
    try:
        auth.encode()
    except UnicodeEncodeError as exc:
        raise Failure("--auth is no UTF-8 text", USAGE) from exc


def listening(host: str, port: int, bind: Callable[[], T]) -> T:
    """Return what ``bind`` returns, which listens on this address.

    :raises Failure: it cannot.
    """
    try:
        return bind()
    except (OSError, UnicodeError) as exc:  # a name that no name server could be asked for
        raise Failure(f"cannot listen on {host}:{port}: {exc}", FAILED) from exc


def end_by_sigterm() -> None:
    """Let SIGTERM, by which a service ends, raise ``SystemExit`` in the main thread."""
    signal.signal(signal.SIGTERM, _end)


def _end(*_: object) -> None:
    raise SystemExit(0)
