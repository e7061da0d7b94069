"""The task options that this library adds to Celery's: checked when a task is defined, completed when it is bound to an app."""

from __future__ import annotations

from typing import Any, Final

from taskora_celery.clock import seconds
from taskora_celery.runtime import lookup_setting

__all__ = ["BY_SETTING", "check_options", "complete_options"]

#: A sign of life cannot be asked for more often than it is looked for.
HEARTBEAT_TIMEOUT_MIN = 0.5


class _BySetting:
    """The type of :data:`BY_SETTING`."""

    def __repr__(self) -> str:
        return "BY_SETTING"


#: The value of an option that a task does not set: the app's ``taskora_*`` setting of the same name decides.
BY_SETTING: Final = _BySetting()


def check_options(cls: Any) -> None:
    """Look at a task's options, and bring them to their types.

    :raises TypeError: an option has a value of a wrong type.
    :raises ValueError: an option has a value that makes no sense.
    """
    timeout = cls.heartbeat_timeout
    if timeout is not None and timeout is not BY_SETTING:
        try:
            cls.heartbeat_timeout = seconds(timeout, "heartbeat_timeout")
        except TypeError as exc:
            raise TypeError(f"task {cls.__name__}: {exc}") from None
        except ValueError as exc:
            raise ValueError(f"task {cls.__name__}: {exc}") from None
        if cls.heartbeat_timeout < HEARTBEAT_TIMEOUT_MIN:
            raise ValueError(
                f"task {cls.__name__}: heartbeat_timeout={timeout!r} is too short: "
                f"at least {HEARTBEAT_TIMEOUT_MIN:g} seconds, or None for never"
            )
    try:
        cls.cancel_grace = seconds(cls.cancel_grace, "cancel_grace")
    except (TypeError, ValueError) as exc:
        raise type(exc)(f"task {cls.__name__}: {exc}") from None
    hook = cls.on_cancel
    if hook is not None and not callable(hook) and not isinstance(hook, staticmethod):
        raise TypeError(f"task {cls.__name__}: on_cancel={hook!r} is not a function (ctx, *args, **kwargs)")
    stalls = cls.max_stalls
    if stalls is not None and stalls is not BY_SETTING:
        if isinstance(stalls, bool) or not isinstance(stalls, int):
            raise TypeError(f"task {cls.__name__}: max_stalls={stalls!r} is not a whole number, or None for no limit")
        if stalls < 0:
            raise ValueError(f"task {cls.__name__}: max_stalls={stalls!r} is negative: 0 fails at the first loss, None never")


def complete_options(cls: Any, app: Any, *, late_is_set: bool, lost_is_set: bool) -> None:
    """Fill in what the task leaves to the app's settings, and what follows from ``heartbeat_timeout``."""
    for name, default in (("heartbeat_timeout", None), ("max_stalls", 1)):
        if getattr(cls, name) is BY_SETTING:
            setattr(cls, name, lookup_setting(app, name, default))
    check_options(cls)
    if cls.heartbeat_timeout is not None:
        # A message that is acknowledged before the job ends could not be delivered again (rule D8).
        if not late_is_set:
            cls.acks_late = True
        if not lost_is_set:
            cls.reject_on_worker_lost = True
