"""What happens once, when a worker starts: the settings are read, and a wrong one stops it."""

from __future__ import annotations

import logging
from typing import Any

from celery import bootsteps

from taskora_celery.errors import SettingsError
from taskora_celery.lease.rabbitmq import unrenewable_warning
from taskora_celery.runtime import endpoint_of, redactor_of, settings_of
from taskora_celery.settings import REDIS_SCHEMES
from taskora_celery.store.connect import check

__all__ = ["CheckSettings"]

#: kombu's own default on Redis, in seconds.
KOMBU_VISIBILITY_TIMEOUT = 3600.0

logger = logging.getLogger("taskora_celery.worker")


class CheckSettings(bootsteps.Step):  # type: ignore[misc]
    """Reads the app's ``taskora_*`` settings before the pool starts (rules L2, L4)."""

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        try:
            settings = settings_of(parent.app)
            endpoint = endpoint_of(parent.app, settings)
            redactor_of(settings)
            if endpoint is not None:
                check(endpoint)
            _check_lease(parent.app, settings)
        except SettingsError as exc:
            raise SystemExit(f"taskora_celery: {exc}") from exc
        warning = unrenewable_warning(parent.app.connection_for_read())
        if warning is not None:
            logger.warning(warning)
        if endpoint is None:
            logger.warning(
                "taskora_redis_url is not set, and neither the result backend nor the broker is Redis: job records are off. "
                "Progress appears in the result backend only; logs, checkpoints and history are not kept."
            )


def _check_lease(app: Any, settings: Any) -> None:
    timeout = (app.conf.broker_transport_options or {}).get("visibility_timeout")
    if timeout is None and str(app.conf.broker_read_url or app.conf.broker_url).startswith(REDIS_SCHEMES):
        timeout = KOMBU_VISIBILITY_TIMEOUT
    if settings.lease_interval is not None and timeout is not None and settings.lease_interval >= timeout:
        raise SettingsError(
            f"setting taskora_lease_interval={settings.lease_interval:g} is wrong: not below the broker's "
            f"visibility_timeout={timeout:g}, so messages would be delivered again before they are renewed"
        )
