"""Documents for terminals and for what Python prints of a value.

Control characters of texts become escapes in `console`, through which every text of rich goes, and
in `lettered`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

from bascule.core import printable
from bascule.documents import values
from bascule.documents.values import Block, Line, Table, spans

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

_BARS = "▁▂▃▄▅▆▇█"
_STYLES = {"strong": "bold", "bad": "bold red"}
_NAMES = 11
"""Letters of the column of names beside figures."""


def lettered(blocks: Iterable[Block], width: int = 80) -> str:
    """Blocks as text, with an empty line between them.

    Tables have at most `width` letters; sentences are one line each, however long.
    """
    shown = (_block(block, width) for block in blocks)
    return printable("\n\n".join(filter(None, shown)))


def table_for(table: Table, *, is_narrow: bool = False) -> RichTable:
    """What rich prints of a table: it fits the console, and long words are folded."""
    from rich import box
    from rich.table import Table as RichTable

    shown = RichTable(
        box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=is_narrow,
        show_header=any(table.heads),
    )  # fmt: skip
    for head in table.heads:
        justify: Any = "right" if head in table.numbers else "left"
        shown.add_column(head, justify=justify, overflow="fold")
    for row in table.rows:
        shown.add_row(*map(_cell, row))
    return shown


def bars(values: Sequence[float], *, low: float | None = None) -> str:
    """A bar for each value, from `low` or the least one to the largest; a space for NaN."""
    known = [value for value in values if math.isfinite(value)]
    least = min(known, default=0.0) if low is None else low
    steps = (len(_BARS) - 1) / (max(known, default=least) - least or 1.0)
    return "".join(
        _BARS[round((value - least) * steps)] if math.isfinite(value) else " " for value in values
    )


def console(**options: Any) -> Console:
    """A console that writes no control character of the texts that it is given, only its own."""
    from rich.console import Console
    from rich.segment import Segment

    class Printing(Console):
        def render(self, *args: Any, **more: Any) -> Iterator[Segment]:
            for segment in super().render(*args, **more):
                is_own = segment.control is not None
                yield segment if is_own else Segment(printable(segment.text), segment.style)

    return Printing(highlight=False, **options)


def _block(block: Block, width: int) -> str:
    match block:
        case values.Text(text):
            return _line(text)
        case values.Quote(text, by):
            return f"{text}\n{by or 'the author'}"
        case values.Bullets(items):
            return "\n".join(map(_line, items))
        case values.Figures(items):
            return "\n".join(f"{name:<{_NAMES}}{_line(value)}" for name, value, *_ in items)
        case values.Plots(plots):
            return "\n".join(f"{plot.title}: {plot.caption}" for plot in plots)
        case Table():
            return _table(block, width)


def _table(table: Table, width: int) -> str:
    if not table.rows and table.empty:
        return table.empty
    printed = StringIO()
    plain = {"color_system": None, "force_jupyter": False, "markup": False}
    console(file=printed, width=width, **plain).print(table_for(table, is_narrow=True))
    lines = [line.rstrip() for line in printed.getvalue().split("\n")]
    return "\n".join(lines).strip("\n")


def _cell(line: Line) -> Text:
    from rich.text import Text

    parts = [(_span(part), _STYLES.get(getattr(part, "style", ""), "")) for part in spans(line)]
    return Text.assemble(*parts)


def _line(line: Line) -> str:
    return "".join(map(_span, spans(line)))


def _span(part: str | values.Span) -> str:
    """A verdict that is bad stands out by its capitals: colours are lost in a log."""
    if isinstance(part, str):
        return part
    return part.text.upper() if part.style == "bad" else part.text
