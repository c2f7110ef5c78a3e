"""Sections as JSON: texts without their styles."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bascule.documents import values
from bascule.documents.values import Block, Line, Table, words


def section_json(section: values.Section) -> dict[str, Any]:
    """A title, and of each block its kind and what it holds."""
    return {"title": section.title, "blocks": [_block(block) for block in section.blocks]}


def _block(block: Block) -> dict[str, Any]:
    match block:
        case values.Text(text):
            return {"kind": "text", "text": words(text)}
        case values.Quote(text, by):
            return {"kind": "quote", "text": text, "by": by}
        case values.Bullets(items):
            return {"kind": "bullets", "items": _texts(items)}
        case Table(heads, rows, numbers):
            cells = [_texts(row) for row in rows]
            return {"kind": "table", "heads": [*heads], "rows": cells, "numbers": [*numbers]}
        case values.Figures(items):
            return {"kind": "figures", "items": {name: words(value) for name, value, *_ in items}}
        case values.Plots(plots):
            captions = [{"title": plot.title, "caption": plot.caption} for plot in plots]
            return {"kind": "plots", "plots": captions}


def _texts(lines: Iterable[Line]) -> list[str]:
    return [words(line) for line in lines]
