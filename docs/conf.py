"""How Sphinx builds the documentation. Pages about promises, tests and planted bugs come from `_ext/contract.py`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(Path(__file__).parents[1])]

project = "sessionstore"
author = "the sessionstore developers"
copyright = "2026, the sessionstore developers"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "commands", "contract"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "sessionstore"

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes are described once, in the class docstring
