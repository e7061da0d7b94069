"""Builds what is released, looks at it, and tries it as a user has it: ``tox -e release``, or ``python -m tests.release``.

The wheel is made from the sdist, so that is whole, too. It is installed into fresh environments, with no path to the checkout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: The oldest and the newest Python that are supported; where one is not installed, it is passed over.
PYTHONS = ("3.10", "3.13")
#: Those that a user asks for, all tried.
EXTRAS = ("board", "demo", "sqs")
#: What `jobs` answers where no Redis does.
UNREACHABLE = 69
#: And what the board answers then to who has its token.
AWAY = 503

APP = """
from celery import Celery
from taskora_celery import Context, ContextTask

app = Celery("shop", broker="redis://127.0.0.1:1/0", backend="redis://127.0.0.1:1/0", task_cls=ContextTask)


@app.task
def import_rows(data: dict, ctx: Context) -> int:
    for row in ctx.track(range(data["rows"])):
        ctx.log.info("imported", row=row)
    return data["rows"]
"""
TEST = """
from shop import import_rows


def test_the_plugin_comes_with_the_package(job_runner, job_context):
    assert job_runner.run(import_rows, {"rows": 3}).result == 3
    assert job_runner(cancel_at=1).run(import_rows, {"rows": 3}).state == "REVOKED"
    job_context.progress(50)
    assert job_context.get_progress() == 50
"""
IMPORTS = """
import sys
import taskora_celery

assert sys.argv[1] not in taskora_celery.__file__, taskora_celery.__file__
for name in taskora_celery.__all__:
    getattr(taskora_celery, name)
import taskora_celery.django, taskora_celery.flower, taskora_celery.sse, taskora_celery.testing
from importlib.metadata import version
assert version("taskora-celery") == taskora_celery.__version__
from shop import import_rows
assert import_rows.apply(({"rows": 2},)).get() == 2
print("Python", sys.version.split()[0], "has taskora-celery", taskora_celery.__version__)
"""


def main() -> int:
    """Build, look, try; return the exit status."""
    with tempfile.TemporaryDirectory() as directory:
        dist = Path(directory) / "dist"
        run(sys.executable, "-m", "build", "--outdir", str(dist), str(ROOT))
        (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
        run(sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist))
        look_at(wheel)
        pythons = [python for version in PYTHONS if (python := find_python(version)) is not None] or [sys.executable]
        for number, python in enumerate(pythons):
            try_wheel(wheel, python, Path(directory) / f"try{number}")
    print(f"{len(pythons)} passed, 0 failed")
    return 0


def look_at(wheel: Path) -> None:
    """Look at what the wheel says of itself, and at what is in it.

    :raises AssertionError: something is missing, or is there and should not be.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        (entries,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
        told = Parser().parsestr(archive.read(metadata).decode())
        points = archive.read(entries).decode()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"taskora_celery", "pytest_taskora_celery.py"}, tops
    files = (path for path in (ROOT / "taskora_celery").rglob("*") if path.is_file() and path.suffix != ".pyc")
    ours = {path.relative_to(ROOT).as_posix() for path in files}
    assert "taskora_celery/py.typed" in ours
    assert ours <= set(names), f"without {ours - set(names)}"
    assert "jobs = taskora_celery.cli:jobs" in points
    assert "pytest_taskora_celery = pytest_taskora_celery" in points
    look_at_metadata(told)


def look_at_metadata(told: Message) -> None:
    """Look at a wheel's metadata.

    :raises AssertionError: it does not agree with what the project supports.
    """
    classifiers = told.get_all("Classifier") or []
    for version in PYTHONS:
        assert f"Programming Language :: Python :: {version}" in classifiers
    assert "Typing :: Typed" in classifiers
    assert told["Requires-Python"] == f">={PYTHONS[0]}"
    assert told["License-Expression"] == "MIT"
    assert told["Description-Content-Type"] == "text/markdown"
    assert {"board", "sqs", "demo", "test"} <= set(told.get_all("Provides-Extra") or [])
    assert all(url.partition(", ")[2].startswith("https://") for url in told.get_all("Project-URL") or [])
    needed = {
        requirement.split(";")[0].strip() for requirement in told.get_all("Requires-Dist") or [] if "extra ==" not in requirement
    }
    assert {name.split(">")[0].split("<")[0] for name in needed} == {"celery[redis]", "msgspec"}, needed


def find_python(version: str) -> str | None:
    """Return an interpreter of this version, on the PATH or of pyenv; None where there is none."""
    if found := shutil.which(f"python{version}"):
        works = subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0  # a shim may lead nowhere
        if works:
            return found
    installed = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    return next((str(path) for path in sorted(installed.glob(f"{version}.*/bin/python"), reverse=True)), None)


def try_wheel(wheel: Path, python: str, directory: Path) -> None:
    """Install the wheel into a fresh environment, and use it as a user does: alone, then with its extras, the board and the demo.

    :raises subprocess.CalledProcessError: something does not work.
    """
    run(python, "-m", "venv", str(directory / "venv"))
    own = str(directory / "venv" / "bin" / "python")
    run(own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel), "pytest>=8")
    use(own, directory)
    run(own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{wheel}[{','.join(EXTRAS)}]")
    run(own, "-c", "import boto3, pycurl, kombu.transport.SQS")
    try_board(own, directory)
    # Only the example: with the whole checkout beside it, its package would be found and not the one that is installed.
    shutil.copytree(ROOT / "example_project", directory / "example_project")
    told = run(own, "-m", "example_project.demo", "--cancel", cwd=directory)
    assert "REVOKED" in told


def try_board(python: str, directory: Path) -> None:
    """Start the board, and ask for its pages without and with its token; there is no Redis behind it.

    :raises AssertionError: it lets in nobody, or everybody.
    """
    command = [python, "-m", "celery", "-A", "shop", "jobs", "board", "--port=0"]
    print("$", *command, flush=True)
    with subprocess.Popen(command, cwd=directory, env=_env(), stdout=subprocess.PIPE, text=True) as board:
        try:
            assert board.stdout is not None
            url = board.stdout.readline().split()[-1]
            print(url.partition("?")[0], flush=True)
            assert [_status(url.partition("?")[0]), _status(url)] == [401, AWAY]
        finally:
            board.terminate()


def _status(url: str) -> int:
    """Return the status of what a browser gets that keeps cookies and follows redirects."""
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    try:
        with opener.open(url, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def use(python: str, directory: Path) -> None:
    """Use what is installed for this interpreter: its modules, its commands, its fixtures.

    :raises subprocess.CalledProcessError: something does not work.
    """
    (directory / "shop.py").write_text(APP)
    (directory / "test_shop.py").write_text(TEST)
    celery = [python, "-m", "celery", "-A", "shop", "jobs"]
    run(python, "-c", IMPORTS, str(ROOT), cwd=directory)
    assert "watch" in run(*celery, "--help", cwd=directory)
    run(*celery, "list", cwd=directory, status=UNREACHABLE)
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=directory)


def run(*command: str, cwd: Path | None = None, status: int = 0) -> str:
    """Run a command, show what it says, and return what it prints; nothing leads it to the checkout.

    :raises subprocess.CalledProcessError: its exit status is another one.
    """
    print("$", *(part if "\n" not in part else "…" for part in command), flush=True)
    done = subprocess.run(command, cwd=cwd, env=_env(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(done.stdout, end="", flush=True)
    if done.returncode != status:
        raise subprocess.CalledProcessError(done.returncode, command)
    return done.stdout


def _env() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}}


if __name__ == "__main__":
    sys.exit(main())
