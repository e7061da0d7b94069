"""What every command has: the app, where to write, and how errors end it. The exit codes of rule K3 are here."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from taskora_celery.about import checked_settings
from taskora_celery.cli.terminal import Output
from taskora_celery.cli.text import one_line
from taskora_celery.errors import JobNotFoundError, SettingsError, StoreNotConfiguredError, StoreUnavailableError
from taskora_celery.listing import PREFIX_CHARS, AmbiguousIdError, JobsReader

__all__ = [
    "CANCELLED", "DONE", "FAILED", "INTERRUPTED", "NOT_FOUND", "PIPE_CLOSED", "TIMED_OUT", "UNREACHABLE", "USAGE", "Failure",
    "JobsCommand", "Session",
]  # fmt: skip

DONE, FAILED, USAGE, CANCELLED, NOT_FOUND = 0, 1, 2, 3, 4
UNREACHABLE, TIMED_OUT, INTERRUPTED = 69, 124, 130  # 69 is EX_UNAVAILABLE
#: Who reads our output has gone: what the shell says of a program that SIGPIPE ended.
PIPE_CLOSED = 141

#: So many ids are named where many are meant.
NAMED = 8

NO_APP = "which app? Say it before the command: celery -A your_app jobs …"


class Failure(Exception):  # noqa: N818 - it is how a command ends
    """Ends the command with a line of its own and an exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Session:
    """One run of a command."""

    def __init__(self, app: Any, output: Output, called: str = "celery jobs", named: str | None = None) -> None:
        self.app = app
        #: What the app was called in ``-A``, for hints; None where it is not known.
        self.named = named
        self.output = output
        #: How the group of commands was called, for hints.
        self.called = called
        self._reader: JobsReader | None = None
        #: What to say when somebody presses Ctrl-C.
        self.on_interrupt = "Interrupted."

    @property
    def reader(self) -> JobsReader:
        """The reader of the app's jobs.

        :raises StoreNotConfiguredError: no Redis is known to keep job records in.
        :raises SettingsError: a setting, or an option of that Redis, is wrong.
        """
        if self._reader is None:
            checked_settings(self.app)
            self._reader = JobsReader.of(self.app)
        return self._reader

    @staticmethod
    def now_ms() -> int:
        """Return the time, in milliseconds since the epoch."""
        return int(time.time() * 1000)


class JobsCommand(click.Command):
    """A command that is given a :class:`Session` before its own arguments, and whose errors become exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        output = Output(sys.stdout, sys.stderr, os.environ, no_color=bool(getattr(ctx.obj, "no_color", False)))
        # Without -A Celery hands over a default app, which knows nobody's broker.
        named = ctx.find_root().params.get("app", ctx.obj)
        if ctx.obj is None or named is None:
            output.note(f"Error: {NO_APP}")
            ctx.exit(USAGE)
        name = named if isinstance(named, str) else ctx.obj.app.main
        ctx.obj = session = Session(ctx.obj.app, output, f"celery -A {shlex.quote(str(name))} jobs", name)
        try:
            return _failing(session, lambda: super(JobsCommand, self).invoke(ctx))
        except Failure as failure:
            text = one_line(failure)
            output.note(text if failure.code == INTERRUPTED else f"Error: {text}")
            ctx.exit(failure.code)


def _failing(session: Session, run: Callable[[], Any]) -> Any:
    """Run a command; what it comes to in an error becomes a :class:`Failure` or an exit."""
    try:
        return run()
    except StoreUnavailableError as exc:
        raise Failure(f"the job records cannot be reached: {exc}", UNREACHABLE) from exc
    except (StoreNotConfiguredError, SettingsError) as exc:
        raise Failure(str(exc), USAGE) from exc
    except JobNotFoundError as exc:
        raise Failure(f"{exc}{_about_beginnings(session, exc.job_id)}", NOT_FOUND) from exc
    except AmbiguousIdError as exc:
        raise Failure(f"{exc.prefix!r} is the beginning of {len(exc.job_ids)} ids: {_some(exc.job_ids)}", USAGE) from exc
    except BrokenPipeError as exc:
        _hush()
        raise click.exceptions.Exit(PIPE_CLOSED) from exc
    except (KeyboardInterrupt, click.Abort) as exc:
        raise Failure(session.on_interrupt, INTERRUPTED) from exc


def _about_beginnings(session: Session, typed: str) -> str:
    """Return what to say of an id that was not found, where it may have been the beginning of one."""
    if not session.reader.indexed:
        return " (this app keeps no list of its jobs, taskora_index_limit is 0: ids are to be whole)"
    return f" (a beginning of an id has {PREFIX_CHARS} characters or more)" if len(typed) < PREFIX_CHARS else ""


def _some(job_ids: list[str]) -> str:
    more = len(job_ids) - NAMED
    return ", ".join(job_ids[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _hush() -> None:
    """Let the interpreter flush into nothing at its end: it would complain of the closed pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
