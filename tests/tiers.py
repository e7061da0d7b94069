"""Runs the tests tier by tier, each in a process of its own: ``python -m tests.tiers``; with arguments it is ``pytest``.

Some tests of a tier change what is one for the whole process (an app's registered tasks, Celery's worker state). Those that start
workers mostly wait for them: the others run beside them, and what they print comes behind.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

WITH_WORKERS = ["tests/acceptance"]
OTHERS = (["tests/integration", "tests/fundamentals"], ["tests/unit", "example_project/tests"])


def main(arguments: list[str]) -> int:
    """Return the exit status: that of the first tier that fails; all are run all the same."""
    if arguments:
        return _run(arguments)
    with tempfile.TemporaryFile() as printed:
        beside = subprocess.Popen([sys.executable, "-m", "tests.tiers", "--others"], stdout=printed, stderr=subprocess.STDOUT)
        statuses = [_run(WITH_WORKERS), beside.wait()]
        sys.stdout.flush()
        printed.seek(0)
        sys.stdout.buffer.write(printed.read())
        sys.stdout.flush()
    return next((status for status in statuses if status), 0)


def _run(arguments: list[str]) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode


def others() -> int:
    """Run all but the tests with workers, one tier behind the other."""
    statuses = [_run(tier) for tier in OTHERS]
    return next((status for status in statuses if status), 0)


if __name__ == "__main__":
    sys.exit(others() if sys.argv[1:] == ["--others"] else main(sys.argv[1:]))
