"""How Sphinx builds the documentation: ``tox -e docs``.

The source directory is the root of the repository, so that a link between two Markdown files is the same here and on GitHub.
"""

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
