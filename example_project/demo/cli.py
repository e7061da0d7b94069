"""The demo's command line."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

from kombu.exceptions import OperationalError
from redis import RedisError

from example_project.demo.board import require_board
from example_project.demo.run import Run
from example_project.demo.stop import DemoError, Interrupted, Stop
from example_project.demo.terminal import OutputGoneError, Screen
from example_project.demo.worker import POOLS, require_pool
from taskora_celery import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main", "parser"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit code: 0, 1 (a job or the worker failed), 2 (something is missing), 130 (Ctrl-C)."""
    options = parser().parse_args(arguments)
    stop = Stop()
    stop.install()
    stdout = cast("TextIO", sys.stdout)
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    screen = Screen(stdout)
    try:
        require_pool(options.pool)
        if options.board:
            require_board()
        return Run(screen, stop, options).run()
    except DemoError as exc:
        screen.close()
        print(f"\n{exc}", file=sys.stderr)
        return exc.code
    except Interrupted as exc:
        return exc.code
    except (StoreUnavailableError, RedisError, OperationalError) as exc:
        screen.close()
        print(f"\nRedis does not answer any more: {exc}", file=sys.stderr)
        return 1
    except OutputGoneError:
        # Nothing more can be said, not even what Python still holds in its buffer at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def parser() -> argparse.ArgumentParser:
    """Return what reads the demo's command line."""
    made = argparse.ArgumentParser(
        prog="python -m example_project.demo",
        description="Runs four jobs in a real Celery worker and follows them; with --kill or --cancel one, with --board many.",
        epilog="REDIS_URL names the Redis to use; without it the demo starts one of its own.",
    )
    made.add_argument("--pool", choices=POOLS, default="prefork", help="the worker's pool (default: %(default)s)")
    scene = made.add_mutually_exclusive_group()
    scene.add_argument(
        "--kill", action="store_true", help="kill the worker that runs the long job in the middle of it: another one goes on"
    )
    scene.add_argument(
        "--cancel", action="store_true", help="cancel a job in the middle of it: the process that it runs ends, its file goes"
    )
    scene.add_argument(
        "--board", action="store_true", help="show jobs on the board, in a browser: they are sent in turns, until Ctrl-C"
    )
    made.add_argument("--root", type=_directory, help="the source tree to read (default: Python's standard library)")
    made.add_argument("--stay", action="store_true", help="leave workers and Redis running at the end, until Ctrl-C")
    return made


def _directory(value: str) -> Path:
    path = Path(value).expanduser().resolve()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"no directory: {value}")
    return path
