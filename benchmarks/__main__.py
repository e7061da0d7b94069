"""``python -m benchmarks [row …]``: run rows of the budget table, print them, and write ``benchmarks/RESULTS.md``."""

from __future__ import annotations

import compileall
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import taskora_celery
from benchmarks import (
    board,
    cancelling,
    footprint,
    growth,
    hot_path,
    imports,
    peers,
    reading,
    recovery,
    scale,
    taskiq_peer,
    throughput,
    volume,
)
from benchmarks.harness import Figure, markdown
from benchmarks.servers import server_version

ROWS = {
    "P1": lambda: [*hot_path.p1(), *peers.progress_peers()],
    "P2": lambda: [*hot_path.p2(), *peers.heartbeat_peers()],
    "P3": lambda: [*hot_path.p3(), *peers.log_peers()],
    "P4": volume.p4,
    "P5": volume.p5,
    "P6": lambda: [*throughput.p6(), *taskiq_peer.taskiq_rows()],
    "P7": cancelling.p7,
    "P8": reading.p8,
    "P9": reading.p9,
    "P10": imports.p10,
    "P11": recovery.p11,
    "P12": footprint.p12,
    "P13": volume.p13,
    "P14": recovery.p14,
    "P15": recovery.p15,
    "K4": board.k4,
}
_HEAD = (
    "# Results\n\nMade by `python -m benchmarks`; ratios are medians of interleaved pairs, with their spread.\n"
    "What is said of one run are counts, which do not vary: bytes, commands, scripts.\n\n"
)
_PACKAGES = ("celery", "kombu", "redis", "hiredis", "msgspec")
_PEERS = ("tqdm", "structlog", "temporalio", "saq", "taskiq", "taskiq-redis")


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} not installed"


def _text(figures: list[Figure]) -> str:
    versions, peers = (", ".join(map(_version, packages)) for packages in (_PACKAGES, _PEERS))
    machine = f"Python {platform.python_version()}, {os.cpu_count()} processors, {platform.machine()}, Redis {server_version()}"
    return f"{machine}; {versions}. Peers: {peers}.\n\n{markdown(figures)}"


def main(arguments: list[str]) -> int:
    """Run the rows that are named, all by default; ``growth`` draws the curves of docs/performance.md, ``scale`` counts."""
    # As an installer does, whatever PYTHONDONTWRITEBYTECODE says here: to compile takes memory, and a process keeps it.
    compileall.compile_dir(Path(taskora_celery.__file__).parent, quiet=1)
    if arguments == ["growth"]:
        found = growth.curves()
        print(growth.table(found))
        growth.draw(found)
        return 0
    if arguments == ["scale"]:
        print(scale.measure())
        return 0
    wanted = [row.upper() for row in arguments] or list(ROWS)
    unknown = [row for row in wanted if row not in ROWS]
    if unknown:
        print(f"unknown rows: {', '.join(unknown)}; there are {', '.join(ROWS)}", file=sys.stderr)
        return 2
    figures: list[Figure] = []
    for row in wanted:
        print(f"{row} …", file=sys.stderr, flush=True)
        figures += ROWS[row]()
        if not arguments:  # after each row: a run that is ended early keeps what it has
            Path(__file__).with_name("RESULTS.md").write_text(_HEAD + _text(figures), "utf-8")
    print(_text(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
