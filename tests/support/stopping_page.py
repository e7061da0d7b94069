"""The app that docs/stopping.md writes, block by block, on the Redis of the test at hand: ``-A tests.support.stopping_page:app``."""

from __future__ import annotations

import os
from typing import Any

from tests.support.pages import DOCS, code_of

app: Any
exec(compile(code_of("stopping.md"), str(DOCS / "stopping.md"), "exec"), globals())
app.conf.update(
    broker_url=os.environ.get("BROKER_URL", "memory://"),
    result_backend=os.environ.get("RESULT_BACKEND", "cache+memory://"),
    result_expires=600,
    broker_connection_retry_on_startup=True,
)


def __getattr__(name: str) -> Any:
    """For mypy: the page defines the rest."""
    raise AttributeError(name)
