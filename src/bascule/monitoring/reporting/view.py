"""What a page shows of a model in production, from the JSON of `bascule monitor`. Pure.

The JSON, not the values it was made of: reports are measured in processes of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bascule.core import counted
from bascule.monitoring.drift import ColumnView, columns_of
from bascule.monitoring.performance import MetricView, metrics_of
from bascule.monitoring.showing import duration

Json = Mapping[str, Any]
Quality = tuple[str, str, str, str, float, float]
"""Day, version, column, finding, and the share of missing values then and in the baseline."""
_QUALITY_ROWS = 100
_QUALITY_TESTS = ("missing", "range", "unseen")


@dataclass(frozen=True, slots=True)
class VersionView:
    """A version against its own baseline: the JSON of its report, and its columns."""

    report: Json
    columns: Sequence[ColumnView]

    @property
    def rows(self) -> int:
        """That were answered on the days that are shown."""
        return sum(window["rows"] for window in self.report["windows"])

    @property
    def quality(self) -> list[Quality]:
        """Findings on its inputs, the latest first."""
        return list(_quality(self.report))


@dataclass(frozen=True, slots=True)
class ReportView:
    """What is shown of a report: its JSON, and the drift of its versions."""

    measured: Json
    versions: Sequence[VersionView]

    @property
    def tiles(self) -> list[tuple[str, str, str]]:
        """The numbers at the top: name, value and note of each."""
        alarms = sum(column.alarms for version in self.versions for column in version.columns)
        return list(_tiles(self.measured, alarms))

    @property
    def metrics(self) -> list[MetricView]:
        """Of each version, over the whole period and all rows."""
        metrics = metrics_of(self._performance.get("windows", ()))
        return [metric for metric in metrics if metric.slice is None]

    @property
    def delay(self) -> str:
        """How long truths take, in a sentence."""
        return _delay(self.measured["truths"], self._performance.get("delay_s"))

    @property
    def findings(self) -> list[str]:
        """Sentences on performance, alarms first."""
        findings = self._performance.get("findings", ())
        return list(dict.fromkeys(finding["sentence"] for finding in findings))

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
    versions = [VersionView(report, columns_of(report)) for report in measured["drift"]["versions"]]
    return ReportView(measured, versions)


def _tiles(measured: Json, alarms: int) -> Iterator[tuple[str, str, str]]:
    total, truths, kept = measured["total"], measured["truths"], measured["ledger"]
    if measured["performance"] is not None:
        alarms += sum(finding["is_alarm"] for finding in measured["performance"]["findings"])
    yield ("alarms", f"{alarms:,}", "drift and performance, all days")
    requests = max(1, total["requests"])
    yield ("requests", f"{total['requests']:,}", f"{measured['since']} to {measured['until']}")
    refused = f"{total['refused'] / requests:.2%} refused"
    yield ("errors", f"{total['errors'] / requests:.2%}", refused)
    p99 = f"p99 {total['p99_s'] * 1e3:.3g} ms"
    yield ("latency", f"{total['p50_s'] * 1e3:.3g} ms", f"median; {p99}")
    share = truths["truths"] / max(1, truths["predictions"])
    yield ("truths known", f"{share:.0%}", counted(truths["truths"], "row"))
    lost = f"{counted(kept['gaps'], 'gap')}, {counted(kept['missing'], 'request')}"
    yield ("rows kept", f"{kept['share']:.0%}", lost if kept["gaps"] else "no gaps")


# -- drift --


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


def _delay(truths: Json, quantiles: Json | None) -> str:
    """How long truths take, in a sentence."""
    if quantiles:
        said = (f"{name[1:]} % within {duration(quantiles[name])}" for name in ("p50", "p90", "p99")
                if quantiles.get(name) is not None)  # fmt: skip
        return "Truths come late: " + ", ".join(said) + "."
    if truths["delay_s"] is None:
        return "No truth is known yet: outcomes are what performance is measured with."
    return f"Half of the known truths came within {duration(truths['delay_s'])}."
