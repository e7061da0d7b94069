"""The project that docs/django.md writes: its own tests pass, and a worker's settings are right."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.pages import blocks_of
from tests.support.worker import worker_env

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("django")

#: Sends in a transaction, and says what a worker would find.
LOOK = """
import django
django.setup()
from django.core.management import call_command
from django.db import transaction
from django.test import RequestFactory
call_command("migrate", run_syncdb=True, verbosity=0)

import redis
from orders.views import place_order
from shop import celery_app
from taskora_celery.about import checked_recovery, checked_settings

place_order(RequestFactory().post("/", {"year": "2026"}))
try:
    with transaction.atomic():
        place_order(RequestFactory().post("/", {"year": "2026"}))
        raise LookupError
except LookupError:
    pass
print(redis.Redis.from_url(celery_app.conf.broker_url).llen("celery"))
settings, endpoint = checked_settings(celery_app)
print(settings.log_limit, settings.redact_keys, checked_recovery(celery_app, None).visibility_timeout)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The files of the page."""
    for block in blocks_of("django.md"):
        named = re.match(r"# (\S+\.py)\n", block)
        assert named is not None, block
        path = tmp_path / named[1]
        path.parent.mkdir(exist_ok=True)
        path.write_text(block, "utf-8")
    (tmp_path / "orders" / "__init__.py").touch()
    return tmp_path


def said(project: Path, redis_url: str, *command: str) -> str:
    """What a command prints that runs in the project."""
    env = worker_env(redis_url, {"REDIS_URL": redis_url, "DJANGO_SETTINGS_MODULE": "shop.settings", "PATH": "/usr/bin:/bin"})
    done = subprocess.run(
        [sys.executable, *command], cwd=project, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_tests_of_the_project_pass(project: Path, redis_url: str) -> None:
    """O1, A8: in Django's own runner, in a transaction."""
    assert "Ran 1 test" in said(project, redis_url, "-m", "django", "test")


def test_a_job_is_sent_when_the_transaction_is_committed(project: Path, redis_url: str) -> None:
    """A8, L4: and never where it is rolled back; the settings have Celery's namespace."""
    assert said(project, redis_url, "-c", LOOK).splitlines() == ["1", "2000 ('iban',) 30.0"]
