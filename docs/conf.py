"""The book, built by `make docs`. Nothing it loads comes from a network."""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

import memmodel

project = "memmodel"
author = "the authors of memmodel"
project_copyright = author
version = release = memmodel.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
html_theme = "furo"
html_title = "memmodel"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"source_repository": "", "top_of_page_buttons": []}

myst_heading_anchors = 3
smartquotes = False  # -- begins an option
default_role = "code"  # docstrings mark code as `code`
nitpicky = True
nitpick_ignore_regex = [("py:.*", r".*")]  # links of types: names stand for classes that have no page
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_use_ivar = True
_HIDDEN = "\x00"


def setup(app: Sphinx) -> None:
    """Fit what the extensions make of this code's docstrings and help texts."""
    app.connect("autodoc-skip-member", _skip_field)
    app.connect("autodoc-process-docstring", _one_field_a_line, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", _hide_colon, priority=400)
    app.connect("autodoc-process-docstring", _show_colon, priority=600)  # and after it
    app.connect("doctree-read", _colon_for_dashes)
    app.connect("sphinx-click-process-description", _escape_stars)
    app.connect("sphinx-click-process-options", _escape_stars)
    app.connect("sphinx-click-process-epilog", _as_block)


def _skip_field(app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """A named tuple's field without a docstring of its own: the class describes it."""
    return True if (getattr(member, "__doc__", None) or "").startswith("Alias for field number") else None


def _one_field_a_line(app: Sphinx, what: str, name: str, member: Any, options: Any, lines: list[str]) -> None:
    """Fields that share a line of a class's docstring (`a: this. b: that.`) get one each."""
    fields = "|".join(getattr(member, "__annotations__", ()) if what == "class" else ())
    if fields and "Attributes:" in lines:
        text = re.sub(rf"\. (?=(?:{fields})(?:, (?:{fields}))*: )", ".\n    ", "\n".join(lines))
        lines[:] = text.split("\n")


def _hide_colon(app: Sphinx, what: str, name: str, member: Any, options: Any, lines: list[str]) -> None:
    """What stands before a colon in a property's docstring is no type, which napoleon would take it for."""
    if what in ("property", "attribute", "data"):
        lines[:] = [line.replace(":", _HIDDEN) for line in lines]


def _show_colon(app: Sphinx, what: str, name: str, member: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [line.replace(_HIDDEN, ":") for line in lines]


def _colon_for_dashes(app: Sphinx, document: nodes.document) -> None:
    """A parameter and its meaning, as docstrings write them."""
    for text in list(document.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(": "))


def _escape_stars(app: Sphinx, context: Any, lines: list[str]) -> None:
    """A star in a help text (1k:64k:*2) is no emphasis."""
    lines[:] = [line.replace("*", r"\*") for line in lines]


def _as_block(app: Sphinx, context: Any, lines: list[str]) -> None:
    """The examples of an epilogue as a block of code."""
    shown = [line.removeprefix("| ") for line in lines[1:] if line.startswith("| ")]
    if shown:
        lines[:] = [".. rubric:: Examples", "", ".. code-block:: sh", "", *(f" {line}" for line in shown), ""]
