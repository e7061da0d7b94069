"""The group ``jobs``, and the table of its commands."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

__all__ = ["COMMANDS", "jobs"]

#: Each command, with its line in the help; it is the ``command`` of the module of its name. A new command is a line here.
COMMANDS = {
    "list": "List jobs, those that go on first.",
    "show": "Show all that is known of jobs.",
    "logs": "Print the log entries of jobs.",
    "watch": "Watch jobs until they end.",
    "cancel": "Stop jobs.",
    "board": "Show jobs live in a browser.",
    "exporter": "Serve Prometheus metrics.",
    "doctor": "Check the set-up.",
}


class LazyGroup(click.Group):
    """Imports a command's module when the command runs, and not to list it."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return a command, imported now; None where there is no such."""
        if cmd_name not in COMMANDS:
            return None
        found: Any = import_module(f"taskora_celery.cli.{cmd_name}")
        command: click.Command = found.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of commands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, name="jobs", context_settings={"help_option_names": ["-h", "--help"]})
def jobs(**_: Any) -> None:
    """See and steer jobs: progress, attempts and logs, live.

    An id may be cut to its first six characters or more, and `-` reads ids from the standard input. Durations are written 90s,
    10m, 2h, 1d. With -j, each line is one JSON object.

    Exit codes: 0 done (watch: succeeded), 1 failed, 2 wrong usage, 3 cancelled (cancel: too late), 4 not found or expired, 69
    Redis cannot be reached, 124 timed out, 130 Ctrl-C (the job goes on).
    """
