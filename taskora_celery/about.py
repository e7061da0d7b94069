"""What an app's configuration says of its set-up, for a worker's start, for ``inspect stats``, and for ``jobs doctor``."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from taskora_celery._version import __version__
from taskora_celery.lease.recovery import Recovery, recovery_of
from taskora_celery.runtime import is_redis

__all__ = ["package_versions", "recovery_in", "version_of"]


def recovery_in(app: Any) -> Recovery | None:
    """Return how soon a dead worker's messages come back; None where the broker is not Redis.

    :raises SettingsError: an option of the broker is no number.
    """
    if not is_redis(app.conf.broker_read_url or app.conf.broker_url):
        return None
    channel = app.connection_for_read().transport.Channel
    options = app.conf.broker_transport_options or {}
    return recovery_of(options, configurable=hasattr(channel, "unacked_restore_throttle"))


def package_versions() -> dict[str, str]:
    """Return the versions of what this process runs on, by package."""
    found = {"taskora-celery": __version__, "Python": platform.python_version()}
    return found | {name: number for name in ("celery", "kombu", "redis") if (number := version_of(name)) is not None}


def version_of(package: str) -> str | None:
    """Return the version of a package, None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
