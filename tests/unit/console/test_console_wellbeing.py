"""Whether all is well: the first sentence of the overview, and the row of an endpoint."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.console_work import finished, fire, looking, one_home

from bascule.console.facts import EndpointFacts, ServerFacts
from bascule.console.latest import Latest
from bascule.console.pages.overview import p99_s
from bascule.console.wellbeing import Objectives, Row, VersionMeasured, headline
from bascule.control import SettingsShown
from bascule.core import Unavailable
from bascule.endpoints import Arm, Endpoint, Plan, StoredPlan
from bascule.monitoring import Ledger, Traffic, traffic_by_endpoint
from bascule.monitoring.alerts import Alert, Finding
from bascule.serving.telemetry import BUCKETS_S

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
READY = ServerFacts(is_there=True, workers=2, alive=2)


def hours(last, before=0):
    return (before,) * 23 + (last,)


def a_row(name="late", requests=1_000, errors=0, alerts=(), measured=None, served=3):
    plan = Plan(name, 3, (Arm("current", f"{name}/1", 100.0),))
    facts = EndpointFacts(
        Endpoint(name, "", StoredPlan(plan, NOW, "ada")), None, served, True, 9, 9
    )
    traffic = Traffic(hours(requests), hours(errors), 0.004)
    return Row(facts, traffic, None, measured, alerts, None, 0.01)


def an_alert(model="late", state="firing", sentence="wind has moved"):
    finding = Finding("drift", "column", model, "warning", sentence, 0.4, 0.1, NOW)
    return Alert(finding, state, NOW)


def drifted(columns, **more):
    return VersionMeasured(columns, 24, **more), NOW


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([a_row()], "Endpoint late is well"),
        ([a_row(one) for one in ("a", "b", "c")], "All 3 endpoints are well"),
        ([a_row(errors=40), a_row("b")], "late: 4.0 % of requests fail"),
        ([a_row(alerts=[an_alert()])], "late: 1 alert fires"),
        ([a_row(alerts=[an_alert(state="pending")])], "Endpoint late is well"),
        ([a_row(served=2)], "late: this server serves an older plan"),
        ([a_row(measured=drifted(1))], "late: 1 column has drifted"),
        ([a_row(measured=drifted(0))], "Endpoint late is well"),
        (
            [a_row("a", measured=drifted(3)), a_row("b", errors=40)],
            "b: 4.0 % of requests fail; a: 3 columns have drifted",
        ),
        (
            [a_row(one, errors=40) for one in "abcde"],
            "a: 4.0 % of requests fail; b: 4.0 % of requests fail; c: 4.0 % of requests fail; "
            "and 2 more",
        ),
        ([], ""),
    ],
)
def test_the_headline_names_what_is_not_well_the_worst_first(rows, sentence):
    assert headline(READY, rows, [])[1] == sentence


def test_few_errors_may_be_chance_and_old_ones_are_over():
    assert a_row(requests=20, errors=1).problems == []
    over = a_row()
    over = replace(over, traffic=Traffic(hours(1_000, 1_000), hours(0, 500), 0.004))
    assert over.problems == []
    assert over.error_share == pytest.approx(0.479, abs=1e-3)


def test_alerts_of_no_endpoint_and_workers_that_are_down_are_in_the_headline():
    down = replace(READY, alive=1)
    tone, sentence = headline(down, [a_row(alerts=[an_alert()])], [an_alert(), an_alert("other")])
    assert tone == "bad"
    assert sentence == "late: 1 alert fires; 1 other alert fires; 1 of 2 workers answer"


def test_without_a_server_and_a_ledger_nothing_is_said_to_be_well():
    facts = replace(a_row().facts, requests=0, errors=0)
    tone, sentence = headline(ServerFacts(), [replace(a_row(), facts=facts, traffic=None)], [])
    assert tone == "warn"
    assert "not known" in sentence


def test_without_a_ledger_the_row_has_the_counts_of_the_plan():
    row = replace(a_row(), traffic=None, p99_s=0.25)
    assert (row.requests, row.errors, row.latency_s, row.trend) == (9, 9, 0.25, None)


def test_the_burn_rate_is_1_where_errors_spend_the_allowance_as_fast_as_allowed():
    promised = Objectives(availability=0.999)
    assert promised.burn_rate(0.001) == pytest.approx(1.0)
    assert promised.burn_rate(0.02) == pytest.approx(20.0)
    assert promised.burn_rate(None) is None
    assert Objectives(latency_ms=20.0).burn_rate(0.1) is None


def test_the_p99_is_over_all_versions_that_answer():
    plan = Plan("late", 3, (Arm("current", "late/1", 50.0), Arm("candidate", "late/2", 50.0)))
    empty = (0,) * (len(BUCKETS_S) + 1)
    slow = (*empty[:10], 50, *empty[11:])
    server = ServerFacts(buckets={"late/1": (50, *empty[1:]), "late/2": slow, "rain/1": empty})
    assert BUCKETS_S[9] < p99_s(server, plan) <= BUCKETS_S[10]
    assert p99_s(ServerFacts(), plan) is None


# -- what is read slowly --


def test_a_slow_value_is_waited_for_a_moment_and_shown_later():
    may_end, reads = threading.Event(), []

    def read():
        may_end.wait(30)
        reads.append(len(reads))
        return f"value {len(reads)}"

    latest = Latest(read, every_s=0.0, patience_s=0.01)
    assert latest.get() is None
    assert latest.get() is None  # the same reading: none is begun beside it
    may_end.set()
    latest = latest_with_patience(latest)
    assert latest.get() in ("value 1", "value 2")
    assert len(reads) <= 2


def latest_with_patience(latest):
    latest._patience_s = 30.0
    return latest


def test_a_value_that_cannot_be_read_again_stays():
    answers = ["first"]

    def read():
        if not answers:
            raise Unavailable("gone")
        return answers.pop()

    latest = Latest(read, every_s=0.0, patience_s=30.0)
    assert [latest.get(), latest.get()] == ["first", "first"]


# -- with the real recorder, jobs and alerts --


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return one_home(tmp_path_factory.mktemp("wellbeing"))


def test_traffic_of_the_ledger_is_by_hour_and_each_request_counts_once(home):
    found = traffic_by_endpoint(Ledger(home.home), datetime.now(UTC) + timedelta(minutes=1))
    rows, requests = Ledger(home.home).query(
        "SELECT count(*) AS r, count(DISTINCT id) AS n FROM predictions "
        "WHERE time > now() - INTERVAL 24 HOUR"
    ).to_pylist()[0].values()  # fmt: skip
    assert sum(found["late"].requests) == requests < rows
    assert found["late"].errors == (0,) * 24
    assert found["late"].p99_s > 0
    later = datetime.now(UTC) + timedelta(days=2)
    assert traffic_by_endpoint(Ledger(home.home), later) == {}


def test_the_overview_has_traffic_drift_and_alerts_of_an_endpoint_and_its_objectives(home):
    objectives = {"late": {"availability": 0.999, "latency_ms": 20.0, "latency_share": 0.99}}
    shown = SettingsShown({"alerts": {"error_share": 0.01, "objectives": objectives}}, tuple)
    with looking(home, shown=shown) as pages:
        page = pages.get("/").text
        assert "Endpoint late is well." in page
        assert "Requests to late by hour, 24 hours; 20 in the last" in page
        assert "not measured" in page
        assert "objective 99.9 % answered" in page
        assert "burn rate 0" in page
        assert "objective 99 % within 20 ms" in page
        pages.get("/monitoring/late")
        finished(pages)
        page = pages.get("/").text
        assert "not measured" not in page
        assert "late: " in page.partition('headline"')[2][:200]
        fire(home, severity="critical")
        assert "1 open" in pages.get("/").text
