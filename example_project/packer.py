"""Packs the Python files of a tree: ``python -m example_project.packer ROOT TARGET`` writes a ``.tar.xz``, and says each path.

A program of its own, as a job would call tar, ffmpeg or pg_dump; the job is ``example_project.tasks.pack_sources``.
"""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path

from example_project.sources import find_sources

__all__ = ["main"]


def main(root: Path, target: Path) -> None:
    """Write the archive; a path is said when its file is in it."""
    with tarfile.open(target, "w:xz") as archive:
        for path in find_sources(root):
            archive.add(root / path, path)
            print(path, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
