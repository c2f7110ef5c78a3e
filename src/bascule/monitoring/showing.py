"""What reports share: words of numbers, charts of distributions, Arrow tables. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bascule.charts import Svg, then_and_now

if TYPE_CHECKING:
    import pyarrow as pa


def cut(text: str, width: int) -> str:
    """The text, with three dots at its end where it is longer."""
    return text if len(text) <= width else text[: width - 3] + "..."


def duration(seconds: float) -> str:
    """In the largest unit that gives 1 or more: `36 s`, `2.5 h`, `12 days`."""
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def alarms_found(count: int) -> str:
    return f"{count} alarm{'' if count == 1 else 's'}" if count else "no alarm"


def then_and_now_of(name: str, shares: Mapping[str, Any]) -> Svg:
    """The distribution of a column, from the JSON of a drift report: pale then, strong now."""
    alt = f"{name}: shares in the baseline (pale) and in production (strong)"
    edges = shares["edges"] or shares["names"]
    return then_and_now(edges, shares["then"], shares["now"], name, alt)


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
