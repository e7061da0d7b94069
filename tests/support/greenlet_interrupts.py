"""Run as a module, with the name of a library: interruptions of greenlets, in a process that the library has patched."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

Steps = list[str]
LIBRARY = sys.argv[-1]


def patched() -> tuple[Callable[..., Any], Callable[[float], Any]]:
    """Patch this process; return how a greenlet is spawned, and how one sleeps."""
    if LIBRARY == "gevent":
        import gevent
        import gevent.monkey

        gevent.monkey.patch_all()
        return gevent.spawn, gevent.sleep
    import eventlet

    eventlet.monkey_patch()
    return eventlet.spawn, eventlet.sleep


def handled(handler: Callable[[Any, Steps], None], before: float, after: float) -> tuple[Steps, bool]:
    """Let a handler run in a greenlet of its own, and fire after `before` seconds; what came late would come within `after`."""
    from taskora_celery.errors import JobCancelledError
    from taskora_celery.interrupts import interrupt_for

    interrupt, steps = interrupt_for(LIBRARY), Steps()

    def body() -> None:
        try:
            try:
                interrupt.open()
                handler(interrupt, steps)
            finally:
                interrupt.close()
        except JobCancelledError:
            steps.append("raised")
        sleep(after)
        steps.append("over")

    greenlet = spawn(body)
    sleep(before)
    told = interrupt.fire(JobCancelledError)
    greenlet.join() if LIBRARY == "gevent" else greenlet.wait()
    return steps, told


def waits(_: Any, steps: Steps) -> None:
    """Be interrupted where it waits."""
    steps.append("waits")
    sleep(30)
    steps.append("never")


def ends(_: Any, steps: Steps) -> None:
    """Have ended when somebody fires."""
    for _ in range(20):
        sleep(0)
    steps.append("ends")


def shields(interrupt: Any, steps: Steps) -> None:
    """Be interrupted behind two shields."""
    with interrupt.shield():
        with interrupt.shield():
            sleep(0.05)
            steps.append("inner")
        sleep(0.01)
        steps.append("outer")
    steps.append("never")


def shields_itself_in_time(interrupt: Any, steps: Steps) -> None:
    """Enter a shield when somebody has fired, and before that arrives."""
    while interrupt._pending is None:
        sleep(0)
    with interrupt.shield():
        sleep(0.02)
        steps.append("whole")
    steps.append("never")


def cleans_up(interrupt: Any, steps: Steps) -> None:
    """Catch it, and be told no more."""
    from taskora_celery.errors import JobCancelledError

    try:
        sleep(30)
    except JobCancelledError:
        with interrupt.shield():
            sleep(0.01)
            steps.append("cleaned")
    steps.append("went on")


def brief(rounds: int) -> Callable[[Any, Steps], None]:
    """Return a handler that ends about when somebody fires."""

    def handler(_: Any, steps: Steps) -> None:
        for _ in range(rounds):
            sleep(0)
        steps.append("done")

    return handler


def main() -> None:
    """Try what a handler may do, and say that all is well."""
    expected: list[tuple[Callable[[Any, Steps], None], float, tuple[Steps, bool]]] = [
        (waits, 0.01, (["waits", "raised", "over"], True)),
        (ends, 0.2, (["ends", "over"], False)),
        (shields, 0.01, (["inner", "outer", "raised", "over"], True)),
        (shields_itself_in_time, 0.01, (["whole", "raised", "over"], True)),
        (cleans_up, 0.01, (["cleaned", "went on", "over"], True)),
    ]
    for handler, before, outcome in expected:
        found = handled(handler, before, 0.02)
        assert found == outcome, (handler.__name__, found)
    outcomes = [handled(brief(n % 4), 0, 0) for n in range(600)]
    for steps, told in outcomes:
        assert steps in (["done", "over"], ["raised", "over"]), steps
        assert told or "raised" not in steps
    assert len({steps[0] for steps, _ in outcomes}) == 2, "a race has two winners"
    sys.stdout.write("all is well\n")


if __name__ == "__main__":
    spawn, sleep = patched()
    main()
