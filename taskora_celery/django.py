"""What a Django project needs: ``delay_on_commit`` and ``apply_async_on_commit`` (rule A8), and threads that keep no connection.

Django is not imported here.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

__all__ = ["OnCommit", "let_go_of_databases"]


def let_go_of_databases() -> None:
    """Give up this thread's connections to Django's databases that are broken, or older than ``CONN_MAX_AGE``; never raises.

    Django does so around a request and Celery around a job, each in its own thread: in another one a connection that the
    server has closed would be used for ever. One that is in a transaction is kept.
    """
    databases = sys.modules.get("django.db")
    if databases is not None:
        with suppress(Exception):  # imported by somebody, and not configured, say
            databases.close_old_connections()


class OnCommit:
    """Sends a task when the database transaction of its caller has been committed; after a rollback it is never sent.

    An app's own base replaces ``celery.contrib.django.task.DjangoTask``, which Celery chooses in a Django project, so the
    methods stand here and hand over to those of that class. Django is imported when one is called, not before.
    """

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """Call ``delay`` when the transaction is committed; at once where there is none.

        :raises ImportError: Django is not installed.
        """
        from celery.contrib.django.task import DjangoTask

        DjangoTask.delay_on_commit(self, *args, **kwargs)

    def apply_async_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """Call ``apply_async`` when the transaction is committed; at once where there is none.

        :raises ImportError: Django is not installed.
        """
        from celery.contrib.django.task import DjangoTask

        DjangoTask.apply_async_on_commit(self, *args, **kwargs)
