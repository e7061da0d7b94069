"""What the doctor looks at: plain values, gathered once, judged by :mod:`taskora_celery.doctor.checks`."""

from __future__ import annotations

import msgspec

__all__ = ["Facts", "ServerFacts", "TaskFacts", "WorkerFacts"]


class ServerFacts(msgspec.Struct, frozen=True):
    """A broker or a store, as it answers. Durations are in seconds."""

    #: ``"broker"``, ``"store"`` or ``"broker and store"``.
    role: str
    #: The URL without its password.
    where: str
    #: Why it cannot be reached; None where it answers.
    error: str | None = None
    #: The version of the Redis server; None where it is none, or does not say.
    redis_version: str | None = None
    #: How far its clock is ahead of this machine's; None where it does not say.
    ahead: float | None = None
    #: What it does when it is full, and how much it may hold in bytes (0: all there is); None where it does not say.
    maxmemory_policy: str | None = None
    maxmemory: int = 0
    #: Why job records cannot be written there; None where they can, or are not to be.
    refuses: str | None = None
    #: Why announcements of cancels and shutdowns cannot be heard there; None likewise.
    deaf: str | None = None
    #: What the names of the library's keys and channels there begin with.
    prefix: str = ""


class WorkerFacts(msgspec.Struct, frozen=True):
    """A worker that answered on this broker. Durations are in seconds."""

    name: str
    #: The version of this library there; None where there is none.
    version: str | None = None
    #: Versions of what it runs on, by package.
    packages: dict[str, str] = {}
    #: How far its clock is at least ahead of this machine's (negative: behind); None where it does not say.
    ahead: float | None = None
    #: Whether it sends events; None where it does not say.
    events: bool | None = None
    visibility_timeout: float | None = None


class TaskFacts(msgspec.Struct, frozen=True):
    """A task of the app."""

    name: str
    #: Its time limit in seconds, the longer one; None where it has none.
    limit: float | None
    #: Its message is acknowledged before it runs.
    early: bool


class Facts(msgspec.Struct, frozen=True):
    """All that is known of a set-up."""

    #: Versions here, by package.
    packages: dict[str, str]
    servers: tuple[ServerFacts, ...] = ()
    #: None where nobody could be asked.
    workers: tuple[WorkerFacts, ...] | None = None
    #: Why workers could not be asked where they should have been; None if nothing.
    workers_error: str | None = None
    tasks: tuple[TaskFacts, ...] = ()
    #: Why the app's modules cannot be imported; None where they were.
    tasks_error: str | None = None
    #: What the broker's options say, in seconds; None where the broker knows no such thing.
    visibility_timeout: float | None = None
    sweep_interval: float | None = None
    #: What to do about the sweep; None if nothing.
    sweep_warning: str | None = None
    #: What is wrong with the settings; None if nothing.
    settings_error: str | None = None
    #: Flower's version here, None where it is not installed; and whether anybody listens to events on this broker.
    flower: str | None = None
    monitored: bool = False
