"""A column in a report of drift as people see it, from the JSON of the report. Pure.

The JSON, not the values it was made of: reports are measured in processes of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bascule.charts import Svg, sparkline, then_and_now
from bascule.monitoring.showing import by_day

Json = Mapping[str, Any]
_DAYS = 60
_LINES = 3
_UNITS = {"location": " sd", "slow": " sd", "shape": " KS", "harm": ""}
"""Of the effects of tests; those of the others are shares."""


@dataclass(frozen=True, slots=True)
class ColumnView:
    """A column of a version over the days that are shown.

    Attributes:
        name: Of the column.
        where: `input`, `answer`, `truth` or `explanation`.
        days: Each day and what was measured of the column, as JSON.
        shares: Its distribution in the baseline and in production; None where one is unknown.
    """

    name: str
    where: str
    days: Sequence[tuple[str, Json]]
    shares: Json | None

    @property
    def alarms(self) -> int:
        """On how many days there is one."""
        return sum(bool(column["alarm"]) for _, column in self.days)

    @property
    def latest(self) -> Json:
        """The latest day with an alarm, or else that of the strongest change."""
        columns = [column for _, column in self.days]
        alarms = [column for column in columns if column["alarm"]]
        return alarms[-1] if alarms else min(columns, key=lambda day: _rank(_leading(day)))

    @property
    def evidence(self) -> float:
        """Of the strongest test of all days, in units of its level: less is stronger."""
        return min((_rank(_leading(column))[1] for _, column in self.days), default=math.inf)

    @property
    def change(self) -> str:
        """The strongest test of that day, and its effect."""
        test = self.test
        if test is None:
            return "broken" if self.latest["alarm"] else "not tested"
        unit, effect = _UNITS.get(test["name"]), test["effect"]
        amount = f"{effect:+.2f}{unit}" if unit is not None else f"{effect:+.1%}"
        return f"{test['name']} {amount}"

    @property
    def test(self) -> Json | None:
        """That test; None where none ran."""
        return _leading(self.latest)

    @property
    def sides(self) -> tuple[str, str]:
        """What the change is about: in the baseline, and on that day."""
        day, test = self.latest, self.test
        if test is not None and test["name"] == "missing":
            then, now = day["missing"]
            return f"{then:.1%}", f"{now:.1%}"
        if test is not None and test["name"] in ("unseen", "range"):
            return "0.0%", f"{test['effect']:.1%}"
        return typical(day["then"], day["tested"]), typical(day["now"], day["tested"])

    @property
    def series(self) -> list[float]:
        """By day the median, the mean loss, or the share of the baseline's most frequent value."""
        return [_number(column) for _, column in self.days]

    @property
    def trend(self) -> Svg:
        """The days as a line without axes."""
        known = [value for value in self.series if math.isfinite(value)]
        return sparkline(known[-_DAYS:], f"{self.name} by day, {len(known)} days")

    @property
    def chart(self) -> Svg | None:
        """The distribution in the baseline (pale) and in production (strong)."""
        return None if self.shares is None else _distribution(self.name, self.shares)

    @property
    def drawn(self) -> list[str]:
        """The values of `over_time`: the median, or the most frequent categories."""
        then = self.days[-1][1]["then"]
        return ["p50"] if "p50" in then else list(then)[:_LINES]

    @property
    def over_time(self) -> Svg | None:
        """The median with the band from 5 % to 95 %, or shares; dashed the baseline, red alarms."""
        then = self.days[-1][1]["then"]
        levels = {key: then[key] for key in self.drawn}
        label = {"p50": "median", "mean": "mean loss"}.get(next(iter(levels), ""), "share")
        days = [(day, column["now"], column["alarm"]) for day, column in self.days]
        return by_day(self.name, label, days, levels, ("p05", "p95"))


def columns_of(report: Json) -> list[ColumnView]:
    """The columns of the JSON of a drift report, those with most alarms first."""
    windows, shares = report["windows"], report["distributions"]
    by_column: dict[tuple[str, str], list[tuple[str, Json]]] = {}
    for window in windows:
        for column in window["columns"]:
            key = column["where"], column["column"]
            by_column.setdefault(key, []).append((window["day"] or "", column))
    columns = [
        ColumnView(name, where, days, shares.get(where, {}).get(name))
        for (where, name), days in by_column.items()
    ]
    # Of as many alarms, inputs first: answers follow them.
    columns.sort(key=lambda shown: (-shown.alarms, shown.where != "input", shown.evidence))
    return columns


def typical(values: Json, tested: str, letters: int = 16, decimals: int = 1) -> str:
    """The category or quantile that was tested; else a typical value."""
    if "p50" in values:
        return f"{values.get(tested, values['p50']):.4g}"
    if "mean" in values and tested not in values:
        return f"{values['mean']:.4g}"
    if not values:
        return "-"
    name = tested if tested in values else max(values, key=values.__getitem__)
    return f"{name[:letters]} {values[name]:.{decimals}%}"


def _distribution(name: str, shares: Json) -> Svg:
    alt = f"{name}: shares in the baseline (pale) and in production (strong)"
    edges = shares["edges"] or shares["names"]
    return then_and_now(edges, shares["then"], shares["now"], name, alt)


def _leading(column: Json) -> Json | None:
    leading: Json | None = min(column["tests"], key=_rank, default=None)
    return leading


def _rank(test: Json | None) -> tuple[bool, float]:
    """Alarms first, then by evidence in units of the level."""
    if test is None:
        return True, math.inf
    e_value = test["e_value"]
    level = test["p_value"] if e_value is None else 1 / max(e_value, 1e-300)
    return not test["is_alarm"], (level or 0.0) / test["level"]


def _number(column: Json) -> float:
    now = column["now"]
    named = next((name for name in ("p50", "mean") if name in now), None)
    return float(now.get(named or next(iter(column["then"]), ""), math.nan))
