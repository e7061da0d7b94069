"""The task options that this library adds to Celery's: checked when a task is defined, completed when it is bound to an app."""

from __future__ import annotations

import difflib
import inspect
import warnings
from typing import Any, Final

from celery.app.annotations import resolve_all

from taskora_celery.clock import seconds
from taskora_celery.errors import SettingsError
from taskora_celery.runtime import lookup_setting
from taskora_celery.settings import PREFIX, Settings

__all__ = ["BY_SETTING", "check_names", "check_options", "complete_options", "is_left_alone", "named", "unset_options"]

#: What ``heartbeat_timeout`` turns on.
_LATE = ("acks_late", "reject_on_worker_lost")
#: Where a bound class keeps which of them it was not given.
_FILLED = "_taskora_filled"
#: A sign of life cannot be asked for more often than it is looked for.
HEARTBEAT_TIMEOUT_MIN = 0.5


#: The options that this module knows.
_OURS = ("tracked", "heartbeat_timeout", "max_stalls", "cancel_grace", "on_cancel")
#: What is as much like one of them as this, and is nobody's option, is taken for a slip.
_LIKE = 0.85


class _BySetting:
    """The type of :data:`BY_SETTING`."""

    def __repr__(self) -> str:
        return "BY_SETTING"


#: The value of an option that a task does not set: the app's ``taskora_*`` setting of the same name decides.
BY_SETTING: Final = _BySetting()


def named(cls: Any) -> str:
    """Return a task's name as it is sent; before it has one, its class's."""
    return cls.name or f"{cls.__module__}.{cls.__qualname__}"


def check_names(cls: Any) -> None:
    """Warn of attributes that look like slips in the names of our options: they would be ignored without a word."""
    for name in vars(cls):
        if name.startswith("_") or any(name in vars(base) for base in cls.__mro__[1:]):
            continue
        for near in difflib.get_close_matches(name, _OURS, n=1, cutoff=_LIKE):
            warnings.warn(f"task {named(cls)}: there is no option {name!r}: did you mean {near!r}?", UserWarning, stacklevel=2)


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
            raise TypeError(f"task {named(cls)}: {exc}") from None
        except ValueError as exc:
            raise ValueError(f"task {named(cls)}: {exc}") from None
        if cls.heartbeat_timeout < HEARTBEAT_TIMEOUT_MIN:
            raise ValueError(
                f"task {named(cls)}: heartbeat_timeout={timeout!r} is too short: "
                f"at least {HEARTBEAT_TIMEOUT_MIN:g} seconds, or None for never"
            )
    try:
        cls.cancel_grace = seconds(cls.cancel_grace, "cancel_grace")
    except (TypeError, ValueError) as exc:
        raise type(exc)(f"task {named(cls)}: {exc}") from None
    _check_hook(cls)
    _check_stalls(cls)


def _check_stalls(cls: Any) -> None:
    stalls = cls.max_stalls
    if stalls is not None and stalls is not BY_SETTING:
        if isinstance(stalls, bool) or not isinstance(stalls, int):
            raise TypeError(f"task {named(cls)}: max_stalls={stalls!r} is not a whole number, or None for no limit")
        if stalls < 0:
            raise ValueError(f"task {named(cls)}: max_stalls={stalls!r} is negative: 0 fails at the first loss, None never")


def _check_hook(cls: Any) -> None:
    """Look whether ``on_cancel`` can be called with a context and what the handler must be given.

    :raises TypeError: it cannot.
    """
    if cls.on_cancel is None:
        return
    raw = inspect.getattr_static(cls, "on_cancel")
    if not callable(cls.on_cancel) and not isinstance(cls.on_cancel, staticmethod):
        raise TypeError(f"task {named(cls)}: on_cancel={cls.on_cancel!r} is not a function (ctx, *args, **kwargs)")
    try:
        hook, seen = inspect.signature(cls.on_cancel), inspect.signature(cls.run)
    except (TypeError, ValueError):  # a builtin without a signature, say
        return
    given = [parameter for parameter in list(seen.parameters.values())[1:] if parameter.default is parameter.empty]
    by_name = {parameter.name: None for parameter in given if parameter.kind is parameter.KEYWORD_ONLY}
    placed = [p.name for p in given if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    wanted = ["self"] if inspect.isfunction(raw) else []
    try:
        hook.bind(*wanted, "ctx", *placed, **by_name)
    except TypeError as exc:
        call = ", ".join(["ctx", *placed, *(f"{name}=" for name in by_name)])
        raise TypeError(f"task {named(cls)}: on_cancel{hook} cannot be called as on_cancel({call}): {exc}") from None


def is_left_alone(cls: Any, app: Any) -> bool:
    """Say whether a task is not tracked: by its own word, or because ``taskora_track`` leaves out what takes no context."""
    return not cls.tracked or (cls.taskora_parameter is None and lookup_setting(app, "track", "all") == "context")


def unset_options(cls: Any) -> frozenset[str]:
    """Return which of ``acks_late`` and ``reject_on_worker_lost`` nobody has set; called before Celery fills them in.

    What Celery has filled in on a class that is bound already, and from which this one is derived, is not set by anybody.
    """
    found = ((name, next(vars(base) for base in cls.__mro__ if name in vars(base))) for name in _LATE)
    return frozenset(name for name, options in found if options[name] is None or name in options.get(_FILLED, ()))


def complete_options(cls: Any, app: Any, unset: frozenset[str]) -> None:
    """Fill in what the task leaves to the app's settings, and what follows from ``heartbeat_timeout``; Celery has bound the task.

    :raises ValueError: ``heartbeat_timeout`` is set on a task that is not tracked: nobody would see its signs of life.
    """
    alone = is_left_alone(cls, app)
    if alone and cls.heartbeat_timeout not in (None, BY_SETTING):
        raise ValueError(
            f"task {named(cls)}: heartbeat_timeout={cls.heartbeat_timeout!r} asks for signs of life, but the task is not "
            "tracked; drop it, or track the task (tracked, taskora_track)"
        )
    for name in ("heartbeat_timeout", "max_stalls"):
        if getattr(cls, name) is BY_SETTING:
            setattr(cls, name, _by_setting(app, name))
    check_options(cls)
    if alone:
        cls.heartbeat_timeout = None
    annotated = {name for options in resolve_all(app.annotations, cls) for name in options}
    setattr(cls, _FILLED, unset - annotated)
    if cls.heartbeat_timeout is not None:
        # A message that is acknowledged before the job ends could not be delivered again (rule D8).
        for name in unset - annotated:
            setattr(cls, name, True)


def _by_setting(app: Any, name: str) -> Any:
    default = getattr(Settings(), name)
    try:
        return getattr(Settings.from_conf({PREFIX + name: lookup_setting(app, name, default)}), name)
    except SettingsError:
        return default  # the worker's start says so, in the setting's own name, and there is no worker then
