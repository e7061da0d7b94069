"""A result backend on Redis that stores a RETRY only when a gate is opened."""

from __future__ import annotations

from typing import Any

from celery.backends.redis import RedisBackend

from tests.support import gates


class LateRetries(RedisBackend):  # type: ignore[misc]
    """For ``RESULT_BACKEND=tests.support.late_backend:LateRetries+redis://…``."""

    def mark_as_retry(self, task_id: str, *args: Any, **kwargs: Any) -> Any:
        """Stop at the gate ``retry``, then do what is to be done."""
        gates.stop_at(task_id, "retry")
        return super().mark_as_retry(task_id, *args, **kwargs)
