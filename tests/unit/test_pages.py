"""The Markdown pages: what they link to is there, and the commands that they name exist."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from example_project.demo.cli import parser
from taskora_celery.cli import jobs
from tests.support.pages import DOCS

ROOT = DOCS.parent
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("benchmarks/*.md")])

_CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_COMMAND = re.compile(r"celery -A \S+ jobs ([a-z]+)([^`\n|#]*)")
_TOX = re.compile(r"tox (?:run )?-e (\w+)")
_DEMO = re.compile(r"tox run -e demo -- ([^`\n#]*)")
_EXTRAS = re.compile(r"(?:taskora-celery|pip install [-\w ]*['\"]?\.)\[([\w,]+)\]")
_PATH = re.compile(r"(?<![\w/.])(?:tests|docs|benchmarks|taskora_celery|example_project)/[\w/.-]*\w")
_OPTION = re.compile(r"(?<!\S)--?[a-z][a-z-]*")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub, and MyST, give the headings of a page."""
    headings = _HEADING.findall(_CODE.sub("", page.read_text("utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    """Also to the headings of other pages; addresses of other sites are not looked at."""
    for link in _LINK.findall(_CODE.sub("", page.read_text("utf-8"))):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), f"{link}: no such file (a link to a directory is none on the built site)"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


@each_page
def test_files_that_pages_name_are_there(page: Path) -> None:
    """By their path from the root of the repository, or from the page, also where they are no link: in a command, say."""
    for path in _PATH.findall(page.read_text("utf-8")):
        assert (ROOT / path).exists() or (page.parent / path).exists(), path


@each_page
def test_what_pages_say_to_tox_and_pip_is_there(page: Path) -> None:
    """The environments of tox.ini, the demo's options, and the extras of pyproject.toml."""
    text = page.read_text("utf-8")
    environments = {"py", *re.findall(r"^\[testenv:(\w+)\]", (ROOT / "tox.ini").read_text("utf-8"), re.MULTILINE)}
    assert set(_TOX.findall(text)) <= environments
    told = {option for options in _DEMO.findall(text) for option in _OPTION.findall(options)}
    assert told <= {option for action in parser()._actions for option in action.option_strings}
    extras = (ROOT / "pyproject.toml").read_text("utf-8").partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    named = {extra for extras in _EXTRAS.findall(text) for extra in extras.split(",")}
    assert named <= set(re.findall(r"^(\w+) = \[", extras, re.MULTILINE))


@each_page
def test_the_commands_that_pages_name_exist(page: Path) -> None:
    """K3: the command, and each of its options."""
    for name, options in _COMMAND.findall(page.read_text("utf-8")):
        command = jobs.get_command(click.Context(jobs), name)
        assert command is not None, f"there is no command {name!r}"
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert set(_OPTION.findall(options)) <= {*known, "--help"}, f"jobs {name}"
