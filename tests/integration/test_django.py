"""A real Django project: its tasks are sent when the transaction of their caller is committed (rule A8)."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from celery import Celery

from taskora_celery import JobHandle
from tests.support.worker import REPO_ROOT, worker_env

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.worker_fixtures import StartWorker

pytest.importorskip("django")

TIMEOUT = 30.0  # seconds


@pytest.mark.parametrize("base", ["", "taskora_celery:ContextTask"], ids=["django-task", "context-task"])
def test_tasks_are_sent_on_commit(start_worker: StartWorker, redis_url: str, tmp_path: Path, base: str) -> None:
    """A8: a project that switches to this base keeps the methods of Celery's, without another change."""
    project = {
        "DJANGO_SETTINGS_MODULE": "tests.support.django_project.settings",
        "SHOP_DATABASE": str(tmp_path / "shop.sqlite3"),
        "SHOP_TASK_CLS": base,
    }
    placed = subprocess.run(
        [sys.executable, "-m", "tests.support.django_project.place_orders"],
        env=worker_env(redis_url, {**project, "PATH": "/usr/bin:/bin"}),
        cwd=REPO_ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert placed.returncode == 0, placed.stderr
    assert json.loads(placed.stdout) == {
        "before the commit": 0,
        "after the commit": 2,
        "after the rollback": 2,
        "without a transaction": 3,
    }
    start_worker("tests.support.django_project.celery:app", concurrency=1, env=project)
    app = Celery("observer", broker=redis_url, backend=redis_url, set_as_current=False)
    app.conf.taskora_key_prefix = "shop:taskora:"  # CELERY_TASKORA_KEY_PREFIX of the project
    for name in ("committed", "no transaction"):
        found = app.AsyncResult(name).get(timeout=TIMEOUT)
        assert found == [name, "ContextTask" if base else "DjangoTask", bool(base)]
    assert app.AsyncResult("rolled back").state == "PENDING"
    if base:
        logs = JobHandle("committed", app=app).get_logs()
        assert [entry.meta for entry in logs] == [{"n": n} for n in range(5)]


def test_django_is_not_imported_before_it_is_asked_for() -> None:
    """A8: a project without Django pays nothing, and may not even have it."""
    code = (
        "import sys; sys.modules['django'] = None\n"
        "import celery, taskora_celery\n"
        "app = celery.Celery('x', broker='memory://', task_cls=taskora_celery.ContextTask)\n"
        "def work(): ...\n"
        "task = app.task(work)\n"
        "try: task.delay_on_commit()\n"
        "except ImportError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=REPO_ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert "django" in run.stdout
