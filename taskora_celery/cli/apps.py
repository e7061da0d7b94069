"""The app that a command is about."""

from __future__ import annotations

from typing import Any

import click

__all__ = ["app_of"]


def app_of(ctx: click.Context) -> Any:
    """Return the app that was named with ``-A``.

    :raises click.UsageError: none was; Celery then hands over a default app, which is nobody's.
    """
    params = ctx.find_root().params
    if ctx.obj is None or ("app" in params and params["app"] is None):
        raise click.UsageError("no app: say which with `celery -A your.module jobs …`")
    return ctx.obj.app
