"""What happens once, when a worker starts: the settings are read, and a wrong one stops it."""

from __future__ import annotations

import logging
from typing import Any

from celery import bootsteps

from taskora_celery.about import checked_recovery, checked_settings
from taskora_celery.errors import SettingsError
from taskora_celery.lease.rabbitmq import unrenewable_warning

__all__ = ["CheckSettings"]

logger = logging.getLogger("taskora_celery.worker")


class CheckSettings(bootsteps.Step):  # type: ignore[misc]
    """Reads the app's ``taskora_*`` settings before the pool starts (rules L2, L4)."""

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        try:
            settings, endpoint = checked_settings(parent.app)
            recovery = checked_recovery(parent.app, settings.lease_interval)
        except SettingsError as exc:
            raise SystemExit(f"taskora_celery: {exc}") from exc
        if recovery is not None:
            logger.info(recovery.told)
        for told in _early_acknowledged(parent.app):
            logger.warning(told)
        warning = unrenewable_warning(parent.app.connection_for_read())
        if warning is not None:
            logger.warning(warning)
        if endpoint is None:
            logger.warning(
                "taskora_redis_url is not set, and neither the result backend nor the broker is Redis: job records are off. "
                "Progress appears in the result backend only; logs, checkpoints and history are not kept."
            )


def _early_acknowledged(app: Any) -> list[str]:
    """Return a warning for each task whose silence is looked for, and whose message is gone by then."""
    tasks = [task for _, task in sorted(app.tasks.items()) if isinstance(getattr(task, "heartbeat_timeout", None), float)]
    return [
        f"task {task.name}: heartbeat_timeout={task.heartbeat_timeout:g} with acks_late=False: a job that shows no sign of life "
        "is given up, and never delivered again, since its message was acknowledged at its start; set acks_late=True"
        for task in tasks if not task.acks_late
    ]  # fmt: skip
