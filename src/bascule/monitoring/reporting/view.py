"""What a page shows of a model in production, from the JSON of `bascule monitor`. Pure.

The JSON, not the values it was made of: reports are measured in processes of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bascule.charts import Lane, Series, Svg, lines, sparkline
from bascule.monitoring.showing import duration, then_and_now_of

Json = Mapping[str, Any]
Quality = tuple[str, str, str, str, float, float]
"""Day, version, column, finding, and the share of missing values then and in the baseline."""
_QUALITY_ROWS = 100
_QUALITY_TESTS = ("missing", "range", "unseen")
_DAYS = 60
_LINES = 3
_SMALL = (340, 250)
_NONE = "-"
_UNITS = {"location": " sd", "slow": " sd", "shape": " KS", "harm": ""}
"""Of the effects of tests; those of the others are shares."""


@dataclass(frozen=True, slots=True)
class ColumnView:
    """A column of a version over the days that are shown.

    Attributes:
        name: Of the column.
        where: `input`, `answer` or `truth`.
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
    def told(self) -> Json:
        """The latest day with an alarm, or else that of the strongest change."""
        columns = [column for _, column in self.days]
        alarms = [column for column in columns if column["alarm"]]
        return alarms[-1] if alarms else min(columns, key=lambda one: _rank(_leading(one)))

    @property
    def evidence(self) -> float:
        """Of the strongest test of all days, in units of its level: less is stronger."""
        return min((_rank(_leading(column))[1] for _, column in self.days), default=math.inf)

    @property
    def change(self) -> str:
        """The strongest test of the day that is told, and its effect."""
        test = _leading(self.told)
        return "not tested" if test is None else _effect(test)

    @property
    def then(self) -> str:
        """What the change is about, in the baseline."""
        return typical(self.told["then"], self.told["tested"])

    @property
    def now(self) -> str:
        """The same, on the day that is told."""
        return typical(self.told["now"], self.told["tested"])

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
        return None if self.shares is None else then_and_now_of(self.name, self.shares)

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
        days = [(day, one["now"], one["alarm"]) for day, one in self.days]
        return _by_day(self.name, label, days, levels, ("p05", "p95"))


@dataclass(frozen=True, slots=True)
class VersionView:
    """A version against its own baseline: the JSON of its report, and its columns by alarms."""

    report: Json
    columns: Sequence[ColumnView]

    @property
    def version(self) -> str:
        return str(self.report["version"])

    @property
    def rows(self) -> int:
        """That were answered on the days that are shown."""
        return sum(window["rows"] for window in self.report["windows"])

    @property
    def quality(self) -> list[Quality]:
        """Findings on its inputs, the latest first."""
        return list(_quality(self.report))


@dataclass(frozen=True, slots=True)
class MetricView:
    """A metric of a version over the whole period.

    Attributes:
        version: Of the model.
        name: Of the metric.
        found: What was measured, as JSON.
        days: The start and the value of each day that has one, as JSON.
    """

    version: str
    name: str
    found: Json
    days: Sequence[tuple[str, Json]]

    @property
    def value(self) -> str:
        return shown(self.found["value"])

    @property
    def interval(self) -> str:
        lower, upper = self.found["lower"], self.found["upper"]
        return _NONE if lower is None else f"{shown(lower)} to {shown(upper)}"

    @property
    def recorded(self) -> str:
        return shown(self.found["recorded"])

    @property
    def alarms(self) -> int:
        return sum(bool(found["alarm"]) for _, found in self.days)

    @property
    def chart(self) -> Svg | None:
        """By day with its interval; dashed the held-out rows, red alarms; None of one day."""
        days = [(start, one, one["alarm"]) for start, one in self.days]
        levels = {"value": self.found["recorded"]}
        band = "lower", "upper"
        return _by_day(self.name, self.name, days, levels, band) if len(days) > 1 else None


@dataclass(frozen=True, slots=True)
class ReportView:
    """What is shown of a report: its JSON, and the drift of its versions."""

    measured: Json
    versions: Sequence[VersionView]

    @property
    def tiles(self) -> list[tuple[str, str, str]]:
        """The numbers at the top: name, value and note of each."""
        alarms = sum(one.alarms for version in self.versions for one in version.columns)
        return list(_tiles(self.measured, alarms))

    @property
    def metrics(self) -> list[MetricView]:
        """Of each version, over the whole period."""
        return list(_metrics(self._performance.get("windows", ())))

    @property
    def delay(self) -> str:
        """How long truths take, in a sentence."""
        return _delay(self.measured["truths"], self._performance.get("delay_s"))

    @property
    def findings(self) -> list[str]:
        """Sentences on performance, alarms first."""
        found = self._performance.get("findings", ())
        return list(dict.fromkeys(one["sentence"] for one in found))

    @property
    def notes(self) -> list[str]:
        """What could not be measured, and why."""
        measured = self.measured
        drift, performance = measured["drift"]["notes"], self._performance.get("notes", ())
        return [*drift, *measured["notes"], *performance]

    @property
    def quality(self) -> list[Quality]:
        """Of all versions."""
        return [row for version in self.versions for row in version.quality][:_QUALITY_ROWS]

    @property
    def _performance(self) -> Json:
        return self.measured["performance"] or {}


def report_of(measured: Json) -> ReportView:
    """What is shown of the JSON of `bascule monitor`."""
    return ReportView(measured, list(map(_version, measured["drift"]["versions"])))


def typical(values: Json, tested: str, letters: int = 64) -> str:
    """The category or quantile that was tested; else a typical value."""
    if "p50" in values:
        return f"{values.get(tested, values['p50']):.4g}"
    if "mean" in values and tested not in values:
        return f"{values['mean']:.4g}"
    if not values:
        return _NONE
    name = tested if tested in values else max(values, key=values.__getitem__)
    return f"{name[:letters]} {values[name]:.0%}"


def shown(value: float | None) -> str:
    return _NONE if value is None or not math.isfinite(value) else f"{value:.4g}"


def _tiles(measured: Json, alarms: int) -> Iterator[tuple[str, str, str]]:
    total, truths, kept = measured["total"], measured["truths"], measured["ledger"]
    if measured["performance"] is not None:
        alarms += sum(one["is_alarm"] for one in measured["performance"]["findings"])
    yield ("alarms", f"{alarms:,}", "drift and performance, all days")
    requests = max(1, total["requests"])
    yield ("requests", f"{total['requests']:,}", f"{measured['since']} to {measured['until']}")
    refused = f"{total['refused'] / requests:.2%} refused"
    yield ("errors", f"{total['errors'] / requests:.2%}", refused)
    p99 = f"p99 {total['p99_s'] * 1e3:.3g} ms"
    yield ("latency", f"{total['p50_s'] * 1e3:.3g} ms", f"median; {p99}")
    share = truths["truths"] / max(1, truths["predictions"])
    yield ("truths known", f"{share:.0%}", f"{truths['truths']:,} rows")
    lost = f"{kept['gaps']} gaps, {kept['missing']:,} requests" if kept["gaps"] else "no gaps"
    yield ("rows kept", f"{kept['share']:.0%}", lost)


# -- drift --


def _version(report: Json) -> VersionView:
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
    columns.sort(key=lambda one: (-one.alarms, one.where != "input", one.evidence))
    return VersionView(report, columns)


def _leading(column: Json) -> Json | None:
    found: Json | None = min(column["tests"], key=_rank, default=None)
    return found


def _rank(test: Json | None) -> tuple[bool, float]:
    """Alarms first, then by evidence in units of the level."""
    if test is None:
        return True, math.inf
    e_value = test["e_value"]
    level = test["p_value"] if e_value is None else 1 / max(e_value, 1e-300)
    return not test["is_alarm"], (level or 0.0) / test["level"]


def _effect(test: Json) -> str:
    unit, effect = _UNITS.get(test["name"]), test["effect"]
    amount = f"{effect:+.2f}{unit}" if unit is not None else f"{effect:+.1%}"
    return f"{test['name']} {amount}"


def _number(column: Json) -> float:
    now = column["now"]
    named = next((name for name in ("p50", "mean") if name in now), None)
    return float(now.get(named or next(iter(column["then"]), ""), math.nan))


def _by_day(
    name: str,
    label: str,
    days: Sequence[tuple[str, Json, bool]],
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
        key: [(float(x), _finite(one.get(key))) for x, (_, one, _) in enumerate(days)]
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


def _quality(report: Json) -> Iterator[Quality]:
    for window in reversed(report["windows"]):
        for column in window["columns"]:
            said = "; ".join([*column["findings"], *_strange(column)])
            if column["where"] == "input" and said:
                then, now = column["missing"]
                yield window["day"] or "", report["version"], column["column"], said, now, then


def _strange(column: Json) -> Iterator[str]:
    """Missing values, values out of range and unseen ones, as far as they raise an alarm."""
    for test in column["tests"]:
        if test["is_alarm"] and test["name"] in _QUALITY_TESTS:
            yield f"{test['name']} {test['effect']:+.1%}"


# -- performance --


def _metrics(windows: Sequence[Json]) -> Iterator[MetricView]:
    wholes = [one for one in windows if one["slice"] is None]
    for window in wholes:
        if window["start"] is not None:
            continue
        days = [one for one in wholes if one["start"] and one["version"] == window["version"]]
        for metric in window["metrics"]:
            name = metric["metric"]
            series = [
                (one["start"], found)
                for one in days
                for found in one["metrics"]
                if found["metric"] == name and found["value"] is not None
            ]
            yield MetricView(window["version"], name, metric, series)


def _delay(truths: Json, quantiles: Json | None) -> str:
    """How long truths take, in a sentence."""
    if quantiles:
        said = (f"{name[1:]} % within {duration(quantiles[name])}" for name in ("p50", "p90", "p99")
                if quantiles.get(name) is not None)  # fmt: skip
        return "Truths come late: " + ", ".join(said) + "."
    if truths["delay_s"] is None:
        return "No truth is known yet: outcomes are what performance is measured with."
    return f"Half of the known truths came within {duration(truths['delay_s'])}."
