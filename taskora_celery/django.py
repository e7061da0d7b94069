"""``delay_on_commit`` and ``apply_async_on_commit``, which Celery gives the tasks of a Django project (rule A8)."""

from __future__ import annotations

from typing import Any

__all__ = ["OnCommit"]


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
