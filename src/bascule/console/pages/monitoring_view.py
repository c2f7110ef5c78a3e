"""The page of a model in production: what is shown of the report of `bascule monitor`. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bascule.charts import Lane, Series, Svg, lines, sparkline, then_and_now
from bascule.console.pages.ledger import NONE
from bascule.console.words import duration

Json = Mapping[str, Any]
_WHERE = {"input": "input", "answer": "answer", "truth": "truth"}
_QUALITY_ROWS = 100
_QUALITY_TESTS = ("missing", "range", "unseen")
_DAYS = 60
_SMALL = (340, 250)


@dataclass(frozen=True, slots=True)
class Tile:
    """One number at the top of the page."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class ColumnRow:
    """A column of a version, over the days that are shown.

    Attributes:
        name: Of the column.
        where: `input`, `answer` or `truth`.
        alarms: On how many days.
        change: The test with the strongest evidence, and the size of the change.
        then: A typical value of the baseline: the median, or the most frequent category.
        now: The same of the last day.
        sentence: The latest alarm in numbers, or the strongest change.
        share: Of the alarm, from 0 to 1; None if unknown.
        chart: Baseline beside production; None without profiles.
        trend: The typical value by day.
    """

    name: str
    where: str
    alarms: int
    change: str
    then: str
    now: str
    sentence: str
    share: float | None
    chart: Svg | None
    trend: Svg


@dataclass(frozen=True, slots=True)
class VersionDrift:
    """A version against its own baseline."""

    version: str
    rows: int
    days: int
    budget: float
    columns: tuple[ColumnRow, ...]
    notes: tuple[str, ...]

    @property
    def alarms(self) -> int:
        return sum(one.alarms for one in self.columns)


@dataclass(frozen=True, slots=True)
class MetricRow:
    """A metric of a version over the whole period."""

    version: str
    name: str
    value: str
    interval: str
    recorded: str
    rows: int
    alarms: int
    chart: Svg | None


@dataclass(frozen=True, slots=True)
class QualityRow:
    """What is wrong with the values of a column on one day."""

    version: str
    day: str
    column: str
    missing: str
    missing_then: str
    finding: str


@dataclass(frozen=True, slots=True)
class Report:
    """A measured model; see `report_of`."""

    tiles: tuple[Tile, ...]
    versions: tuple[VersionDrift, ...]
    metrics: tuple[MetricRow, ...]
    delay: str
    findings: tuple[str, ...]
    quality: tuple[QualityRow, ...]
    notes: tuple[str, ...]


def report_of(measured: Json) -> Report:
    """What is shown of the JSON of `bascule monitor`."""
    drift, performance = measured["drift"], measured["performance"]
    versions = tuple(_version(one) for one in drift["versions"])
    found = [] if performance is None else performance["findings"]
    return Report(
        tuple(_tiles(measured, versions)),
        versions,
        () if performance is None else tuple(_metrics(performance)),
        _delay(measured["truths"], performance),
        tuple(dict.fromkeys(one["sentence"] for one in found)),
        tuple(_quality(drift["versions"]))[:_QUALITY_ROWS],
        tuple(drift["notes"]) + tuple(() if performance is None else performance["notes"]),
    )


def _tiles(measured: Json, versions: Sequence[VersionDrift]) -> Iterator[Tile]:
    total, truths, kept = measured["total"], measured["truths"], measured["ledger"]
    alarms = sum(one.alarms for one in versions)
    if measured["performance"] is not None:
        alarms += sum(one["is_alarm"] for one in measured["performance"]["findings"])
    yield Tile("alarms", f"{alarms:,}", "drift and performance, all days")
    requests = max(1, total["requests"])
    yield Tile("requests", f"{total['requests']:,}", f"{measured['since']} to {measured['until']}")
    refused = f"{total['refused'] / requests:.2%} refused"
    yield Tile("errors", f"{total['errors'] / requests:.2%}", refused)
    p99 = f"p99 {total['p99_s'] * 1e3:.3g} ms"
    yield Tile("latency", f"{total['p50_s'] * 1e3:.3g} ms", f"median; {p99}")
    share = truths["truths"] / max(1, truths["predictions"])
    yield Tile("truths known", f"{share:.0%}", f"{truths['truths']:,} rows")
    lost = f"{kept['gaps']} gaps, {kept['missing']:,} requests" if kept["gaps"] else "no gaps"
    yield Tile("rows kept", f"{kept['share']:.0%}", lost)


# -- drift --


def _version(report: Json) -> VersionDrift:
    by_column: dict[tuple[str, str], list[tuple[Json, Json]]] = {}
    for window in report["windows"]:
        for column in window["columns"]:
            key = (column["where"], column["column"])
            by_column.setdefault(key, []).append((window, column))
    shares = report.get("distributions", {})
    rows = [
        (_evidence(days), _column(where, name, days, shares.get(where, {}).get(name)))
        for (where, name), days in by_column.items()
    ]
    # Of as many alarms, inputs first: answers follow them.
    rows.sort(key=lambda one: (-one[1].alarms, one[1].where != "input", one[0], one[1].name))
    windows = report["windows"]
    return VersionDrift(
        report["version"], sum(one["rows"] for one in windows), len(windows), report["budget"],
        tuple(row for _, row in rows), tuple(report["notes"]),
    )  # fmt: skip


def _column(
    where: str, name: str, days: Sequence[tuple[Json, Json]], shares: Json | None
) -> ColumnRow:
    latest = days[-1][1]
    alarms = [column for _, column in days if column["alarm"]]
    strongest = min((column for _, column in days), key=lambda one: _rank(_leading(one)))
    told = alarms[-1] if alarms else strongest
    known = [value for _, column in days if (value := _number(column)) is not None]
    trend = sparkline(known[-_DAYS:], f"{name} by day, {len(known)} days")
    return ColumnRow(
        name, _WHERE.get(where, where), len(alarms), _change(_leading(told)),
        _typical(latest["then"]), _typical(latest["now"]), told["sentence"], told["share"],
        None if shares is None else _distribution(name, shares), trend,
    )  # fmt: skip


def _distribution(name: str, shares: Json) -> Svg:
    edges, names = shares["edges"], shares["names"]
    alt = f"{name}: shares in the baseline (pale) and in production (strong)"
    return then_and_now(edges or names, shares["then"], shares["now"], name, alt)


def _leading(column: Json) -> Json | None:
    found = min(column["tests"], key=_rank, default=None)
    return None if found is None else dict(found)


def _rank(test: Json | None) -> tuple[bool, float]:
    """Alarms first, then by evidence in units of the level."""
    if test is None:
        return True, math.inf
    e_value = test["e_value"]
    level = test["p_value"] if e_value is None else 1 / max(e_value, 1e-300)
    return not test["is_alarm"], (level or 0.0) / test["level"]


def _evidence(days: Sequence[tuple[Json, Json]]) -> float:
    return min((_rank(_leading(column))[1] for _, column in days), default=math.inf)


def _change(test: Json | None) -> str:
    if test is None:
        return "not tested"
    unit = {"location": " sd", "slow": " sd", "shape": " KS", "harm": ""}.get(test["name"])
    effect = test["effect"]
    amount = f"{effect:+.2f}{unit}" if unit is not None else f"{effect:+.1%}"
    return f"{test['name']} {amount}"


def _number(column: Json) -> float | None:
    """The median, the mean loss, or the share of the most frequent category of the baseline."""
    now = column["now"]
    for name in ("p50", "mean"):
        if name in now:
            return float(now[name])
    first = next(iter(column["then"]), None)
    return None if first is None or first not in now else float(now[first])


def _typical(values: Json) -> str:
    for name in ("p50", "mean"):
        if name in values:
            return f"{values[name]:.4g}"
    if not values:
        return NONE
    name, share = max(values.items(), key=lambda one: one[1])
    return f"{name} {share:.0%}"


# -- performance --


def _metrics(performance: Json) -> Iterator[MetricRow]:
    wholes = [one for one in performance["windows"] if one["slice"] is None]
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
            yield MetricRow(
                window["version"], name, _shown(metric["value"]),
                f"{_shown(metric['lower'])} to {_shown(metric['upper'])}"
                if metric["lower"] is not None else NONE,
                _shown(metric["recorded"]), metric["rows"],
                sum(found["alarm"] for _, found in series),
                _by_day(name, series, metric["recorded"]),
            )  # fmt: skip


def _by_day(name: str, series: Sequence[tuple[str, Json]], recorded: float | None) -> Svg | None:
    points = [(_day(start), found["value"]) for start, found in series]
    if len(points) < 2:
        return None
    first = points[0][0]
    known = [(start, one) for start, one in series if one["lower"] is not None]
    line = Series(
        [(at - first, value) for at, value in points],
        lower=[(_day(start) - first, one["lower"]) for start, one in known],
        upper=[(_day(start) - first, one["upper"]) for start, one in known],
    )
    alarms = [(_day(start) - first, one["value"]) for start, one in series if one["alarm"]]
    lanes = () if recorded is None else (Lane(recorded, "guide"),)
    day = series[0][0][:10]
    alt = f"{name} by day from {day}: {_shown(points[0][1])} to {_shown(points[-1][1])}"
    return lines([line], (f"days since {day}", name), alt, lanes=lanes, marks=alarms,
                 size=_SMALL)  # fmt: skip


def _day(start: str) -> float:
    return datetime.fromisoformat(start).timestamp() / 86_400


def _delay(truths: Json, performance: Json | None) -> str:
    """How long truths take, in a sentence."""
    quantiles = None if performance is None else performance["delay_s"]
    if quantiles:
        said = (f"{name[1:]} % within {duration(quantiles[name])}" for name in ("p50", "p90", "p99")
                if quantiles.get(name) is not None)  # fmt: skip
        return "Truths come late: " + ", ".join(said) + "."
    if truths["delay_s"] is None:
        return "No truth is known yet: outcomes are what performance is measured with."
    return f"Half of the known truths came within {duration(truths['delay_s'])}."


def _shown(value: float | None) -> str:
    return NONE if value is None or not math.isfinite(value) else f"{value:.4g}"


# -- data quality --


def _quality(versions: Sequence[Json]) -> Iterator[QualityRow]:
    """The latest day first."""
    for report in versions:
        for window in reversed(report["windows"]):
            for column in window["columns"]:
                said = [*column["findings"], *_strange(column)]
                if column["where"] == "input" and said:
                    then, now = column["missing"]
                    yield QualityRow(
                        report["version"], window["day"] or "", column["column"], f"{now:.1%}",
                        f"{then:.1%}", "; ".join(said),
                    )  # fmt: skip


def _strange(column: Json) -> Iterator[str]:
    for test in column["tests"]:
        if test["is_alarm"] and test["name"] in _QUALITY_TESTS:
            yield f"{test['name']} {test['effect']:+.1%}"
