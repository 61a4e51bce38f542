"""What Sphinx makes the documentation with: ``tox -e docs``. The reference is generated from the code."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import reference_pages  # noqa: E402

project = "nomad_testkit"
copyright = ""
html_show_copyright = False
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click", "sphinx_copybutton"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "nomad_testkit"
html_show_sourcelink = False
# Options and quotes of commands are to be copied as they are.
smartquotes = False

myst_heading_anchors = 3
myst_links_external_new_tab = False
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
python_use_unqualified_type_hints = True
python_maximum_signature_line_length = 80
add_module_names = False
# A name in single backticks in a docstring is one of the code's.
default_role = "py:obj"
# Its heredocs and quotes within $( ) are more than Pygments' lexer knows.
suppress_warnings = ["misc.highlighting_failure"]

reference_pages.write(HERE / reference_pages.FOLDER)


def setup(app: Any) -> None:
    """Let help texts be what they are: a pattern such as ``*.debian-12`` begins no emphasis."""
    app.connect("sphinx-click-process-options", _escape)
    app.connect("autodoc-process-signature", _without_internals)


def _without_internals(
    app: Any, what: str, name: str, found: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Show no constructor of what fixtures give, and no default that only the code can read."""
    if what == "class" and name in reference_pages.GIVEN:
        return "", returned
    # `<factory>` and the like are no Python, and Sphinx links no type in a signature that is none.
    return signature and re.sub(r"<(?:[^<>]|<[^<>]*>)*>", "...", signature), returned


def _escape(app: Any, context: Any, lines: list[str]) -> None:
    lines[:] = [line.replace("*", r"\*") for line in lines]
