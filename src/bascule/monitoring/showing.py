"""What reports share: words of numbers, charts over days, Arrow tables. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bascule.charts import Lane, Series, Svg, lines
from bascule.core import counted

if TYPE_CHECKING:
    import pyarrow as pa

_SMALL = (340, 250)


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
    return counted(count, "alarm") if count else "no alarm"


def by_day(
    name: str,
    label: str,
    days: Sequence[tuple[str, Mapping[str, Any], bool]],
    levels: Mapping[str, float | None],
    band: tuple[str, str],
) -> Svg | None:
    """Lines over days.

    Args:
        name: What they are of.
        label: Of the y axis.
        days: Each day, its values by name, and whether there is an alarm.
        levels: The values that are drawn, and the level of each as a dashed line.
        band: The values between which the band of the first line lies.
    """
    points = {
        key: [(float(x), _finite(day.get(key))) for x, (_, day, _) in enumerate(days)]
        for key in (*levels, *band)
    }
    series = [Series(points[key], f"line c{place}") for place, key in enumerate(levels)]
    lower, upper = points[band[0]], points[band[1]]
    if series and any(math.isfinite(y) for _, y in (*lower, *upper)):
        series[0] = replace(series[0], lower=lower, upper=upper)
    first = zip(series[0].points if series else (), days, strict=False)
    return lines(
        series, ("UTC day", label), f"{name} by day", size=_SMALL,
        marks=[point for point, (_, _, alarm) in first if alarm and math.isfinite(point[1])],
        lanes=[Lane(level, "guide") for level in levels.values() if level is not None],
        x_names=[day[5:10] for day, _, _ in days],
    )  # fmt: skip


def _finite(value: float | None) -> float:
    return math.nan if value is None else value


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
