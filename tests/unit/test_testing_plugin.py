"""The pytest plugin, in pytest runs of its own, beside those of pytest-celery and of Celery."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

TASKS = """
from celery import Celery
from taskora_celery import Context, ContextTask

app = Celery("shop", broker="redis://127.0.0.1:1/0", backend="redis://127.0.0.1:1/0", task_cls=ContextTask)


@app.task(acks_late=True)
def work(to, ctx: Context):
    for number in ctx.track(range(to)):
        ctx.sleep(1)
    return to
"""

USING = """
from shop import work


def test_a_run(job_runner):
    assert job_runner.run(work, 3).progress[-1]["percent"] == 100.0
    assert job_runner(cancel_at=2).run(work, 3).state == "REVOKED"


def test_a_direct_call(job_context):
    assert work(3, ctx=job_context) == 3
    assert job_context.sleeps == [1.0, 1.0, 1.0]
"""

NOT_USING = """
import sys


def test_without_a_fixture():
    assert not [name for name in sys.modules if name.split(".")[0] in {"taskora_celery", "celery", "kombu"}]
"""

BESIDE_CELERYS = """
import pytest
from taskora_celery import Context, ContextTask


@pytest.fixture(scope="session")
def celery_parameters():
    return {"task_cls": ContextTask}


def test_beside_celerys_own(celery_app, celery_worker, job_runner, job_context):
    @celery_app.task
    def work(to, ctx: Context):
        ctx.progress(to)
        return to

    celery_worker.reload()
    assert job_runner.run(work, 3).progress == (3,)
    assert work.delay(4).get(timeout=30) == 4
    assert work(5, ctx=job_context) == 5
"""


def _pytest(folder: Path, test: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a test in a process of its own, with no plugin but those that are given."""
    (folder / "shop.py").write_text(TASKS)
    (folder / "test_shop.py").write_text(test)
    environ = {
        **os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "PYTEST_ADDOPTS": "",
    }  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-q", "-p", "pytest_taskora_celery", *options, "test_shop.py"]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("beside", [(), ("-p", "celery.contrib.pytest"), ("-p", "pytest_celery.plugin")], ids=str)
def test_the_fixtures_run_jobs(tmp_path: Path, beside: tuple[str, ...]) -> None:
    """O2: alone, and beside the plugins that people who test Celery have."""
    if "pytest_celery.plugin" in beside:
        pytest.importorskip("pytest_celery")
    done = _pytest(tmp_path, USING, *beside)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_an_app_of_celerys_own_fixtures_is_run(tmp_path: Path) -> None:
    """O2: beside a worker of ``celery.contrib.pytest``, and where Celery traps the use of a default app."""
    done = _pytest(tmp_path, BESIDE_CELERYS, "-p", "celery.contrib.pytest")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_test_run_that_uses_no_fixture_imports_nothing(tmp_path: Path) -> None:
    """O2: pytest imports the plugin at each start; neither this library nor Celery comes with it."""
    done = _pytest(tmp_path, NOT_USING)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("plugin", ["celery.contrib.pytest", "pytest_celery.plugin"])
def test_no_name_clashes(plugin: str) -> None:
    """O2: a fixture of the same name would silently take the place of the other."""
    ours, theirs = _fixtures(import_module("pytest_taskora_celery")), _fixtures(pytest.importorskip(plugin))
    assert {"job_runner", "job_context"} == ours
    assert theirs
    assert not ours & theirs


def _fixtures(module: Any) -> set[str]:
    kind = type(import_module("pytest_taskora_celery").job_runner)
    return {name for name, value in vars(module).items() if type(value) is kind}


def test_pytest_finds_the_plugin_by_its_entry_point() -> None:
    """O2: under the module's own name, so that ``-p`` with it is the same plugin."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    assert '[project.entry-points.pytest11]\npytest_taskora_celery = "pytest_taskora_celery"\n' in text
