"""What reports share: lines of a terminal, HTML, and Arrow tables. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

_BARS = "▁▂▃▄▅▆▇█"


def cut(text: str, width: int) -> str:
    """The text, with three dots at its end where it is longer."""
    return text if len(text) <= width else text[: width - 3] + "..."


def line(cells: Sequence[str], widths: Sequence[int], left: int) -> str:
    """The cells of a row side by side, the first `left` of them aligned to the left."""
    made = [cut(cell, width) for cell, width in zip(cells, widths, strict=True)]
    sides = ["<"] * left + [">"] * (len(made) - left)
    aligned = zip(made, sides, widths, strict=True)
    return " ".join(f"{cell:{side}{width}}" for cell, side, width in aligned).rstrip()


def sparkline(values: Sequence[float]) -> str:
    """A bar for each value, from the least to the largest; a space for NaN."""
    known = [one for one in values if math.isfinite(one)]
    low = min(known, default=0.0)
    width = max(known, default=0.0) - low
    place = (len(_BARS) - 1) / (width or 1.0)
    return "".join(
        _BARS[round((one - low) * place)] if math.isfinite(one) else " " for one in values
    )


def duration(seconds: float) -> str:
    """In the largest unit that gives 1 or more: `36 s`, `2.5 h`, `12 days`."""
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def alarms_found(count: int) -> str:
    return f"{count} alarm{'' if count == 1 else 's'}" if count else "no alarm"


def html_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(one)}</th>' for one in heads)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def html_list(items: Iterable[str]) -> str:
    """Each item once; empty for none."""
    unique = dict.fromkeys(items)
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in unique)}</ul>" if unique else ""


def arrow_table(rows: list[dict[str, Any]], names: str, kinds: Mapping[str, str]) -> pa.Table:
    """A table of the named columns.

    Args:
        rows: By name, the values.
        names: Of all columns, in order, with spaces between them.
        kinds: By type, such as `string` or `time`, the columns that have it; others are numbers.
    """
    import pyarrow as pa

    types = {"string": pa.string(), "int": pa.int64(), "bool": pa.bool_(), "date": pa.date32(),
             "time": pa.timestamp("us", "UTC")}  # fmt: skip
    known = {name: types[kind] for kind, some in kinds.items() for name in some.split()}
    fields = [(name, known.get(name, pa.float64())) for name in names.split()]
    return pa.Table.from_pylist(rows, pa.schema(fields))
