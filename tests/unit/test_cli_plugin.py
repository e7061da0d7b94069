"""The plug-in of the ``celery`` command: what every call of it pays, and how it is found."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from taskora_celery.cli import jobs
from taskora_celery.cli.group import COMMANDS
from tests.support.worker import REPO_ROOT

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = {"celery", "kombu", "redis", "msgspec", "asyncio", "importlib.metadata"}


def _modules(code: str) -> set[str]:
    program = f"import sys; {code}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO_ROOT, capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


def test_the_plug_in_costs_only_itself() -> None:
    """P10: each call of ``celery`` imports it; it brings click, which is there anyway, and three small modules of its own."""
    new = _modules("import taskora_celery.cli") - _modules("import click")
    assert {name for name in new if not name.startswith("taskora_celery")} == set()
    assert {name for name in new if name.startswith("taskora_celery")} == {
        "taskora_celery", "taskora_celery._version", "taskora_celery.cli", "taskora_celery.cli.group",
    }  # fmt: skip
    assert not HEAVY & new


def test_help_imports_no_command() -> None:
    """P10, K3: a command of an extra that is not installed is listed all the same."""
    code = "from click.testing import CliRunner; from taskora_celery.cli import jobs; CliRunner().invoke(jobs, ['--help'])"
    assert not {name for name in _modules(code) if name.startswith("taskora_celery.cli.") and name != "taskora_celery.cli.group"}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_where_the_table_says(name: str) -> None:
    """K3: and its help fits a line of the table."""
    command = import_module(f"taskora_celery.cli.{name}").command
    assert isinstance(command, click.Command)
    assert command.name == name
    assert CliRunner().invoke(jobs, [name, "--help"]).exit_code == 0
    assert len(COMMANDS[name]) <= 60


def test_a_command_that_is_none_is_refused() -> None:
    """K3: with the exit code of wrong usage."""
    done = CliRunner().invoke(jobs, ["lits"])
    assert done.exit_code == 2
    assert "No such command 'lits'" in done.output


def test_the_entry_point_is_declared() -> None:
    """K3: Celery finds the plug-in by it."""
    text = (REPO_ROOT / "pyproject.toml").read_text("utf-8")
    assert '[project.entry-points."celery.commands"]\njobs = "taskora_celery.cli:jobs"\n' in text


def test_celery_itself_loads_it(tmp_path: Path) -> None:
    """K3: ``celery --help`` lists it, and ``celery jobs --help`` needs no app."""
    from tests.support.commands import Commands

    commands = Commands("redis://localhost", tmp_path)
    listed = subprocess.run(
        [sys.executable, "-m", "celery", "--help"], cwd=REPO_ROOT, env=commands.env, capture_output=True, text=True, check=True
    )
    assert "jobs " in listed.stdout
    assert "See and steer jobs" in commands.run("--help", app=False).stdout
