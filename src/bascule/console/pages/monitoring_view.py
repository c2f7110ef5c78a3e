"""The page of a model in production: what is shown of the report of `bascule monitor`. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from bascule.charts import Lane, Series, Svg, lines, sparkline, then_and_now
from bascule.console.words import NONE, duration

Json = Mapping[str, Any]
_QUALITY_ROWS = 100
_QUALITY_TESTS = ("missing", "range", "unseen")
_DAYS = 60
_SMALL = (340, 250)


def report_of(measured: Json) -> dict[str, Any]:
    """What is shown of the JSON of `bascule monitor`."""
    drift, performance = measured["drift"], measured["performance"] or {}
    versions = list(map(_version, drift["versions"]))
    return {
        "tiles": list(_tiles(measured, sum(one["alarms"] for one in versions))),
        "versions": versions,
        "metrics": list(_metrics(performance.get("windows", ()))),
        "delay": _delay(measured["truths"], performance.get("delay_s")),
        "findings": list(dict.fromkeys(one["sentence"] for one in performance.get("findings", ()))),
        "quality": list(_quality(drift["versions"]))[:_QUALITY_ROWS],
        "notes": [*drift["notes"], *measured["notes"], *performance.get("notes", ())],
    }  # fmt: skip


def _tiles(measured: Json, alarms: int) -> Iterator[tuple[str, str, str]]:
    """The numbers at the top of the page: name, value and note of each."""
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


def _version(report: Json) -> dict[str, Any]:
    """A version against its own baseline, the columns with most alarms first."""
    by_column: dict[tuple[str, str], list[Json]] = {}
    for window in report["windows"]:
        for column in window["columns"]:
            by_column.setdefault((column["where"], column["column"]), []).append(column)
    shares = report.get("distributions", {})
    rows = [
        (_evidence(days), _column(where, name, days, shares.get(where, {}).get(name)))
        for (where, name), days in by_column.items()
    ]
    # Of as many alarms, inputs first: answers follow them.
    rows.sort(key=lambda one: (-one[1]["alarms"], one[1]["where"] != "input", one[0]))
    columns, windows = [row for _, row in rows], report["windows"]
    return {
        "version": report["version"], "rows": sum(one["rows"] for one in windows),
        "days": len(windows), "budget": report["budget"], "columns": columns,
        "notes": report["notes"], "alarms": sum(one["alarms"] for one in columns),
    }  # fmt: skip


def _column(where: str, name: str, days: Sequence[Json], shares: Json | None) -> dict[str, Any]:
    """A column over the days that are shown.

    `change` and `sentence` are of the latest alarm, or else of the strongest change; `then` and
    `now` are what it is about, in the baseline and on that day.
    """
    alarms = [column for column in days if column["alarm"]]
    told = alarms[-1] if alarms else min(days, key=lambda one: _rank(_leading(one)))
    known = [value for column in days if (value := _number(column)) is not None]
    return {
        "name": name, "where": where, "alarms": len(alarms), "change": _change(_leading(told)),
        "then": _typical(told["then"], told["tested"]),
        "now": _typical(told["now"], told["tested"]),
        "sentence": told["sentence"], "share": told["share"],
        "chart": None if shares is None else _distribution(name, shares),
        "trend": sparkline(known[-_DAYS:], f"{name} by day, {len(known)} days"),
    }  # fmt: skip


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


def _evidence(days: Sequence[Json]) -> float:
    return min((_rank(_leading(column))[1] for column in days), default=math.inf)


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


def _typical(values: Json, tested: str) -> str:
    """The category or quantile that was tested; else a typical value."""
    if tested in values and "p50" not in values:
        return f"{tested} {values[tested]:.0%}"
    for name in (tested, "p50", "mean"):
        if name in values:
            return f"{values[name]:.4g}"
    if not values:
        return NONE
    name, share = max(values.items(), key=lambda one: one[1])
    return f"{name} {share:.0%}"


# -- performance --


def _metrics(windows: Sequence[Json]) -> Iterator[dict[str, Any]]:
    """The metrics of each version over the whole period."""
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
            lower, upper = metric["lower"], metric["upper"]
            yield {
                "version": window["version"], "name": name, "value": _shown(metric["value"]),
                "interval": NONE if lower is None else f"{_shown(lower)} to {_shown(upper)}",
                "recorded": _shown(metric["recorded"]), "rows": metric["rows"],
                "alarms": sum(found["alarm"] for _, found in series),
                "chart": _by_day(name, series, metric["recorded"]),
            }  # fmt: skip


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


def _delay(truths: Json, quantiles: Json | None) -> str:
    """How long truths take, in a sentence."""
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


def _quality(versions: Sequence[Json]) -> Iterator[tuple[str, str, str, str, float, float]]:
    """Day, version, column, finding, and the share that is missing now and then; latest first."""
    for report in versions:
        for window in reversed(report["windows"]):
            for column in window["columns"]:
                said = "; ".join([*column["findings"], *_strange(column)])
                if column["where"] == "input" and said:
                    then, now = column["missing"]
                    name = column["column"]
                    yield window["day"] or "", report["version"], name, said, now, then


def _strange(column: Json) -> Iterator[str]:
    for test in column["tests"]:
        if test["is_alarm"] and test["name"] in _QUALITY_TESTS:
            yield f"{test['name']} {test['effect']:+.1%}"
