"""Sources find what is wrong, in numbers, and nothing where too little is known."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from bascule.core import Unavailable
from bascule.metrics import Estimate
from bascule.monitoring import ColumnDrift, DriftReport, Test as DriftTest, WindowDrift
from bascule.monitoring.alerts.sources import (
    DailySource,
    HealthLimits,
    HealthSource,
    LedgerSource,
    ServerFacts,
    SilenceSource,
    VersionCount,
    drift_findings,
    performance_findings,
)
from bascule.monitoring.alerts.sources.health import P99_WINDOWS, quantile_s
from bascule.monitoring.alerts.sources.ledger import losses
from bascule.monitoring.ledger import Gap, SpoolWriter
from bascule.monitoring.performance import (
    MetricPerformance,
    PerformanceReport,
    WindowPerformance,
)

T0 = datetime(2026, 11, 26, 12, 30, tzinfo=UTC)
BOUNDS_S = (0.001, 0.01, 0.1, 1.0)


class Server:
    """Counters of one version that a test moves on."""

    def __init__(self):
        self.at_s, self.restarts, self.statuses, self.buckets = 0.0, 0, {}, [0] * 5

    def serve(self, seconds, *, bucket=1, **statuses):
        self.at_s += seconds
        for status, count in statuses.items():
            self.statuses[int(status[1:])] = self.statuses.get(int(status[1:]), 0) + count
            self.buckets[bucket] += count
        return self

    def facts(self):
        counted = VersionCount(dict(self.statuses), tuple(self.buckets))
        return ServerFacts(self.at_s, {("late", "1"): counted}, BOUNDS_S, self.restarts)


def found(source):
    return {one.kind: one for look in source.look(T0) for one in look.findings}


def health(server, **limits):
    return HealthSource(server.facts, HealthLimits(**limits), "one")


def test_failures_are_found_once_their_share_is_over_the_limit_beyond_chance():
    server = Server()
    source = health(server, error_share=0.01)
    assert found(source) == {}
    server.serve(15, _200=96, _500=4)  # 4 %, whose interval begins at 1.1 %
    error = found(source)["error_share"]
    assert (error.value, error.limit, error.severity) == (0.04, 0.01, "warning")
    assert error.sentence == (
        "late/1 on one: 4 of 100 requests failed (status 500 or more) in 5 minutes: 4.0%, "
        "limit 1.0%"
    )


def test_one_failure_among_few_requests_is_chance():
    server = Server()
    source = health(server)
    source.look(T0)
    server.serve(15, _200=24, _500=1)  # 4 % too
    assert found(source) == {}


def test_a_failure_in_ten_is_critical_and_what_callers_do_wrong_is_none():
    server = Server()
    source = health(server)
    source.look(T0)
    server.serve(15, _200=100, _404=900)
    assert found(source) == {}
    server.serve(15, _200=900, _503=300)
    assert {kind: one.severity for kind, one in found(source).items()} == {
        "error_share": "critical",
        "refused_share": "critical",
    }


def test_shares_are_of_the_last_five_minutes():
    server = Server()
    source = health(server)
    source.look(T0)
    server.serve(15, _500=100)
    assert "error_share" in found(source)
    for _ in range(22):
        server.serve(15, _200=100)
        source.look(T0)
    assert found(source) == {}


def test_latency_is_compared_with_its_limit():
    server = Server()
    source = health(server, latency_p99_s=0.05)
    source.look(T0)
    server.serve(15, bucket=1, _200=1_000)
    assert found(source) == {}
    server.serve(15, bucket=3, _200=100)
    slow = found(source)["latency_p99"]
    assert slow.value > 0.05 == slow.limit
    assert "limit 50 ms" in slow.sentence


def test_latency_without_a_limit_is_compared_with_its_own_history():
    server = Server()
    source = health(server)
    source.look(T0)
    for _ in range(P99_WINDOWS - 1):
        server.serve(300, bucket=1, _200=1_000)
        source.look(T0)
    server.serve(300, bucket=3, _200=1_000)
    assert found(source) == {}  # too little history
    for _ in range(P99_WINDOWS):
        server.serve(300, bucket=1, _200=1_000)
        source.look(T0)
    server.serve(300, bucket=3, _200=1_000)
    assert "3 times the usual" in found(source)["latency_p99"].sentence


def test_restarts_of_workers_are_found_and_three_are_critical():
    server = Server()
    source = health(server)
    source.look(T0)
    server.restarts = 1
    one = found(source)["restarts"]
    assert (one.severity, one.model) == ("warning", "")
    server.restarts = 3
    assert found(source)["restarts"].severity == "critical"


@pytest.mark.parametrize(
    ("buckets", "quantile"),
    [
        ((0, 0, 0, 0, 0), None),
        ((100, 0, 0, 0, 0), 0.00099),
        ((0, 100, 0, 0, 0), 0.001 + 0.009 * 0.99),
        ((0, 0, 0, 0, 5), 1.0),
    ],
)
def test_a_quantile_is_linear_inside_of_its_bucket(buckets, quantile):
    assert quantile_s(buckets, BOUNDS_S, 0.99) == (quantile and pytest.approx(quantile))


def gap(why, hours, requests=3):
    at = (T0 - timedelta(hours=hours)).isoformat()
    return Gap(writer="one-1", found_at=at, requests=requests, why=why)


def test_losses_of_a_day_are_found_by_their_reason():
    gaps = [gap("killed", 1), gap("killed", 23.9), gap("dropped", 2, 1_000), gap("killed", 24.1)]
    assert [(one.kind, one.value, one.severity) for one in losses(gaps, "one", T0)] == [
        ("lost_killed", 6, "warning"),
        ("lost_dropped", 1_000, "critical"),
    ]


def test_a_spool_that_no_scribe_reads_is_found_after_five_minutes(tmp_path):
    writer = SpoolWriter(tmp_path)
    writer.append(b"block", 1)
    writer.close()
    now_s = [0.0]
    source = LedgerSource(tmp_path, "one", clock_s=lambda: now_s[0])
    assert found(source) == {}
    now_s[0] = 300
    assert found(source) == {}
    now_s[0] = 301
    assert found(source)["lag"].sentence == "the ledger on one is 5 minutes behind, limit 5"


def rows(counts, hours):
    """By days before the last whole hour."""
    assert hours[0] == T0.replace(minute=0) - timedelta(hours=1)
    return {"late": {hours[day]: count for day, count in counts.items()}}


BUSY = dict.fromkeys(range(1, 8), 20)


@pytest.mark.parametrize(
    ("counts", "is_silent"),
    [
        (BUSY, True),
        ({**BUSY, 0: 1}, False),
        ({**BUSY, 3: 19}, False),
        ({**BUSY, 7: 0}, False),
    ],
)
def test_an_hour_is_silent_if_the_same_hour_of_a_week_of_days_was_not(counts, is_silent):
    source = SilenceSource(lambda hours: rows(counts, hours), "one")
    (look,) = source.look(T0)
    assert bool(look.findings) is is_silent
    assert source.look(T0) == ()  # the hour is judged once


def drift_report(day, *alarms):
    alarm = DriftTest("location", 9.0, 1e-9, None, 1e-4, 0.5, 0.1, True)
    quiet = DriftTest("location", 0.1, 0.5, None, 1e-4, 0.01, 0.1, False)
    columns = tuple(
        ColumnDrift(
            name, "input", (alarm if name in alarms else quiet,), {}, {}, (0, 0),
            is_broken=name == "broken", sentence=f"{name}: 0.50 deviations higher",
        )
        for name in ("wind", "distance", "broken")[: 3 if "broken" in alarms else 2]
    )  # fmt: skip
    windows = (WindowDrift(day - timedelta(days=1), 100, columns), WindowDrift(day, 100, columns))
    return DriftReport("late", "sha256:0", 4.0, 365, 1e-4, windows)


def test_each_column_that_drifts_on_the_day_is_a_finding():
    day = date(2026, 11, 25)
    made = list(drift_findings(drift_report(day, "wind"), "late", "3", day, T0))
    assert [(one.column, one.kind, one.severity, one.value) for one in made] == [
        ("wind", "drift", "warning", 0.5)
    ]
    assert made[0].sentence == "late/3 on 2026-11-25: wind: 0.50 deviations higher"


def test_broken_data_are_critical():
    day = date(2026, 11, 25)
    made = list(drift_findings(drift_report(day, "broken"), "late", "3", day, T0))
    assert [(one.column, one.kind, one.severity) for one in made] == [
        ("broken", "quality", "critical")
    ]


def performance_report(*windows):
    """By day: whether roc_auc raises an alarm; None for a day that waits for its truths."""
    made = []
    for day, is_alarm in windows:
        start = datetime(2026, 11, day, tzinfo=UTC)
        one = MetricPerformance(
            "roc_auc", Estimate(0.61, 0.55, 0.67, 400), 0.75, p_value=1e-6, level=1e-4,
            worse_by=0.14, is_alarm=bool(is_alarm),
        )  # fmt: skip
        waits = "" if is_alarm is not None else "few truths are in"
        made.append(
            WindowPerformance(
                "3", start, start + timedelta(days=1), None, 500, 400, 0.9, (one,), waits
            )
        )
    return PerformanceReport("late", "day", 4.0, tuple(made))


@pytest.mark.parametrize(
    ("windows", "is_alarm"),
    [
        ([(24, False), (25, True)], True),
        ([(24, True), (25, False)], False),
        ([(24, True), (25, None)], True),
    ],
)
def test_performance_is_that_of_the_newest_day_with_enough_truths(windows, is_alarm):
    made = list(performance_findings(performance_report(*windows), "late", T0))
    assert [(one.kind, one.version, one.value, one.limit) for one in made] == (
        [("roc_auc", "3", 0.61, 0.75)] if is_alarm else []
    )


def test_a_finished_day_is_judged_once_and_again_after_a_failure():
    days = {"late": date(2026, 11, 24)}
    asked, failures = [], [Unavailable("the store is away")]

    def measure(model, day, now):
        asked.append((model, day.day))
        if failures:
            raise failures.pop()
        return []

    source = DailySource("drift", lambda now: days, measure)
    assert source.look(T0) == []
    assert [look.model for look in source.look(T0)] == ["late"]
    assert source.look(T0) == []
    days["late"] = date(2026, 11, 25)
    assert len(source.look(T0)) == 1
    assert len(source.look(T0 + timedelta(days=1))) == 1  # truths may have come
    assert asked == [("late", 24), ("late", 24), ("late", 25), ("late", 25)]


def test_a_finding_keeps_its_id_while_its_numbers_change():
    server = Server()
    source = health(server)
    source.look(T0)
    server.serve(15, _200=900, _500=100)
    one = found(source)["error_share"]
    assert replace(one, value=0.5, sentence="other", severity="info").id == one.id
    assert replace(one, place="two").id != one.id
