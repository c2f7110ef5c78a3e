"""Documents as HTML: no script, nothing loaded from elsewhere.

The markup is in `templates`, where Jinja escapes every text: there and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from bascule.core import printable
from bascule.documents.values import Block, Document, Plots, Section, spans, words

if TYPE_CHECKING:
    from jinja2 import Environment


class Html(str):
    """HTML whose texts are escaped: templates put it into a page as it is."""

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)


def page(document: Document) -> str:
    """A page of its own, light and dark, with a link to each section."""
    return _rendered("page.html.j2", document=document)


def fragment(blocks: Iterable[Block]) -> Html:
    """Blocks for a page that has its own style."""
    return Html(_rendered("fragment.html.j2", blocks=[*blocks]))


def notebook(*blocks: Block) -> str:
    """Blocks for a notebook; charts bring their colours, which touch nothing else there."""
    shown = fragment(blocks)
    has_charts = any(isinstance(block, Plots) for block in blocks)
    return _rendered("notebook.html.j2", blocks=shown) if has_charts else shown


def anchor(section: Section) -> str:
    """The name by which links within a page find a section."""
    letters = "".join(c if c.isalnum() else " " for c in section.title.lower())
    return "-".join(letters.split())


def _rendered(template: str, **values: Any) -> str:
    return _templates().get_template(template).render(values)


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("bascule.documents"), autoescape=True, finalize=_shown,
        trim_blocks=True, undefined=StrictUndefined,
    )  # fmt: skip
    kind = {"kind": lambda block: type(block).__name__}
    environment.filters |= {"spans": spans, "words": words, "anchor": anchor, **kind}
    return environment


def _shown(value: Any) -> Any:
    """A text without what could reorder or hide it; what is HTML already stays."""
    return printable(value) if type(value) is str else value
