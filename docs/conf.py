"""Configuration of the manual: `sphinx-build -W -n -b html docs docs/_build/html`. Warnings are errors."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

import hf_latent

project = "hf-latent"
author = "The hf-latent authors"
copyright = "The hf-latent authors, Apache-2.0"
version = release = hf_latent.__version__

extensions = ["myst_nb", "sphinx_copybutton", "measured", "cards", "knob_table", "api"]
exclude_patterns = ["_build", "extensions", "**/.ipynb_checkpoints"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
# Notebooks are executed by tests/docs/test_notebooks.py; the manual shows them as they are.
nb_execution_mode = "off"
nb_merge_streams = True
# The hosts of papers and code are not asked for their pages while the manual is built.
linkcheck_ignore = [r"https?://"]
suppress_warnings = ["mystnb.unknown_mime_type"]

html_theme = "furo"
html_title = "hf-latent"
html_static_path = ["static"]
html_css_files = ["manual.css"]
html_show_sphinx = False
html_copy_source = False
copybutton_exclude = ".linenos, .gp"
