"""P10: what importing the package costs on top of Celery, and what its commands cost each start of ``celery``."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

from benchmarks.harness import Figure, interleaved

__all__ = ["p10"]

REPEATS = 15
#: Each import in a process of its own; the entry point is shown or hidden, whether the package is installed here or not.
_PLUGIN = """
import importlib.metadata as metadata, sys
found = metadata.entry_points
def shown(**wanted):
    if wanted != {{"group": "celery.commands"}}:
        return found(**wanted)
    others = [each for each in found(**wanted) if each.name != "jobs"]
    return others + [metadata.EntryPoint("jobs", "taskora_celery.cli:jobs", "celery.commands")] * {plugin}
metadata.entry_points = shown
sys.argv = ["celery", "--version"]
from celery.bin.celery import main
main()
"""


def p10() -> list[Figure]:
    """Count the CPU time of processes that import, and of those that do not."""
    return [
        _figure("`import taskora_celery` on top of `import celery`", "import celery, taskora_celery", "import celery"),
        _figure("the `jobs` commands on top of `celery --version`", _PLUGIN.format(plugin=1), _PLUGIN.format(plugin=0)),
    ]


def _figure(what: str, ours: str, theirs: str) -> Figure:
    a, b = interleaved([lambda: _cpu_ms(ours), lambda: _cpu_ms(theirs)], REPEATS)
    return Figure(
        "P10", f"{what}, the difference", f"{statistics.median(a):.0f} ms",
        f"{statistics.median(b):.0f} ms", [x - y for x, y in zip(a, b, strict=True)], "<= 30", unit="ms",
    )  # fmt: skip


def _cpu_ms(code: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3
