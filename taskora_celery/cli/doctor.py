"""``jobs doctor``: look at the set-up, and say what is wrong with it and what to do."""

from __future__ import annotations

from collections.abc import Iterable

import click

from taskora_celery.cli.params import as_json, duration
from taskora_celery.cli.session import DONE, FAILED, UNREACHABLE, JobsCommand, Session
from taskora_celery.cli.terminal import Output
from taskora_celery.cli.text import one_line
from taskora_celery.doctor.checks import Finding, Level, diagnose
from taskora_celery.doctor.facts import Facts
from taskora_celery.doctor.gather import gather
from taskora_celery.documents import encoded

__all__ = ["command", "exit_code"]

_WORDS = {Level.OK: ("ok", "green"), Level.WARNING: ("warning", "yellow"), Level.WRONG: ("WRONG", "red")}


@click.command(cls=JobsCommand, name="doctor", short_help="Check the set-up.")
@click.option("--timeout", default="1s", show_default=True, callback=duration, help="How long workers have to answer.")
@as_json
@click.pass_context
def command(ctx: click.Context, timeout: float, *, as_json: bool) -> None:
    """Check broker, store, workers and tasks, and say what to do.

    Exit code 0: nothing is wrong (a warning is no error); 1: something is; 69: the broker or the store cannot be reached.
    """
    session: Session = ctx.obj
    facts = gather(session.app, timeout)
    findings = diagnose(facts)
    for finding in findings:
        session.output.write(encoded(finding) if as_json else _as_text(finding, session.output))
    ctx.exit(exit_code(facts, findings))


def exit_code(facts: Facts, findings: Iterable[Finding]) -> int:
    """Return the exit code for what was found."""
    if any(server.error is not None for server in facts.servers):
        return UNREACHABLE
    return FAILED if any(finding.level == Level.WRONG for finding in findings) else DONE


def _as_text(finding: Finding, output: Output) -> str:
    """Return a finding as people read it: what was found, and under it what to do."""
    word, color = _WORDS[finding.level]
    line = f"{output.paint(f'{word:8}', color)} {finding.check:10} {one_line(finding.message)}"
    return line if finding.advice is None else f"{line}\n{'':20}-> {one_line(finding.advice)}"
