"""What is released can be built from what is here, and works where it is installed.

``tox -e release`` tries more: other Pythons, the extras with their packages, the demo.
"""

from __future__ import annotations

import re
import sys
import tarfile
from pathlib import Path

import pytest

from taskora_celery import __version__
from tests import release

#: By the backend itself, without a front end: that would fetch the backend into an environment of its own.
BUILD = "import sys; from hatchling import build; print(getattr(build, 'build_' + sys.argv[1])(sys.argv[2]))"


def build(kind: str, source: Path, into: Path) -> Path:
    """Build a ``wheel`` or an ``sdist`` of a source tree."""
    return into / release.run(sys.executable, "-c", BUILD, kind, str(into), cwd=source).split()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution."""
    pytest.importorskip("hatchling")
    return build("sdist", release.ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """The wheel, built from the source distribution, so that this is whole, too."""
    with tarfile.open(sdist) as archive:
        # Python 3.10.11 and older have no filters; the archive is our own.
        archive.extractall(sdist.parent, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # type: ignore[arg-type]
    return build("wheel", sdist.parent / sdist.name.removesuffix(".tar.gz"), sdist.parent)


def test_the_wheel_holds_the_package_and_says_what_it_is(wheel: Path) -> None:
    """Each file of the package, and metadata that agrees with what is supported."""
    assert wheel.name == f"taskora_celery-{__version__}-py3-none-any.whl"
    release.look_at(wheel)


def test_the_sdist_holds_tests_and_documentation_and_nothing_that_was_made(sdist: Path) -> None:
    """Who packages it for a distribution runs the tests from it."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "tests/unit/test_release.py",
        "docs/index.rst",
        "example_project/tasks.py",
        "tox.ini",
        ".ci/install-chromium",
        "LICENSE",
        "CHANGELOG.md",
    } <= names
    assert not [name for name in names if re.search(r"__pycache__|\.pyc$|^build/|^dist/|\.log$", name)]


def test_the_wheel_works_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    """K3, O2: all modules, the commands and the pytest plugin; with this environment's Celery, and nothing of the checkout."""
    release.run(sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv"))
    own = str(tmp_path / "venv" / "bin" / "python")
    release.run(sys.executable, "-m", "pip", "--python", own, "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    release.use(own, tmp_path)


def test_the_changelog_has_this_version() -> None:
    """Who upgrades reads what has changed; what is not released is above it."""
    text = (release.ROOT / "CHANGELOG.md").read_text("utf-8")
    headings = re.findall(r"^## \[(.+?)\](.*)$", text, re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    assert headings[1][0] == __version__
    assert re.fullmatch(r" - \d{4}-\d\d-\d\d", headings[1][1])
