"""``jobs doctor``: look at the set-up, and say what is wrong with it and what to do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from taskora_celery.cli.apps import app_of

if TYPE_CHECKING:
    from taskora_celery.doctor.checks import Finding

__all__ = ["command"]


@click.command("doctor")
@click.option("--timeout", default=1.0, show_default=True, help="Seconds that workers have to answer.")
@click.option("-j", "--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_context
def command(ctx: click.Context, timeout: float, as_json: bool) -> None:
    """Check broker, store, workers and tasks, and say what to do.

    Exit code 0: nothing is wrong; 1: something is; 69: the broker or the store cannot be reached.
    """
    from taskora_celery.doctor.checks import diagnose, exit_code
    from taskora_celery.doctor.gather import gather

    facts = gather(app_of(ctx), timeout)
    findings = diagnose(facts)
    for finding in findings:
        click.echo(_as_json(finding) if as_json else _as_text(finding, ctx.obj))
    ctx.exit(exit_code(facts, findings))


def _as_json(finding: Finding) -> str:
    names = ("check", "level", "message", "advice")
    return json.dumps({name: getattr(finding, name) for name in names})


def _as_text(finding: Finding, obj: Any) -> str:
    """Return a finding as it stands on the terminal: what was found, and under it what to do."""
    word, colour = {"ok": ("ok", "green"), "warning": ("warning", "yellow")}.get(finding.level, ("WRONG", "red"))
    line = f"{obj.style(f'{word:8}', fg=colour)} {finding.check:10} {finding.message}"
    return line if finding.advice is None else f"{line}\n{'':20}-> {finding.advice}"
