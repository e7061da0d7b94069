"""How Sphinx builds the documentation: ``tox -e docs``.

The source directory is the root of the repository, so that a link between two Markdown files is the same here and on GitHub.
"""

from pathlib import Path

from taskora_celery import __version__

project = "taskora-celery"
author = "the taskora-celery authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "docs/index"
# The two README.md are for GitHub; docs/index.rst includes that of this directory.
include_patterns = [
    "docs/index.rst",
    "docs/*.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/RESULTS.md",
    "example_project/README.md",
]
exclude_patterns = ["docs/README.md", ".*", "build", "dist"]

myst_heading_anchors = 4  # GitHub gives each heading an anchor

html_theme = "furo"
html_title = "taskora-celery"
html_copy_source = False
html_show_sphinx = html_show_copyright = False
templates_path = ["_templates"]
html_additional_pages = {"index": "redirect.html"}  # hosts look for one at the top

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

#: Entries of docs/index.rst that may be there before their pages are.
PAGES_TO_COME = ("board", "reliability", "performance", "scale", "../SECURITY")


def leave_out_pages_to_come(_app: object, document: str, source: list[str]) -> None:
    """Drop the entries of pages that are not written yet from the table of contents."""
    if document == root_doc:
        missing = {page for page in PAGES_TO_COME if not (Path(__file__).parent / f"{page}.md").exists()}
        source[0] = "\n".join(line for line in source[0].splitlines() if line.strip() not in missing)


def setup(app: object) -> None:
    """Be an extension of this one site."""
    app.connect("source-read", leave_out_pages_to_come)
