"""Whether endpoints are well: the rows of the overview and its first sentence. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from bascule.charts import Svg, sparkline
from bascule.console.facts import EndpointFacts, ServerFacts
from bascule.monitoring.reporting import report_of
from bascule.stats import exact_interval

if TYPE_CHECKING:
    from bascule.monitoring import Traffic
    from bascule.monitoring.alerts import Alert

_CONFIDENCE = 0.99
_MAX_NAMED = 3
_MEASURED_DAYS = (1, 7, 30, 90)


@dataclass(frozen=True, slots=True)
class VersionMeasured:
    """What a stored report says of one version.

    Attributes:
        drifted: Columns with an alarm on the latest day.
        columns: That were measured on that day.
        metric: The first metric on truths, as `accuracy 91.2 %`; empty without truths.
        recorded: The same metric on the held-out rows.
        has_alarm: Whether a metric has an alarm in a window of the period.
    """

    drifted: int
    columns: int
    metric: str = ""
    recorded: str = ""
    has_alarm: bool = False


@dataclass(frozen=True, slots=True)
class Objectives:
    """What `[alerts.objectives.MODEL]` promises of a model.

    Attributes:
        availability: The share that must be answered without an error; None for no objective.
        latency_ms: The bound of latency; None for no objective.
        latency_share: The share of answers within it.
    """

    availability: float | None = None
    latency_ms: float | None = None
    latency_share: float = 0.99

    def burn_rate(self, error_share: float | None) -> float | None:
        """How fast errors spend the allowance: 1 is as fast as allowed."""
        if self.availability is None or error_share is None:
            return None
        return error_share / (1 - self.availability)


@dataclass(frozen=True, slots=True)
class Row:
    """One endpoint of the overview.

    Attributes:
        facts: The endpoint, and what this server counted for its plan.
        traffic: Of the last 24 hours, by the ledger; None where it has no answers of the endpoint.
        p99_s: Of the answers of its versions since the server started; None without any.
        measured: Of its first version that has a stored report, and when that was measured.
        alerts: Those that are open, of its models.
        objectives: Of its model; None for none.
        error_limit: The share of errors beyond which it is not well.
    """

    facts: EndpointFacts
    traffic: Traffic | None
    p99_s: float | None
    measured: tuple[VersionMeasured, datetime] | None
    alerts: Sequence[Alert]
    objectives: Objectives | None
    error_limit: float

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def requests(self) -> int:
        """Of the last 24 hours; without the ledger, of the plan."""
        return sum(self.traffic.requests) if self.traffic else self.facts.requests

    @property
    def errors(self) -> int:
        return sum(self.traffic.errors) if self.traffic else self.facts.errors

    @property
    def error_share(self) -> float | None:
        return self.errors / self.requests if self.requests else None

    @property
    def latency_s(self) -> float | None:
        """The 99th percentile, of the same time as `requests` where the ledger is on."""
        return self.traffic.p99_s if self.traffic else self.p99_s

    @property
    def firing(self) -> int:
        return sum(one.state == "firing" for one in self.alerts)

    @property
    def trend(self) -> Svg | None:
        """The requests by hour."""
        if self.traffic is None:
            return None
        alt = (
            f"Requests to {self.name} by hour, 24 hours; {self.traffic.requests[-1]:,} in the last"
        )
        return sparkline(map(float, self.traffic.requests), alt)

    @property
    def recent(self) -> tuple[int, int]:
        """Requests and errors of the last hour; without the ledger, of the plan."""
        if self.traffic:
            return self.traffic.requests[-1], self.traffic.errors[-1]
        return self.facts.requests, self.facts.errors

    @property
    def problems(self) -> list[tuple[str, str]]:
        """Why it is not well, the worst first: the tone, and the reason in a few words."""
        return list(_problems(self))


def _problems(row: Row) -> Iterator[tuple[str, str]]:
    requests, errors = row.recent
    # The interval is costly: only that of a share over the limit is asked for.
    if requests and errors / requests > row.error_limit:
        low, _ = exact_interval(errors, requests, confidence=_CONFIDENCE)
        if low > row.error_limit:
            yield "bad", f"{errors / requests * 100:.1f} % of requests fail"
    if row.firing:
        yield "bad", "1 alert fires" if row.firing == 1 else f"{row.firing} alerts fire"
    if row.facts.state == "behind":
        yield "warn", "this server serves an older plan"
    if row.measured and row.measured[0].drifted:
        drifted = row.measured[0].drifted
        yield "warn", f"{drifted} column{' has' if drifted == 1 else 's have'} drifted"
    if row.measured and row.measured[0].has_alarm:
        yield "warn", f"{row.measured[0].metric} is worse than on the held-out rows"


def headline(server: ServerFacts, rows: Sequence[Row], alerts: Sequence[Alert]) -> tuple[str, str]:
    """The tone and the sentence: whether all is well, and what is not.

    Args:
        server: The server beside this process.
        rows: All endpoints that the person may see.
        alerts: All open alerts that the person may see: those of no endpoint count too.
    """
    problems = [(tone, f"{row.name}: {text}") for row in rows for tone, text in row.problems[:1]]
    shown = {alert.finding.id for row in rows for alert in row.alerts}
    others = sum(one.state == "firing" and one.finding.id not in shown for one in alerts)
    if others:
        problems.append(
            ("bad", "1 other alert fires" if others == 1 else f"{others} other alerts fire")
        )
    if server.state == "down":
        problems.append(("bad", f"{server.alive} of {server.workers} workers answer"))
    if problems:
        problems.sort(key=lambda one: one[0] != "bad")
        more = len(problems) - _MAX_NAMED
        text = "; ".join(text for _, text in problems[:_MAX_NAMED])
        return problems[0][0], text + (f"; and {more} more" if more > 0 else "")
    if not rows:
        return "", ""
    if server.state == "none" and not any(row.traffic for row in rows):
        return "warn", "No alert fires. What the endpoints answer is not known to this process"
    which = f"Endpoint {rows[0].name} is" if len(rows) == 1 else f"All {len(rows)} endpoints are"
    return "good", f"{which} well"


def versions_measured(result: Mapping[str, Any]) -> dict[str, VersionMeasured]:
    """By version, what the JSON of `bascule monitor` says of it."""
    report = report_of(result)
    metrics = {one.version: one for one in reversed(report.metrics)}
    found = {}
    for one in report.versions:
        windows, version = one.report["windows"], str(one.report["version"])
        columns = windows[-1]["columns"] if windows else ()
        metric = metrics.get(version)
        found[version] = VersionMeasured(
            sum(bool(column["alarm"]) for column in columns), len(columns),
            f"{metric.name} {metric.value}" if metric else "", metric.recorded if metric else "",
            any(one.alarms for one in report.metrics if one.version == version),
        )  # fmt: skip
    return found


def subjects_of(models: Sequence[str]) -> list[str]:
    """The subjects of the stored reports of models; see `pages.monitoring`."""
    return [f"{model}/{days}" for model in models for days in _MEASURED_DAYS]


def objectives_by_model(alerts: Mapping[str, Any]) -> dict[str, Objectives]:
    """From the section `alerts` of the settings that are shown."""
    return {name: Objectives(**one) for name, one in alerts.get("objectives", {}).items()}
