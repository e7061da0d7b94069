"""A worker without processes, broker or messages: what it holds and runs is what the test says."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from celery.concurrency.base import BasePool
from celery.worker import state

from taskora_celery.lease.fence import FencedChannel
from taskora_celery.lease.protocol import Due, Held, Hold, Renewal
from taskora_celery.store.protocol import Lost

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VISIBILITY = 60.0  # seconds


class Channel:
    """A consumer's channel, open until the test closes it."""

    def __init__(self, qos: Any) -> None:
        self.qos = qos
        self.closed = False
        #: None where the transport knows no such thing.
        self.visibility_timeout: float | None = None


class ScriptedRequest:
    """What stands for a message in a worker's parent."""

    def __init__(self, message: Any, hold: Hold | None, steps: list[str]) -> None:
        self.message = message
        self.fenced: FencedChannel | None = None
        self.hold = hold
        self.id = f"job of {message.delivery_tag}"
        self.name = "shop.work"
        self.acknowledged = False
        self.is_running = False
        self.waits_in_pool = False
        self.has_process = False
        self.regained = False
        self.given_up: str | None = None
        self.task = SimpleNamespace(cancel_grace=10.0)
        self._steps = steps

        #: What the store makes of its loss.
        self.told = Lost(1)

    def lose(self, reason: str) -> Lost:
        """Note it."""
        self._steps.append(f"lose {self.message.delivery_tag}: {reason}")
        return self.told

    def end_lost(self, told: Lost, reason: str) -> None:
        """Note it."""
        self._steps.append(f"end {self.message.delivery_tag}")


class ScriptedWorker:
    """Messages on a consumer's channel, and the requests that were made of them. `steps` is all that was done, in order."""

    hostname = "w1@host"

    def __init__(self, app: Any = None, steps: list[str] | None = None) -> None:
        self.app = app
        self.steps: list[str] = [] if steps is None else steps
        self.pool: Any = SimpleNamespace(_state=BasePool.RUN)
        self.qos = SimpleNamespace(_delivered={}, _dirty=set(), _quick_ack=lambda tag: self.steps.append(f"forget {tag}"))
        self.channel = Channel(self.qos)
        self.consumer = SimpleNamespace(task_consumer=SimpleNamespace(channel=self.channel))
        self.requests: dict[str, ScriptedRequest] = {}

    def receives(self, tag: str, *, tracked: bool = True, url: str | None = None, timeout: float | None = None) -> Any:
        """A message is received, and waits for its turn or its time; return what stands for it."""
        message: Any = SimpleNamespace(delivery_tag=tag, delivery_info={"sqs_queue": url} if url else {}, channel=self.channel)
        self.qos._delivered[tag] = message
        if not tracked:
            return ScriptedRequest(message, None, self.steps)
        hold = Hold(tag, 7, timeout)
        request = self.requests[tag] = ScriptedRequest(message, hold, self.steps)
        message.channel = request.fenced = FencedChannel(self.channel, None, hold)  # type: ignore[arg-type]
        return request

    def runs(self, tag: str, **options: Any) -> Any:
        """A message is received, and its job has begun."""
        request = self.receives(tag, **options)
        request.is_running = request.has_process = True
        state.active_requests.add(request)
        return request

    def loses_its_connection(self) -> None:
        """What it ran goes on; kombu knows nothing of it any more."""
        self.qos._delivered.clear()


class SharedLease:
    """The broker's side, as the worker's parent sees it: what is due, how each message stands, and who else is at it."""

    visibility_timeout: float | None = VISIBILITY
    shows_due = True

    def __init__(self, steps: list[str]) -> None:
        self.steps = steps
        self.stands: dict[str, Held] = {}
        self.due: tuple[Due, ...] = ()
        self.next_due: float | None = None
        #: Messages that somebody else was faster to take, and whether anybody holds the sweep's mutex.
        self.others: set[str] = set()
        self.busy = False
        self.down = False
        self.renewed: list[Hold] = []
        self.closed = False

    def renew(self, holds: Sequence[Hold], *, look: bool = False) -> Renewal:
        """Say how each stands, and what is due."""
        if self.down:
            raise ConnectionError("no broker")
        self.renewed = list(holds)
        held = tuple(self.stands.get(hold.tag, Held.HELD) for hold in holds)
        return Renewal(held, self.due if look else (), self.next_due)

    def claim(self, hold: Hold) -> None:
        """Note it."""
        self.steps.append(f"claim {hold.tag}")

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Say whether nobody else puts back meanwhile."""
        yield not self.busy

    def take(self, tag: str) -> bool:
        """Note it; false where somebody else was faster."""
        self.steps.append(f"take {tag}")
        return tag not in self.others

    def put_back(self, tag: str, queue: str | None = None, *, token: int | None = None) -> None:
        """Note it; it is no longer due then."""
        self.steps.append(f"put back {tag}" + (f" into {queue}" if queue else ""))
        self.due = tuple(due for due in self.due if due.tag != tag)

    def close(self) -> None:
        """Note it."""
        self.closed = True


def due(tag: str, job_id: str = "", late: float = 0.1) -> Due:
    """A message that nobody renewed in time."""
    return Due(tag, job_id, "shop.work" if job_id else "", 1, late)
