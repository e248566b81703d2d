"""The book, built by `make docs`. Nothing it loads comes from a network."""

import memmodel

project = "memmodel"
author = "the authors of memmodel"
project_copyright = author
version = release = memmodel.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
html_theme = "furo"
html_title = "memmodel"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"source_repository": "", "top_of_page_buttons": []}

myst_heading_anchors = 3
default_role = "code"  # docstrings mark code as `code`
nitpicky = True
nitpick_ignore_regex = [("py:.*", r".*")]  # links of types: names stand for classes that have no page
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
