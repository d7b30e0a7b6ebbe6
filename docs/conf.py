"""Sphinx makes the documentation of these pages and of the docstrings.

In the root of the project: `python -m sphinx -W --keep-going -b html docs build/docs`. What it makes needs no
network.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

import packetwire

sys.path.insert(0, str(Path(__file__).with_name("extensions")))
from docstrings import WITHOUT_INHERITED

project = "packetwire"
version = release = packetwire.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "docstrings"]

html_theme = "furo"
html_title = f"packetwire {version}"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["pages.css"]

# the pages are written for GitHub, too: headings have the anchors that they have there
myst_heading_anchors = 4

add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {
    "members": True,
    "undoc-members": True,
    "special-members": "__call__, __iter__, __aiter__, __await__",
    "inherited-members": ",".join(WITHOUT_INHERITED),
}
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"

# what stands between single backquotes in a docstring is a name, and a link if the reference has it
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [
    (r"py:class", r".*"),  # of annotations, which mypy checks
    (r"py:obj", r"[a-z_].*|[A-Z_]+|.*[^\w.].*"),  # parameters, constants and calls
    (r"py:obj", r"Result|CancellationError"),  # of cs.result and cs.fsm
]

ROOT = Path(__file__).parent.parent
OF_THE_ROOT = {"start": "README.md", "changes": "CHANGELOG.md", "contributing": "CONTRIBUTING.md"}
"""Pages that are files in the root of the project."""


def read_from_root(app: Sphinx, page: str, text: list[str]) -> None:
    """These pages with links that are right for where they stand here."""
    if page in OF_THE_ROOT:
        app.env.note_dependency(str(ROOT / OF_THE_ROOT[page]))
        in_root = (ROOT / OF_THE_ROOT[page]).read_text()
        text[0] = re.sub(r"\]\((?!https:|#)(docs/)?", lambda link: "](" if link[1] else "](../", in_root)
    to_root = "../" * (page.count("/") + 1)
    for name, file in OF_THE_ROOT.items():
        text[0] = text[0].replace(f"]({to_root}{file}", f"](/{name}.md")


def setup(app: Sphinx) -> None:
    app.connect("source-read", read_from_root)
