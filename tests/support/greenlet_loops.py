"""Run as a module, with the name of a library: the jobs' loop beside others' loops, in a process that it has patched."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from taskora_celery.loop import JobLoop

LIBRARY = sys.argv[-1]


def patch() -> None:
    """Patch this process."""
    if LIBRARY == "gevent":
        import gevent.monkey

        gevent.monkey.patch_all()
    else:
        import eventlet

        eventlet.monkey_patch()


class Scope:
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.reports: list[str] = []

    def enter(self) -> None:
        """Begin a step."""

    def leave(self) -> None:
        """End it."""

    def blocked(self, seconds: float, stack: str) -> None:
        """Keep the report."""
        self.reports.append(stack)


def main() -> None:
    """Run loops beside each other, and say that all is well."""
    from taskora_celery.loop import JobLoop

    ours = JobLoop(LIBRARY)
    run_beside_others(ours)
    run_alone(ours)
    ours.stop()
    sys.stdout.write("all is well\n")


def run_beside_others(ours: JobLoop) -> None:
    """Start the loop while another runs in this thread, and another while it runs; each keeps what is its own."""
    import asyncio
    import threading
    import time

    found: dict[str, Any] = {}

    async def rows() -> AsyncIterator[int]:
        for row in range(20):
            yield row
            await asyncio.sleep(0.003)

    async def count() -> int:
        own = asyncio.get_running_loop()
        return len([row async for row in rows() if asyncio.get_running_loop() is own])

    def start(name: str, run: Callable[[], Any]) -> threading.Thread:
        def body() -> None:
            try:
                found[name] = run()
            except BaseException as exc:
                found[name] = exc

        thread = threading.Thread(target=body)
        thread.start()
        return thread

    before = start("before", lambda: asyncio.run(count()))
    time.sleep(0.01)
    threads = [start("ours", lambda: ours.run(count(), Scope()))]
    before.join()
    threads.append(start("behind", lambda: asyncio.run(count())))
    for thread in threads:
        thread.join(10)
    assert found == {"before": 20, "ours": 20, "behind": 20}, found


def run_alone(ours: JobLoop) -> None:
    """Report what keeps all greenlets from running, when it is over; wait for a process."""
    import asyncio
    import time

    async def busy() -> None:
        until = time.monotonic() + 1.1
        while time.monotonic() < until:
            pass
        await asyncio.sleep(0)

    async def process() -> int:
        child = await asyncio.create_subprocess_exec("sleep", "0.1")
        return await child.wait()

    scope = Scope()
    ours.run(busy(), scope)
    assert [("await asyncio.sleep(0)" in stack) for stack in scope.reports] == [True], scope.reports
    assert ours.run(process(), scope) == 0


if __name__ == "__main__":
    patch()
    main()
