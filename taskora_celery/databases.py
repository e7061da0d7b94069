"""A thread of ours that stores through Django's databases keeps no connection for ever. Django is not imported here."""

from __future__ import annotations

import sys
from contextlib import suppress

__all__ = ["let_go_of_databases"]


def let_go_of_databases() -> None:
    """Give up this thread's connections to Django's databases that are broken, or older than ``CONN_MAX_AGE``; never raises.

    Django does so around a request and Celery around a job, each in its own thread: in another one a connection that the
    server has closed would be used for ever. One that is in a transaction is kept.
    """
    databases = sys.modules.get("django.db")
    if databases is not None:
        with suppress(Exception):  # imported by somebody, and not configured, say
            databases.close_old_connections()
