"""Sphinx settings. Build with: sphinx-build -W -b html docs docs/_build/html."""

import pkgutil
import re
from importlib import import_module
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.ext import autosummary
from sphinx.util import logging

import resup

project = "resup"
author = "The resup authors"
copyright = "2026, the resup authors"
release = version = resup.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
]
templates_path = ["_templates"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

default_role = "py:obj"  # `name` in a docstring is a link where there is one, else code
toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # types and shapes stand in the docstrings
autosummary.WELL_KNOWN_ABBREVIATIONS += ("Eq.",)  # a summary does not end there
numpydoc_show_class_members = False  # the class template lists a class's own members

html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_css_files = ["resup.css"]
html_title = "resup"
html_show_sourcelink = False
html_sidebars = {
    page: []
    for page in (
        "index",
        "quickstart",
        "find_wrong_labels",
        "recipes",
        "distributed",
        "mixtures",
        "mixtures_measured",
        "results",
        "tried",
        "paper_to_code",
        "changelog",
    )
}
html_theme_options = {
    "github_url": "https://github.com/resup/resup",
    "header_links_before_dropdown": 9,
    "navbar_align": "left",
    "navbar_persistent": ["search-button"],
    "navigation_with_keys": False,
    "show_toc_level": 2,
}


def _skip(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool:
    """Leave out the metadata-routing methods that scikit-learn adds to every estimator."""
    return skip or bool(re.fullmatch(r"set_\w+_request|get_metadata_routing", name))


def _listed(app: Sphinx) -> set[str]:
    """Names on api.md, without the leading "resup."."""
    return set(re.findall(r"^   ([\w.]+)$", Path(app.srcdir, "api.md").read_text(), re.M))


def _check_api_page(app: Sphinx) -> None:
    """Warn, which fails the build, about public names that api.md forgets."""
    listed = _listed(app)
    for module in pkgutil.iter_modules(resup.__path__):
        for name in getattr(import_module(f"resup.{module.name}"), "__all__", ()):
            if not listed & {name, f"{module.name}.{name}"}:
                logging.getLogger(__name__).warning("api.md lacks %s.%s", module.name, name)


def _link_names(app: Sphinx, page: str, source: list[str]) -> None:
    """Make links of `Class` and `resup.name` in Markdown, which is read outside Sphinx too."""
    if str(app.env.doc2path(page)).endswith(".md"):
        names = _listed(app)
        links = {f"`resup.{name}`": name for name in names}
        links |= {f"`{name.split('.')[-1]}`": name for name in names}
        source[0] = re.sub(
            r"(?<!`)`(?:resup\.[\w.]+|[A-Z]\w+)`(?!`)",
            lambda code: f"{{py:obj}}`~resup.{links[code[0]]}`" if code[0] in links else code[0],
            source[0],
        )


def setup(app: Sphinx) -> None:
    """Connect the three."""
    app.connect("autodoc-skip-member", _skip)
    app.connect("builder-inited", _check_api_page)
    app.connect("source-read", _link_names)
