"""Sphinx: Markdown pages, tutorials with the outputs they have, figures drawn anew."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import softrsa

HERE = Path(__file__).resolve().parent
ABOUT = (
    "Notebooks, shown with the outputs they have; `make tutorials` executes all of them. Each "
    "takes less than three minutes on two cores."
)

project = "softrsa"
author = "The softrsa developers"
copyright = f"2026, {author}"  # noqa: A001 - Sphinx calls it so
release = version = softrsa.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_nb",
    "sphinxcontrib.bibtex",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",  # formulas are seen without network
]
exclude_patterns = ["_build"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
nb_execution_mode = "off"  # `make tutorials` executes them
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type"]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc sections say them, with shapes
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
intersphinx_mapping = {}  # the build asks no network

html_theme = "furo"
html_title = f"softrsa {release}"
html_theme_options = {"navigation_with_keys": True}


def setup(app: object) -> None:
    """Bring the tutorials here and draw charts and gallery, before pages are read."""
    del app
    tutorials = HERE / "tutorials"
    shutil.rmtree(tutorials, ignore_errors=True)
    tutorials.mkdir()
    found = sorted((HERE.parent / "tutorials").glob("[0-9]*.ipynb"))
    for notebook in found:
        shutil.copy(notebook, tutorials)
    listed = "\n".join(notebook.stem for notebook in found)
    (tutorials / "index.md").write_text(
        f"# Tutorials\n\n{ABOUT}\n\n```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n", "utf-8"
    )
    for script in ("charts.py", "gallery.py"):
        runpy.run_path(str(HERE / script), run_name="__main__")
