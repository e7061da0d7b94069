"""The pytest plugin of taskora-celery: fixtures ``job_runner`` and ``job_context``.

pytest imports this at every start. It stands outside the package, whose import would bring Celery along: that is paid by the
tests that use a fixture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from taskora_celery.testing import FakeContext, JobRunner


@pytest.fixture
def job_runner() -> JobRunner:
    """Run tasks with no broker and no Redis: ``job_runner.run(task, …)``, ``job_runner(cancel_at=3).run(task, …)``."""
    from taskora_celery.testing import JobRunner

    return JobRunner()


@pytest.fixture
def job_context() -> FakeContext:
    """Be the context of a handler that is called directly; it keeps what is reported."""
    from taskora_celery.testing import fake_context

    return fake_context()
