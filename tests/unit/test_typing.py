"""The types of the public API: two type checkers read ``tests/typing``, and what they are told holds at run time."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import celery
import pytest

import taskora_celery
from taskora_celery import Celery, Context, ContextTask, EagerJobHandle, JobHandle, shared_task
from tests.support.pages import code_of

ROOT = Path(__file__).resolve().parents[2]
#: As a user has it, who knows nothing of this project's settings.
MYPY = ("mypy", "--strict", "--config-file=", "--cache-dir=/dev/null", "--ignore-missing-imports", "--follow-imports=silent")
PYRIGHT = ("pyright", "--pythonpath", sys.executable)


def _installed(distribution: str) -> bool:
    try:
        return bool(version(distribution))
    except PackageNotFoundError:
        return False


def _check(*command: str) -> None:
    if find_spec(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_takes_right_uses_of_the_public_api_and_refuses_wrong_ones() -> None:
    """N1: each wrong use carries its error, and mypy complains of one that does not come."""
    _check(*MYPY, "tests/typing/api.py")


def test_pyright_takes_right_uses_of_the_public_api_and_refuses_wrong_ones() -> None:
    """N1: pyright in strict mode, by the settings of pyproject.toml; what Celery leaves unknown is not seen through the API."""
    _check(*PYRIGHT)


@pytest.mark.parametrize("checker", [MYPY, PYRIGHT], ids=["mypy", "pyright"])
def test_the_examples_of_the_documentation_are_typed(checker: tuple[str, ...], tmp_path: Path) -> None:
    """N1: docs/typing.md as a module of its own."""
    page = tmp_path / "typing_page.py"
    page.write_text("# pyright: strict\n" + code_of("typing.md"), "utf-8")
    _check(*checker, str(page))


needs_stubs = pytest.mark.skipif(not _installed("celery-types"), reason="celery-types is not installed (tox -e typing)")


@needs_stubs
def test_mypy_takes_the_api_for_what_celery_types_says_of_celery() -> None:
    """N1: with the stubs, a task of this package is a ``Task``, its handle an ``AsyncResult``, and Celery's own app goes on."""
    _check(*MYPY, "tests/typing/celery_types.py")


@needs_stubs
def test_pyright_takes_the_api_for_what_celery_types_says_of_celery() -> None:
    """N1: the same for pyright."""
    _check(*PYRIGHT, "tests/typing/celery_types.py")


def _app(cls: type[Celery] = Celery, **options: Any) -> Celery:
    return cls("typed", broker="memory://", backend="cache+memory://", set_as_current=False, **options)


def test_the_typed_app_is_celerys_with_another_base_of_tasks() -> None:
    """N1, A6: ``task_cls`` is all that differs; a base of the user's own is kept."""

    class Base(ContextTask):
        pass

    assert {name for name in vars(Celery) if not name.startswith("__")} == {"task_cls"}
    assert issubclass(_app().Task, ContextTask)
    assert issubclass(_app(task_cls=Base).Task, Base)
    assert isinstance(pickle.loads(pickle.dumps(_app())), Celery)


def test_tasks_of_the_typed_app_run_as_ever() -> None:
    """N1: the decorator is Celery's own, bound tasks and classes of tasks included."""
    app = _app()

    @app.task
    def double(count: int, ctx: Context) -> int:
        ctx.progress(50)
        return 2 * count

    @app.task(bind=True, name="named")
    def bound(self: ContextTask, ctx: Context) -> str:
        return str(self.name)

    class Index(ContextTask[[str], int]):
        name = "index"

        def run(self, sku: str, ctx: Context) -> int:
            return len(sku)

    index = app.register_task(Index())
    assert (double.apply((2,)).get(), bound.apply().get(), index.apply(("abc",)).get(), index("ab")) == (4, "named", 3, 2)
    assert isinstance(double.delay(1), JobHandle)


def test_a_typed_shared_task_has_the_context_in_any_app() -> None:
    """N1, A4: ``shared_task`` makes tasks with a context also for an app that has Celery's own base; a given base is kept."""

    class Base(ContextTask):
        abstract = True

    @shared_task(name="shared_and_typed")
    def double(count: int, ctx: Context) -> int:
        return 2 * count

    @shared_task(name="shared_with_base", base=Base)
    def half(count: int) -> float:
        return count / 2

    app = _app(celery.Celery)
    app.finalize()
    assert app.tasks["shared_and_typed"].apply((2,)).get() == 4
    assert isinstance(app.tasks["shared_and_typed"], ContextTask)
    assert isinstance(app.tasks["shared_with_base"], Base)


def test_handles_and_tasks_take_type_arguments_at_run_time() -> None:
    """N1: in annotations that are evaluated, in bases, and in calls; a handle stays what it is when it is copied or pickled."""
    handle = JobHandle[int]("id", app=_app())
    assert type(handle) is JobHandle
    assert copy.copy(handle) == handle
    assert pickle.loads(pickle.dumps(handle)).id == "id"
    assert (JobHandle[int].__origin__, EagerJobHandle[str].__origin__) == (JobHandle, EagerJobHandle)
    assert ContextTask[[str], int].__origin__ is ContextTask


def test_the_package_says_that_it_is_typed() -> None:
    """N1: without ``py.typed`` type checkers take everything in it for ``Any``."""
    assert (Path(taskora_celery.__file__).parent / "py.typed").is_file()
