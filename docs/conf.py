"""Sphinx configuration: ``python -m sphinx -W -b html docs docs/_build/html``. Needs no network."""

import sys
from pathlib import Path

import nearlin

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "nearlin"
author = "The nearlin developers"
copyright = f"2026, {author}"
version = release = nearlin.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc", "myst_nb", "nearlin_docs"]
exclude_patterns = ["_build", "_ext", "generated/*.md", "measured/*.md"]
default_role = "py:obj"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True

autosummary_generate = False
autodoc_member_order = "bysource"
numpydoc_show_class_members = False

html_theme = "furo"
html_title = f"nearlin {release}"
html_static_path = ["_static"]
html_css_files = ["nearlin.css"]
html_show_sourcelink = False
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
templates_path = []
