"""How Sphinx builds these pages as a site: `make site`.

The pages are plain Markdown, which also reads well outside of the site. What only the site needs is
added while it is built: the contents, from the folders. Nothing on the site is loaded from another
host.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bascule.core.version import VERSION

DOCS = Path(__file__).parent

project = "Bascule"
author = copyright = "The Bascule developers"
version = release = VERSION
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["**/README.md"]
myst_heading_anchors = 4
myst_links_external_new_tab = False
default_role = "code"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
html_theme = "furo"
html_title = f"Bascule {VERSION}"
html_show_sourcelink = False
html_theme_options: dict[str, Any] = {"source_view_link": "", "top_of_page_buttons": []}

SECTIONS = {
    "Start": ("tutorial",),
    "How to": "how-to",
    "Reference": "reference",
    "Explanation": "explanation",
    "Decisions": "decisions",
    "More": ("glossary", "benchmarks"),
}


def _toctrees() -> str:
    """The contents, one hidden list a section, in the order of the file names."""
    made = []
    for caption, pages in SECTIONS.items():
        if isinstance(pages, str):
            pages = tuple(f"{pages}/{page.stem}" for page in sorted((DOCS / pages).glob("*.md")))
        listed = "\n".join(pages)
        made.append(f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{listed}\n```")
    return "\n\n".join(made)


def _prepare(_app: Any, page: str, source: list[str]) -> None:
    if page == "index":
        source[0] += f"\n\n{_toctrees()}\n"


def setup(app: Any) -> None:
    app.connect("source-read", _prepare)
