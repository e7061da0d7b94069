"""All settings of this library, in the one place that defines, validates and documents them.

They are flat ``taskora_*`` keys of ``app.conf``. A worker reads them when it starts and does not start with a wrong one.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from taskora_celery.clock import seconds
from taskora_celery.errors import SettingsError

__all__ = ["PREFIX", "REDIS_SCHEMES", "Settings", "settings_table"]

PREFIX = "taskora_"
REDIS_SCHEMES = (
    "redis", "rediss", "unix", "redis+socket", "sentinel", "sentinels", "redis+cluster", "rediss+cluster",
)  # fmt: skip

_Check = Callable[[Any], Any]


def _duration(minimum: float = 0.0) -> _Check:
    def check(value: Any) -> float:
        try:
            number = seconds(value, "")
        except TypeError:
            raise TypeError("not a duration: give seconds or a timedelta") from None
        except ValueError:
            raise ValueError("not a duration: give 0 or more seconds") from None
        if number < minimum:
            raise ValueError(f"at least {minimum:g} seconds")
        return number

    return check


def _count(minimum: int) -> _Check:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError("a whole number")
        if value < minimum:
            raise ValueError(f"at least {minimum}")
        return value

    return check


def _optional(check: _Check) -> _Check:
    return lambda value: None if value is None else check(value)


def _one_of(*choices: object) -> _Check:
    def check(value: Any) -> Any:
        if not any(value is choice or (isinstance(choice, str) and value == choice) for choice in choices):
            raise ValueError(f"one of {', '.join(map(repr, choices))}")
        return value

    return check


def _url(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a URL such as redis://localhost:6379/0")
    scheme = value.split("://", 1)[0] if "://" in value else ""
    if scheme not in REDIS_SCHEMES:
        raise ValueError(f"a URL such as redis://localhost:6379/0 (schemes: {', '.join(REDIS_SCHEMES)})")
    for part in value.split(";"):
        try:
            urlsplit(part).port  # noqa: B018 - reading it is the check
        except ValueError:  # its text may hold a part of the password: one with a slash, say, ends up in the port
            raise ValueError("a URL such as redis://localhost:6379/0 (special characters in a password: %2F for /)") from None
    return value


def _prefix(value: Any) -> str:
    if not isinstance(value, str) or not value or "{" in value or "}" in value:
        raise ValueError("a non-empty text without braces (Redis Cluster reads those as the hash tag)")
    return value


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not all(isinstance(name, str) for name in value):
        raise TypeError("a list of key names")
    return tuple(value)


def _hook(value: Any) -> Any:
    if value is not None and not callable(value) and not (isinstance(value, str) and "." in value):
        raise TypeError("a callable (key, value) -> value, or its dotted path")
    return value


def _setting(default: Any, check: _Check, meaning: str) -> Any:
    return field(default=default, metadata={"check": check, "meaning": meaning})


@dataclass(frozen=True, slots=True)
class Settings:
    """The validated settings of one app; each field is the key ``taskora_<name>``."""

    redis_url: str | None = _setting(
        None, _optional(_url),
        "Where job records are kept. None: the result backend if it is Redis, else the broker if it is.",
    )  # fmt: skip
    key_prefix: str = _setting("taskora:", _prefix, "Begins every key. A `global_keyprefix` of the transport comes before it.")
    record_ttl: float | None = _setting(
        None, _optional(_duration(1.0)),
        "Seconds that a job's record is kept after its last change. None: `result_expires`, or a day where that never expires.",
    )  # fmt: skip
    flush_interval: float = _setting(
        0.1,
        _duration(0.005),
        "Seconds between two writes of what the jobs of a process report; the first goes out at once.",
    )
    backend_interval: float = _setting(
        1.0, _duration(0.1),
        "Seconds between two PROGRESS writes of one job to the result backend, which sends the whole value to every waiter.",
    )  # fmt: skip
    lease_interval: float | None = _setting(
        None, _optional(_duration(0.05)),
        "Seconds between two renewals of a message's visibility. None: a third of the visibility timeout, at most 60.",
    )  # fmt: skip
    heartbeat_timeout: float | None = _setting(
        None, _optional(_duration(0.5)),
        "Seconds without a sign of life after which a job counts as stalled, for tasks that do not say. None: never.",
    )  # fmt: skip
    max_stalls: int | None = _setting(
        1, _optional(_count(0)),
        "How often a job may be lost or stalled and delivered again, for tasks that do not say. None: any number of times.",
    )  # fmt: skip
    log_limit: int = _setting(10_000, _count(1), "Log entries kept per job, the newest; the rest is counted.")
    index_limit: int = _setting(10_000, _count(0), "Jobs that can be listed, those whose state changed last; 0 for no list.")
    log_entry_bytes: int = _setting(
        8_192, _count(64), "Size of one log entry, message and meta; what is longer is cut and marked."
    )
    value_bytes: int = _setting(65_536, _count(64), "Size of a progress value; what is larger is cut and marked.")
    checkpoint_bytes: int = _setting(1_048_576, _count(64), "Size of a checkpoint; a larger one is refused with a ValueError.")
    buffer_limit: int = _setting(
        10_000,
        _count(1),
        "Log entries that one job may have waiting in memory; beyond it the oldest are dropped and counted.",
    )
    final_flush_timeout: float = _setting(
        1.0, _duration(0.01), "Seconds that the start or the end of a job waits for a store that does not answer."
    )
    capture_logging: bool | str = _setting(
        True, _one_of(True, False, "root"),
        'Python logging that becomes entries of the running job: True that of `get_task_logger`, `"root"` all, False none.',
    )  # fmt: skip
    redact_keys: tuple[str, ...] = _setting((), _names, "Names of keys whose values are hidden, in addition to the default list.")
    redact: Callable[[str, Any], Any] | str | None = _setting(
        None,
        _hook,
        "Your own rule `(key, value) -> value`, or its dotted path, for every value that is written or emitted.",
    )
    flower_events: bool | str = _setting(
        "progress", _one_of("progress", "sticky", False),
        'Progress as events for Flower: `"progress"` while a job runs, `"sticky"` kept before its arguments, too, False none.',
    )  # fmt: skip
    track: str = _setting(
        "all", _one_of("all", "context"), '`"context"` leaves tasks without a context parameter entirely alone.'
    )

    @classmethod
    def from_conf(cls, conf: Mapping[str, Any]) -> Settings:
        """Return the settings in ``conf``, a mapping that may hold other keys too.

        :raises SettingsError: an unknown ``taskora_*`` key (the nearest known one is named), or a wrong value.
        """
        known = {PREFIX + f.name: f for f in dataclasses.fields(cls)}
        values = {}
        for key in sorted(key for key in conf if key.startswith(PREFIX)):
            if key not in known:
                raise SettingsError(_unknown(key, list(known)))
            values[known[key].name] = _checked(key, conf[key], known[key].metadata["check"])
        return cls(**values)


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"unknown setting {key!r}: did you mean {near[0]!r}? (all settings: docs/settings.md)"


def _checked(key: str, value: Any, check: _Check) -> Any:
    try:
        return check(value)
    except (TypeError, ValueError, OverflowError) as exc:
        shown = "a URL that is not shown" if "@" in str(value) or "password=" in str(value) else repr(value)
        raise SettingsError(f"setting {key}={shown} is wrong: {exc}") from None


def _shown(value: Any) -> str:
    if isinstance(value, timedelta | float) and math.isfinite(float(value)):  # type: ignore[arg-type]
        return f"{value:g}"
    return repr(value)


def settings_table() -> str:
    """Return the Markdown table of all settings, as it stands in the docs."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    rows += [f"| `{PREFIX}{f.name}` | `{_shown(f.default)}` | {f.metadata['meaning']} |" for f in dataclasses.fields(Settings)]
    return "\n".join(rows) + "\n"
