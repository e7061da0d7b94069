"""Renewing the leases of a process's running jobs: the handler's process answers for its jobs, besides the worker's parent."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence

import msgspec

from taskora_celery.clock import Clock
from taskora_celery.lease.protocol import Held, Hold, Lease
from taskora_celery.reporter.decisions import Outage, lease_interval
from taskora_celery.reporter.live import LiveJob
from taskora_celery.settings import Settings

__all__ = ["Leases"]

logger = logging.getLogger("taskora_celery.reporter")


class Leases:
    """Renews what the process runs, in one command for all jobs whose turn it is. Called by the reporter's thread.

    ``open_lease`` connects to the broker; it is called at the first renewal, and by :meth:`ask` on a handler's thread.
    """

    def __init__(self, open_lease: Callable[[], Lease] | None, settings: Settings, clock: Clock) -> None:
        self._open_lease = open_lease
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._lease: Lease | None = None
        self._outage = Outage()
        #: The worker's parent process, where this is a child of its pool.
        self.parent: int | None = None

    def turn(self, jobs: Sequence[LiveJob]) -> None:
        """Renew the leases whose turn has come, and see which jobs are stalled, taken by another delivery, or orphaned."""
        now = self._clock.monotonic()
        wanting = [live for live in jobs if live.wants_renewal(now)]
        for live in wanting:
            if live.report.beating:
                live.lease.life_at = now
            if live.lease.sees_stall(now):
                live.supersede(f"no sign of life for {live.lease.timeout:g} s (heartbeat_timeout)")
                self._end_process_without_lease(live)
        if wanting and self.is_orphaned():
            for live in jobs:
                live.supersede("the worker's parent process is gone")
        wanting = [live for live in wanting if live.superseded is None]
        if wanting and not self._outage.closed_at(now):
            self._renew(wanting, now)

    def _end_process_without_lease(self, live: LiveJob) -> None:
        """Where the broker does not show what is due, the worker's parent sees no stall: the child of a pool ends itself."""
        if self.parent is None or self.parent == os.getpid() or self._lease is None or self._lease.shows_due:
            return
        logger.error("job %s: %s; its process is ended", live.report.id, live.superseded)
        os.kill(os.getpid(), signal.SIGKILL)

    def ask(self, hold: Hold) -> Held | None:
        """Say how a delivery stands, in one round trip; None where the broker does not answer. For a handler's thread."""
        if self._open_lease is None or self._outage.failures:
            return None
        try:
            return self._of_broker().renew([msgspec.structs.replace(hold, watched=True)]).held[0]
        except Exception as exc:  # noqa: BLE001 - any transport's error: a job is not kept from running by it
            self._failed(exc)
            return None

    def is_orphaned(self) -> bool:
        """Say whether this is a child of a pool whose parent is gone."""
        return self.parent is not None and self.parent != os.getpid() and os.getppid() != self.parent

    def close(self) -> None:
        """Give up the connection."""
        if self._lease is not None:
            self._lease.close()

    def _renew(self, jobs: list[LiveJob], now: float) -> None:
        held_jobs = [(live, live.report.hold) for live in jobs if live.report.hold is not None]
        beating = [live for live in jobs if live.report.beating]
        for live in beating:
            live.report.beating = False  # before the round trip: a beat that comes in it is the next renewal's
        try:
            if held_jobs:
                lease = self._of_broker()
                holds = [hold if hold.timeout is None else msgspec.structs.replace(hold, age=now - live.lease.life_at)
                         for live, hold in held_jobs]  # fmt: skip
                for (live, _), held in zip(held_jobs, lease.renew(holds).held, strict=True):
                    self._settle(live, held)
                    live.lease.interval = lease_interval(
                        self._settings.lease_interval, lease.visibility_timeout, live.lease.timeout
                    )  # fmt: skip
        except Exception as exc:  # noqa: BLE001 - any transport's error; the next renewal tries again
            self._failed(exc)
            for live in beating:
                live.report.beating = True
            for live in jobs:
                live.lease.postpone(self._outage.ask_at)
            return
        self._outage.succeeded()
        for live in jobs:
            live.lease.renewed = now
            if live.report.hold is None:
                live.no_lease()

    @staticmethod
    def _settle(live: LiveJob, held: Held) -> None:
        if live.report.early and held is not Held.HELD:
            live.report.hold = None  # acknowledged before it ran: there is nothing to lose
        elif held is Held.TAKEN:
            live.supersede("its message was delivered again")
        # What is gone was put back, and is asked for again: as soon as another delivery has it, it is taken.

    def _of_broker(self) -> Lease:
        with self._lock:
            if self._lease is None:
                assert self._open_lease is not None
                self._lease = self._open_lease()
            return self._lease

    def _failed(self, exc: Exception) -> None:
        if self._outage.failed(self._clock.monotonic()):
            logger.error("leases cannot be renewed: %s", exc)
