from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bascule.core.errors import KINDS, BasculeError, Invalid, Unavailable
from bascule.serving.protocols.table import PROTOCOLS
from bascule.serving.telemetry import ArmTotals, MetricLabels, prometheus_text
from bascule.serving.telemetry.counters import (
    BUCKETS_S,
    PROTOCOLS as METRIC_PROTOCOLS,
    STATUS_CLASSES,
    STATUSES,
    Counters,
)
from bascule.serving.transports.statuses import STATUS_OF, HttpError, error_text, status_of

OTHER, FIRST, SECOND = LABELS = [MetricLabels(), MetricLabels("m", "1"), MetricLabels("m", "2")]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "counters"


def counting(path, workers=1, **more):
    """Counters in which all of `LABELS` have slots."""
    counters = Counters(path, workers, **more)
    for label in LABELS[1:]:
        counters.name(label)
    return counters


def samples(counters):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(
            prometheus_text(counters.labels(), counters.totals())
        )
        for sample in family.samples
    }


def test_the_total_is_the_sum_over_the_workers_and_each_label_has_its_own(path):
    counters = counting(path, 3)
    for worker in range(3):
        counters.series(worker).count(404, 1, 0)
        counters.series(worker, FIRST).count(200, 1_000, 5)
        counters.series(worker, SECOND).count(200 if worker else 500, 2_000, 7)
    other, first, second = counters.totals()
    assert (other.by_status, other.rows) == ({404: 3}, 0)
    assert (first.by_status, first.rows, first.requests) == ({200: 3}, 15, 3)
    assert (second.by_status, second.rows) == ({200: 2, 500: 1}, 21)
    assert second.duration_s == pytest.approx(6e-6)


def test_runs_add_up_and_open_calls_are_those_of_now(path):
    counters = counting(path, 2)
    first, second = (counters.series(worker, FIRST) for worker in range(2))
    for runs, open_calls in ((3, 7), (2, 1)):
        first.note_work(runs, open_calls)
        second.note_work(runs, open_calls)
    total = counters.totals()[1]
    assert (total.runs, total.open_calls) == (10, 2)
    labels = (("model", "m"), ("version", "1"))
    assert samples(counters)["bascule_runs_total", *labels] == 10
    assert samples(counters)["bascule_open_calls", *labels] == 2


def test_a_worker_that_is_started_again_goes_on_counting_where_it_stood(path):
    counting(path, 2).series(1, FIRST).count(200, 1, 1)
    again = Counters(path, 2)
    again.series(1, FIRST).count(200, 1, 1)
    assert again.totals()[1].by_status == {200: 2}


def test_whoever_opens_the_file_reads_what_another_has_written(path):
    writer, reader = (counting(path) for _ in range(2))
    writer.series(0).count(200, 1, 0)
    assert reader.totals()[0].requests == 1


def test_a_version_that_is_named_later_is_known_to_everybody_at_once(path):
    supervisor, worker = Counters(path, 1), Counters(path, 1)
    assert worker.labels() == [OTHER]

    supervisor.name(SECOND)
    assert worker.labels() == [OTHER, SECOND]
    supervisor.name(FIRST)
    worker.series(0, FIRST).count(200, 1, 3)

    assert supervisor.labels() == worker.labels() == [OTHER, SECOND, FIRST]
    assert [total.rows for total in supervisor.totals()] == [0, 0, 3]


def test_a_version_that_comes_back_counts_on(path):
    counters = counting(path)
    counters.series(0, FIRST).count(200, 1, 1)
    for label in (MetricLabels("other", "1"), FIRST):
        counters.name(label)
    counters.series(0, FIRST).count(200, 1, 1)

    assert counters.labels() == [*LABELS, MetricLabels("other", "1")]
    assert counters.totals()[1].requests == 2


def test_no_more_versions_are_named_than_there_are_slots(path):
    counters = counting(path, capacity=3)
    counters.name(MetricLabels("last", "1"))
    with pytest.raises(Unavailable, match="3 versions were served since the server started"):
        counters.name(MetricLabels("one", "too-many"))
    counters.name(FIRST)
    counters.series(0, MetricLabels("last", "1")).count(200, 1, 9)
    assert [total.rows for total in counters.totals()] == [0, 0, 0, 9]


def test_the_longest_names_do_not_run_into_each_other(path):
    longest = [MetricLabels(letter * 128, letter * 128) for letter in "xyz"]
    counters = Counters(path, 2, capacity=3)
    for label in longest:
        counters.name(label)
    for number, label in enumerate(longest):
        counters.series(1, label).count(200, 1, number)
    assert Counters(path, 2, capacity=3).labels() == [OTHER, *longest]
    assert [total.rows for total in counters.totals()] == [0, 0, 1, 2]


@pytest.mark.parametrize("place", range(len(BUCKETS_S)))
def test_a_duration_counts_for_the_first_bound_that_it_does_not_exceed(path, place):
    counters = counting(path)
    series = counters.series(0, FIRST)
    bound_ns = int(BUCKETS_S[place] * 1e9)
    series.count(200, bound_ns, 1)
    series.count(200, bound_ns + 1, 1)
    buckets = counters.totals()[1].buckets
    assert (buckets[place], buckets[place + 1]) == (1, 1)


def test_prometheus_reads_every_status_and_a_histogram_that_adds_up(path):
    counters = counting(path)
    series = counters.series(0, FIRST)
    for status in STATUSES:
        series.count(status, 3_000_000, 2)
    read = samples(counters)
    one = (("model", "m"), ("version", "1"))
    for status in STATUSES:
        assert read[("bascule_requests_total", one[0], ("status", str(status)), one[1])] == 1
    assert read[("bascule_rows_total", *one)] == 2 * len(STATUSES)
    name = "bascule_request_duration_seconds"
    counted = 0
    for kind in STATUS_CLASSES:
        labels = one[0], ("protocol", ""), ("status_class", kind), one[1]
        last = read[(f"{name}_bucket", ("le", "+Inf"), *labels)]
        counted += last
        assert read[(f"{name}_count", *labels)] == last
        bounds = [read[(f"{name}_bucket", ("le", str(bound)), *labels)] for bound in BUCKETS_S]
        assert bounds == sorted(bounds)
    assert counted == len(STATUSES)


def test_each_protocol_and_class_of_status_has_a_histogram_of_its_own(path):
    counters = counting(path, 2)
    for worker in range(2):
        series = counters.series(worker, FIRST)
        series.count(200, 3_000_000, 1, "oip")
        series.count(200, 30_000_000, 1, "oip-grpc")
        series.count(400, 300_000, 1, "oip")
    found = {(one.protocol, one.status_class): one for one in counters.totals()[1].histograms}
    assert {key: sum(one.buckets) for key, one in found.items()} == {
        ("oip", "2xx"): 2, ("oip-grpc", "2xx"): 2, ("oip", "4xx"): 2,
    }  # fmt: skip
    assert found["oip", "2xx"].duration_s == pytest.approx(0.006)
    assert counters.totals()[1].duration_s == pytest.approx(0.0666)


def test_every_protocol_of_the_server_has_histograms():
    assert {*PROTOCOLS, "oip-grpc"} <= set(METRIC_PROTOCOLS)


def test_arms_of_the_last_three_plans_have_metrics():
    arms = [
        ArmTotals(
            "late", plan, arm, f"late/{plan}", 10 * plan, 1, 2, (3,), slower_than_s=(0.05,),
            disagreements=4, dropped=5,
        )
        for plan in (1, 2, 3, 4)
        for arm in ("current", "shadow")
    ]  # fmt: skip
    read = {
        (sample.name, sample.labels.get("plan"), sample.labels.get("arm")): sample
        for family in text_string_to_metric_families(prometheus_text([], [], arms=arms))
        for sample in family.samples
    }
    assert {plan for _, plan, _ in read if plan} == {"2", "3", "4"}
    requests = read["bascule_arm_requests_total", "4", "current"]
    assert (requests.value, requests.labels["model"], requests.labels["version"]) == (
        40, "late", "4",
    )  # fmt: skip
    slower = read["bascule_arm_slower_total", "4", "current"]
    assert (slower.value, slower.labels["over_s"]) == (3, "0.05")
    assert read["bascule_shadow_disagreements_total", "4", "shadow"].value == 4
    assert read["bascule_shadow_dropped_total", "4", "shadow"].value == 5
    assert ("bascule_shadow_dropped_total", "4", "current") not in read


def test_every_kind_of_error_has_a_status_that_is_counted():
    assert set(STATUS_OF) == set(KINDS)
    assert set(STATUS_OF.values()) <= set(STATUSES)


def test_a_kind_of_a_kind_has_the_status_of_the_nearest():
    class Odd(Invalid):
        pass

    assert status_of(Odd("x")) == 400
    assert status_of(BasculeError("x")) == 500
    assert status_of(HttpError("x", status=431)) == 431


def test_an_error_is_told_in_one_line_with_its_next_step():
    assert error_text(Invalid("a is wrong", hint="send b")) == "a is wrong; send b"
    assert error_text(Invalid("a is wrong")) == "a is wrong"
