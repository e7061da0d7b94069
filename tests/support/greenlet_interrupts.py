"""Run as a script, with the name of a library: interruptions of greenlets, in a process that the library has patched."""

# ruff: noqa: T201 - it talks to the test that runs it

from __future__ import annotations

import sys
from typing import Any

LIBRARY = sys.argv[1] if len(sys.argv) > 1 else "gevent"


def patched() -> tuple[Any, Any]:
    """Patch this process; return how a greenlet is spawned, and how one sleeps."""
    if LIBRARY == "gevent":
        import gevent
        import gevent.monkey

        gevent.monkey.patch_all()
        return gevent.spawn, gevent.sleep
    import eventlet

    eventlet.monkey_patch()
    return eventlet.spawn, eventlet.sleep


def main() -> None:
    """Try what a handler may do, and say that all is well."""
    spawn, sleep = patched()
    from taskora_celery.errors import JobCancelledError
    from taskora_celery.interrupts import interrupt_for

    def run(handler: Any, before: float, after: float = 0.02) -> tuple[list[str], list[bool]]:
        """Let a handler run in a greenlet of its own, and fire after `before` seconds."""
        interrupt, steps, told = interrupt_for(LIBRARY), list[str](), list[bool]()

        def body() -> None:
            try:
                try:
                    interrupt.open()
                    handler(interrupt, steps)
                finally:
                    interrupt.close()
            except JobCancelledError:
                steps.append("raised")
            sleep(after)  # what came late would come here
            steps.append("over")

        greenlet = spawn(body)
        sleep(before)
        told.append(interrupt.fire(JobCancelledError))
        greenlet.join() if LIBRARY == "gevent" else greenlet.wait()
        return steps, told

    def waits(_: Any, steps: list[str]) -> None:
        steps.append("waits")
        sleep(30)
        steps.append("never")

    def ends(_: Any, steps: list[str]) -> None:
        steps.append("ends")

    def shields(interrupt: Any, steps: list[str]) -> None:
        with interrupt.shield():
            with interrupt.shield():
                sleep(0.02)
                steps.append("inner")
            sleep(0.01)
            steps.append("outer")
        steps.append("never")

    def cleans_up(interrupt: Any, steps: list[str]) -> None:
        try:
            sleep(30)
        except JobCancelledError:
            with interrupt.shield():
                sleep(0.01)
                steps.append("cleaned")
        steps.append("went on")

    def is_busy(_: Any, steps: list[str]) -> None:
        for _ in range(20):
            sleep(0)
        steps.append("done")

    expected = [
        (waits, 0.01, (["waits", "raised", "over"], [True])),
        (ends, 0.01, (["ends", "over"], [False])),
        (shields, 0.01, (["inner", "outer", "raised", "over"], [True])),
        (cleans_up, 0.01, (["cleaned", "went on", "over"], [True])),
        (is_busy, 0.2, (["done", "over"], [False])),
    ]
    for handler, before, outcome in expected:
        found = run(handler, before)
        assert found == outcome, (handler.__name__, found)
    # About when it ends: it may be raised in it, or not at all.
    for rounds in range(300):

        def brief(_: Any, steps: list[str], rounds: int = rounds) -> None:
            for _ in range(rounds % 4):
                sleep(0)
            steps.append("done")

        steps, told = run(brief, 0, after=0)
        assert steps in (["done", "over"], ["raised", "over"]), steps
        assert told == [True] or "raised" not in steps
    print("all is well")


if __name__ == "__main__":
    main()
