"""What an app's configuration says of its set-up, for a worker's start, for ``inspect stats``, and for ``jobs doctor``."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from taskora_celery._version import __version__
from taskora_celery.errors import SettingsError
from taskora_celery.lease.recovery import Recovery, recovery_of
from taskora_celery.runtime import endpoint_of, is_redis, redactor_of, settings_of
from taskora_celery.settings import Settings
from taskora_celery.store.connect import Endpoint, check

__all__ = ["checked_recovery", "checked_settings", "package_versions", "recovery_in", "version_of"]


def checked_settings(app: Any) -> tuple[Settings, Endpoint | None]:
    """Return an app's settings, and where its job records are; None where no Redis is known. Nothing is connected.

    :raises SettingsError: a setting, or an option of the Redis for job records, is wrong: no worker starts with it.
    """
    settings = settings_of(app)
    endpoint = endpoint_of(app, settings)
    redactor_of(settings)
    if endpoint is not None:
        check(endpoint)
    return settings, endpoint


def checked_recovery(app: Any, lease_interval: float | None) -> Recovery | None:
    """Return what :func:`recovery_in` does, where leases are renewed often enough for it; ``lease_interval`` is in seconds.

    :raises SettingsError: an option of the broker is no number, or leases would be renewed too late: no worker starts with it.
    """
    recovery = recovery_in(app)
    options = app.conf.broker_transport_options or {}
    timeout = options.get("visibility_timeout") if recovery is None else recovery.visibility_timeout
    if lease_interval is not None and isinstance(timeout, int | float) and lease_interval >= timeout:
        raise SettingsError(
            f"setting taskora_lease_interval={lease_interval:g} is wrong: not below the broker's "
            f"visibility_timeout={timeout:g}, so messages would be delivered again before they are renewed"
        )
    return recovery


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
