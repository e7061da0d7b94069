"""How soon the messages of a dead worker come back on a Redis broker, by the broker's settings alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from taskora_celery.errors import SettingsError

__all__ = ["KOMBU_VISIBILITY_TIMEOUT", "Recovery", "recovery_of"]

#: kombu's own defaults on Redis: the visibility timeout in seconds, the pause between two turns of its sweep in seconds, and of
#: how many turns one sweeps.
KOMBU_VISIBILITY_TIMEOUT = 3600.0
KOMBU_RESTORE_INTERVAL = 10.0
KOMBU_RESTORE_THROTTLE = 10.0


@dataclass(frozen=True)
class Recovery:
    """What is in force on the broker; in seconds.

    A worker with this library puts a message back as soon as it is due. ``sweep_interval`` is what kombu's own sweep adds at
    most, where only workers without it are left.
    """

    visibility_timeout: float
    sweep_interval: float

    @property
    def warning(self) -> str | None:
        """What to do about a sweep that makes recovery slower than the timeout suggests; None if nothing (rule D11)."""
        if self.sweep_interval <= self.visibility_timeout:
            return None
        return (
            f"where only workers without this library are left, kombu's own sweep, every {self.sweep_interval:g} s, is what "
            "finds them. Set unacked_restore_interval=1 and unacked_restore_throttle=1 in broker_transport_options "
            "(Celery 5.7 and later)"
        )

    @property
    def told(self) -> str:
        """What a worker's log says of it at its start: one line."""
        due = f"taskora_celery: a dead worker's messages come back {self.visibility_timeout:g} s after its last renewal"
        return due if self.warning is None else f"{due}; {self.warning}"


def recovery_of(options: Mapping[str, Any], *, configurable: bool) -> Recovery:
    """Return what is in force with these ``broker_transport_options``.

    ``configurable`` says whether this kombu has options for its sweep (5.7 and later); others ignore them.

    :raises SettingsError: an option is no number, or makes no sense: kombu would fail with it later, at the first message.
    """

    def option(name: str, default: float) -> float:
        value = options.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SettingsError(f"{name}={value!r} in broker_transport_options is wrong: not a number")
        return float(value)

    timeout = option("visibility_timeout", KOMBU_VISIBILITY_TIMEOUT)
    if timeout <= 0:
        raise SettingsError(f"visibility_timeout={timeout:g} in broker_transport_options is wrong: no message could be held")
    interval, throttle = KOMBU_RESTORE_INTERVAL, KOMBU_RESTORE_THROTTLE
    if configurable:
        interval = option("unacked_restore_interval", interval)
        interval = interval if interval > 0 else KOMBU_RESTORE_INTERVAL  # as kombu has it
        throttle = option("unacked_restore_throttle", throttle)
    return Recovery(timeout, interval * throttle)
