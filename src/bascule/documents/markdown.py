"""Documents as Markdown (GFM). Text is escaped here alone: it may not become markup or a link."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bascule.core import printable
from bascule.documents import values
from bascule.documents.values import Block, Line, Table, spans

# An underscore inside of a word is no emphasis: names of columns stay as they are.
_MARKUP = re.compile(r"[\\`*\[\]~]|(?<![^\W_])_|_(?![^\W_])")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
# What makes a heading, a list or a rule of a line that begins with it.
_BLOCK = re.compile(r"^(?:([#+=-]+)(?=\s|$)|(\d+)(?=[.)](?:\s|$)))")


def markdown(document: values.Document, *, level: int = 1) -> str:
    """The document; its title is a heading of `level`, those of its sections are one below."""
    parts = [f"{'#' * level} {_line(document.title)}", *_blocks(document.lead)]
    for section in document.shown:
        parts += _section(section, level + 1)
    return "\n\n".join(parts) + "\n"


def _section(section: values.Section, level: int) -> Iterator[str]:
    yield f"{'#' * level} {_line(section.title)}"
    yield from _blocks(section.blocks)


def _blocks(blocks: tuple[Block, ...]) -> Iterator[str]:
    return filter(None, map(_block, blocks))


def _block(block: Block) -> str:
    match block:
        case values.Text(text):
            return _paragraph(text)
        case values.Quote(text, by):
            lines = [*text.splitlines(), "", by or "the author"]
            return "\n".join(f"> {_start(_escaped(line))}".rstrip() for line in lines)
        case values.Bullets(items, is_open):
            mark = "- [ ]" if is_open else "-"
            return "\n".join(f"{mark} {_paragraph(item)}" for item in items)
        case values.Figures(items):
            return "\n".join(f"- {_line(name)}: {_line(value)}" for name, value, *_ in items)
        case values.Plots(plots):
            return "\n".join(f"- {_line(plot.title)}: {_line(plot.caption)}" for plot in plots)
        case Table():
            return _table(block)


def _table(table: Table) -> str:
    if not table.rows and table.empty:
        return _paragraph(table.empty)
    rule = "|".join("---:" if head in table.numbers else "---" for head in table.heads)
    lines = [_row(table.heads), f"|{rule}|", *map(_row, table.rows)]
    return "\n".join(lines)


def _row(cells: tuple[Line, ...]) -> str:
    return "| " + " | ".join(_line(cell).replace("|", "\\|") for cell in cells) + " |"


def _paragraph(line: Line) -> str:
    return _start(_line(line))


def _start(text: str) -> str:
    return _BLOCK.sub(lambda mark: f"\\{mark[1]}" if mark[1] else f"{mark[2]}\\", text)


def _line(line: Line) -> str:
    return " ".join("".join(map(_span, spans(line))).split())


def _span(part: str | values.Span) -> str:
    if isinstance(part, str):
        return _escaped(part)
    if part.style == "code":
        return _code(printable(part.text))
    # A verdict that is good is the usual one, and needs no emphasis.
    return _escaped(part.text) if part.style == "good" else f"**{_escaped(part.text)}**"


def _code(text: str) -> str:
    """Code between more backticks than it has in a row; entities are not read in it."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    edge = " " if longest else ""
    return f"{fence}{edge}{text}{edge}{fence}"


def _escaped(text: str) -> str:
    return _MARKUP.sub(r"\\\g<0>", printable(text)).translate(_ENTITIES)
