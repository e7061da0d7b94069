"""The app that docs/coroutines.md writes, block by block: ``-A tests.support.coroutines_page:app``."""

from __future__ import annotations

import os
from typing import Any

from tests.support.pages import DOCS, code_of

# The page makes the app, and its tasks, which a worker finds by this module's name.
exec(compile(code_of("coroutines.md"), str(DOCS / "coroutines.md"), "exec"), globals())
app: Any = globals()["app"]
app.conf.update(
    broker_url=os.environ.get("BROKER_URL", "memory://"),
    result_backend=os.environ.get("RESULT_BACKEND", "cache+memory://"),
    result_expires=600,
    broker_connection_retry_on_startup=True,
)


def __getattr__(name: str) -> Any:
    """For mypy: the page defines the rest."""
    raise AttributeError(name)
