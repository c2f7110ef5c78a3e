"""Objectives: an allowance that is spent too fast raises an alert, and chance does not."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from bascule.app import objectives_of
from bascule.core import Invalid
from bascule.monitoring.alerts.sources import (
    Objective,
    ObjectiveSource,
    ServerFacts,
    VersionCount,
)
from bascule.settings import load_settings

T0 = datetime(2026, 11, 26, 12, 30, tzinfo=UTC)
BOUNDS_S = (0.01, 0.1, 1.0)
LATE = Objective(availability=0.999, latency_share=0.99, latency_s=0.1)


class Server:
    """Counters of a model that a test moves on, and the source that looks at them."""

    def __init__(self, objective=LATE):
        self.at_s, self.good, self.failed, self.slow = 0.0, 0, 0, 0
        self.source = ObjectiveSource(self.facts, {"late": objective}, "one")

    def facts(self):
        count = VersionCount(
            {200: self.good + self.slow, 500: self.failed},
            (0, self.good + self.failed, self.slow, 0),
        )
        other = VersionCount({500: 10**6}, (0, 0, 0, 10**6))
        versions = {("late", "2"): count, ("other", "1"): other}
        return ServerFacts(self.at_s, versions, BOUNDS_S, 0)

    def serve(self, seconds, *, good=0, failed=0, slow=0):
        """Serve for so long, so many of each a minute; what the last look finds, by kind."""
        for _ in range(int(seconds // 60)):
            self.at_s += 60
            self.good, self.failed, self.slow = (
                self.good + good, self.failed + failed, self.slow + slow,
            )  # fmt: skip
            found = self.look()
        return found

    def look(self):
        (observation,) = self.source.look(T0)
        return {each.kind: each for each in observation.findings}


def test_a_fast_burn_is_critical_in_minutes_and_over_when_it_stops():
    server = Server()
    server.look()
    assert server.serve(3_600, good=1_000) == {}
    found = server.serve(1_200, good=950, failed=50)
    assert found["failed"].severity == "critical"
    assert "the objective allows 0.100%" in found["failed"].sentence
    # The short windows say that it goes on no more, each in its time.
    assert server.serve(600, good=1_000)["failed"].severity == "warning"
    assert server.serve(1_800, good=1_000) == {}


def test_a_slow_burn_is_a_warning_of_its_own_objective():
    server = Server()
    server.look()
    found = server.serve(4 * 3_600, good=920, slow=80)  # 8 % slow, where 1 % is allowed
    assert list(found) == ["slow"]
    assert (found["slow"].severity, round(found["slow"].value)) == ("warning", 8)
    assert "took over 100 ms" in found["slow"].sentence
    assert "90 hours" in found["slow"].sentence


def test_a_spend_below_the_rates_is_no_alert():
    server = Server()
    server.look()
    assert server.serve(8 * 3_600, good=996, failed=4) == {}  # four times as fast as allowed


def test_one_failure_among_few_requests_is_chance():
    server = Server()
    server.look()
    assert server.serve(60, good=4, failed=1) == {}


def test_what_was_counted_before_the_first_look_is_in_no_window():
    server = Server()
    server.good, server.failed = 1_000, 1_000
    assert server.look() == {}
    assert server.serve(3_600, good=1_000) == {}


@pytest.mark.parametrize("a_minute", [1, 20, 500])
def test_a_service_that_spends_its_allowance_exactly_is_left_alone_for_a_week(a_minute):
    random = np.random.default_rng(a_minute)
    server = Server(Objective(availability=0.99))
    server.look()
    alerts = 0
    for _ in range(7 * 24 * 12):
        failed = int(random.binomial(5 * a_minute, 0.01))
        server.at_s += 300
        server.good, server.failed = server.good + 5 * a_minute - failed, server.failed + failed
        alerts += bool(server.look())
    assert alerts == 0


def test_objectives_are_set_by_model_and_latency_is_raised_to_a_bound_of_the_histogram(tmp_path):
    (tmp_path / "bascule.toml").write_text(
        "[alerts.objectives.late]\navailability = 0.999\nlatency_ms = 30\n"
    )
    objectives = objectives_of(load_settings(tmp_path, {}))
    assert objectives == {"late": Objective(0.999, 0.99, 0.05)}
    (tmp_path / "bascule.toml").write_text("[alerts.objectives.late]\navailability = 99.9\n")
    with pytest.raises(Invalid, match=r"alerts\.objectives\.late\.availability"):
        load_settings(tmp_path, {})
