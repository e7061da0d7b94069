"""Runs the tests tier by tier, each in a process of its own: ``python -m tests.tiers``; with arguments it is ``pytest``.

Some tests of a tier change what is one for the whole process (an app's registered tasks, Celery's worker state).
"""

from __future__ import annotations

import subprocess
import sys

TIERS = (["tests/acceptance"], ["tests/integration", "tests/fundamentals"], ["tests/unit", "example_project/tests"])


def main(arguments: list[str]) -> int:
    """Return the exit status: that of the first tier that fails; the others run all the same."""
    runs = [arguments] if arguments else TIERS
    statuses = [subprocess.run([sys.executable, "-m", "pytest", *run], check=False).returncode for run in runs]
    return next((status for status in statuses if status), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
