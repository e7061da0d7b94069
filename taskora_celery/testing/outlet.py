"""Where messages go in the kit: encoded as for a broker, and kept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu import Connection, Producer, serialization

__all__ = ["Message", "Outlet", "RecordingProducer", "SentTask"]


@dataclass(frozen=True, slots=True)
class SentTask:
    """A message that the job sent: a task called by its handler, or one that was linked to it."""

    id: str
    #: The task's name.
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    #: Seconds that it is to wait, by its countdown or ETA.
    delay: float
    queue: str
    headers: dict[str, Any] = field(repr=False)


class Message:
    """One message, as a broker would have it; its arguments are decoded anew for each delivery."""

    def __init__(self, headers: dict[str, Any], properties: dict[str, Any], encoded: tuple[str, str, Any], now: float) -> None:
        """Keep a message; ``encoded`` is its body as ``kombu.serialization.dumps`` returns it, ``now`` is when it was sent."""
        self.headers = headers
        self.properties = {**properties, "delivery_tag": str(uuid4())}
        self.redelivered = False
        #: It was acknowledged, or dropped: it is not delivered again.
        self.settled = False
        self._encoded = encoded
        #: Seconds for which it was to wait when it was sent.
        self.delay = self.wait(now)

    @property
    def id(self) -> str:
        """The task id."""
        return str(self.headers["id"])

    @property
    def queue(self) -> str:
        """The queue that it was sent to, or the routing key where it was sent to an exchange."""
        return str(self.properties["delivery_info"]["routing_key"] or "")

    def body(self, accept: Any) -> tuple[Any, Any, Any]:
        """Return args, kwargs and what is embedded besides; ``accept`` is what the app's ``accept_content`` allows."""
        content_type, content_encoding, data = self._encoded
        allowed = serialization.prepare_accept_content(accept)
        args, kwargs, embedded = serialization.loads(data, content_type, content_encoding, accept=allowed)
        return args, kwargs, embedded

    def wait(self, now: float) -> float:
        """Return the seconds until it may be delivered."""
        eta = maybe_iso8601(self.headers.get("eta"))
        return 0.0 if eta is None else max(round(maybe_make_aware(eta).timestamp() - now, 6), 0.0)

    def told(self, accept: Any) -> SentTask:
        """Return it as a test sees it."""
        args, kwargs, _ = self.body(accept)
        return SentTask(
            self.id, str(self.headers["task"]), tuple(args), dict(kwargs), self.delay, self.queue, dict(self.headers)
        )  # fmt: skip


class Outlet:
    """Takes all that is sent during a run. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Message] = []

    def put(self, message: Message) -> None:
        """Take a message."""
        with self._lock:
            self._waiting.append(message)

    def take(self, job_id: str) -> Message | None:
        """Hand out the oldest message of a job."""
        with self._lock:
            for message in self._waiting:
                if message.id == job_id:
                    self._waiting.remove(message)
                    return message
        return None

    def rest(self) -> list[Message]:
        """Return what nobody took."""
        with self._lock:
            return list(self._waiting)


class RecordingProducer(Producer):  # type: ignore[misc]
    """kombu's producer up to the channel: it encodes a message as ever, and puts it into the outlet."""

    def __init__(self, outlet: Outlet, now: Callable[[], float]) -> None:
        super().__init__(Connection("memory://"))  # lazy, and never asked for a channel
        self._outlet = outlet
        self._now = now

    def publish(
        self,
        body: Any,
        routing_key: Any = None,
        *,
        priority: int | None = 0,
        serializer: Any = None,
        headers: Any = None,
        exchange: Any = None,
        **properties: Any,
    ) -> None:
        """Encode a message and keep it."""
        kept = {
            "delivery_info": {
                "exchange": getattr(exchange, "name", exchange) or "", "routing_key": routing_key, "priority": priority,
            },
            "reply_to": properties.get("reply_to"),
            "correlation_id": properties.get("correlation_id"),
        }  # fmt: skip
        self._outlet.put(Message(dict(headers or {}), kept, serialization.dumps(body, serializer), self._now()))
