import math

import numpy as np
import pytest
from bench.report import Claim, claim_cells
from bench.storm import schedule
from bench.storm.findings import Finding, cells, claims_of, markdown, table
from bench.storm.tally import Tally, growth, joined, percentile, slope_per_hour
from bench.storm.watch import Watch


def tally(accepted_ms=(1.0,), **other):
    facts = {
        "seconds": 1.0,
        "due": len(accepted_ms),
        "accepted_ms": list(accepted_ms),
        "statuses": {200: len(accepted_ms)},
        "wrong": 0,
        "shed_without_retry_after": 0,
        "unsent": 0,
        "broken": 0,
        "unanswered": 0,
        "send_lag_p99_ms": 0.0,
    }
    return Tally(**{**facts, **other})


def watch(resident_mb=(100.0,) * 8, descriptors=(20,) * 8):
    return Watch(list(range(len(resident_mb))), list(resident_mb), list(descriptors))


def finding(work, subject="gb", seen=None, held=None, **facts):
    seen = seen or tally()
    if work == "calm":
        facts = {"busy_share": 0.7, "p50_ms": percentile(seen.accepted_ms, 0.5), **facts}
    return Finding(work, subject, seen, held or watch(), facts)


def verdicts(*findings):
    return {claim.name: claim.met for claim in claims_of(findings)}


def test_even_arrivals_are_a_constant_time_apart_and_end_before_the_end():
    due = schedule.constant(4.0, 1.0)

    assert due.tolist() == [0.0, 0.25, 0.5, 0.75]


def test_random_arrivals_have_the_rate_that_was_asked_for_and_the_spread_of_independent_callers():
    due = schedule.poisson(1000.0, 100.0, seed=3)
    gaps = np.diff(due)

    assert len(due) == pytest.approx(100_000, rel=0.02)
    assert gaps.min() >= 0
    assert due[-1] < 100.0
    # The deviation of exponential gaps is their mean; even ones would have none.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)


def test_the_same_seed_gives_the_same_arrivals():
    assert schedule.poisson(50.0, 2.0, seed=1).tolist() == schedule.poisson(50, 2, seed=1).tolist()


def test_a_perfect_server_answers_those_who_come_alone_in_its_service_time():
    found = schedule.perfect_latencies(np.array([0.0, 1.0, 2.0]), 0.5)

    assert found == pytest.approx([0.5, 0.5, 0.5])


def test_those_who_come_together_wait_for_each_other():
    found = schedule.perfect_latencies(np.array([0.0, 0.0, 0.2, 5.0]), 1.0)

    assert found == pytest.approx([1.0, 2.0, 2.8, 1.0])


def test_random_arrivals_at_70_percent_give_even_a_perfect_server_a_tail_over_three_medians():
    """The queue M/D/1: a median of 1.73 services, a tail of 7.5. So both arrivals are shown."""
    found = schedule.perfect_latencies(schedule.poisson(700.0, 300.0, seed=5), 1e-3).tolist()

    assert percentile(found, 0.99) / percentile(found, 0.5) == pytest.approx(4.36, abs=0.2)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 2.0), (0.51, 3.0), (0.75, 3.0), (0.76, 4.0), (1.0, 4.0), (0, 1)]
)
def test_a_percentile_is_a_latency_that_somebody_had(share, expected):
    assert percentile([4.0, 1.0, 3.0, 2.0], share) == expected


def test_of_nothing_there_is_no_percentile():
    assert math.isnan(percentile([], 0.5))


def test_a_slope_is_per_hour_and_leaves_out_the_first_quarter():
    seconds = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    filling_then_rising = [0.0, 50.0, 100.0, 101.0, 102.0, 103.0, 104.0, 105.0]

    assert slope_per_hour(seconds, filling_then_rising) == pytest.approx(3600.0)
    assert slope_per_hour([0.0, 1.0], [1.0, 9.0]) == 0.0


def test_growth_compares_the_last_quarter_with_the_second():
    assert growth([10.0, 50.0, 100.0, 100.0, 105.0, 105.0, 110.0, 110.0]) == pytest.approx(0.1)
    assert growth([1.0, 2.0]) == 0.0


@pytest.mark.parametrize(
    ("other", "errors"),
    [
        ({"statuses": {200: 1, 429: 5, 503: 5, 504: 5}}, 0),
        ({"statuses": {500: 2}}, 2),
        ({"wrong": 1}, 1),
        ({"broken": 1}, 1),
        ({"unsent": 9}, 0),
    ],
)
def test_to_be_turned_away_is_no_error_and_to_be_given_another_answer_is(other, errors):
    assert tally(**other).errors == errors


def test_what_had_queued_up_at_the_end_was_not_answered_per_second():
    seen = tally([1.0, 900.0, 2.0, 3.0], seconds=2.0, after_end=2)

    assert seen.accepted_hz == 1.0
    assert seen.within(1_000.0) == 2
    assert seen.within(10.0) == 1


def test_goodput_counts_answers_up_to_the_deadline():
    assert tally([999.0, 1000.0, 1000.1]).within(1000.0) == 2


@pytest.mark.parametrize(("tail", "met"), [(3.0, True), (3.01, False)])
def test_the_tail_at_70_percent_may_be_three_medians(tail, met):
    found = verdicts(finding("calm", p99_over_p50=tail))

    assert found["p99 / p50 at 70 % load, gb"] is met


@pytest.mark.parametrize(("share", "met"), [(0.9, True), (0.89, False)])
def test_overload_must_leave_nine_tenths_of_the_capacity(share, met):
    found = verdicts(finding("overload", goodput_share=share, deadline_ms=1000.0))

    assert found["overload, gb: goodput / capacity"] is met


@pytest.mark.parametrize(("latency", "met"), [(1000.0, True), (1000.1, False)])
def test_what_was_accepted_must_come_within_the_deadline(latency, met):
    seen = tally([latency])
    found = verdicts(finding("overload", seen=seen, goodput_share=1.0, deadline_ms=1000.0))

    assert found["overload, gb: p99 of what was accepted"] is met


def test_an_overload_in_which_nothing_was_accepted_meets_no_claim_about_it():
    seen = tally([], statuses={429: 9})
    found = verdicts(finding("overload", seen=seen, goodput_share=0.0, deadline_ms=1000.0))

    assert found["overload, gb: p99 of what was accepted"] is False


def test_whoever_is_turned_away_must_be_told_when_to_come_back():
    seen = tally(shed_without_retry_after=1)
    found = verdicts(finding("overload", seen=seen, goodput_share=1.0, deadline_ms=1000.0))

    assert found["overload, gb: shed without Retry-After"] is False


@pytest.mark.parametrize(("batched", "met"), [(11.0, True), (11.1, False)])
def test_a_lone_client_must_not_pay_for_batching(batched, met):
    found = verdicts(
        finding("network", "1 clients, batching auto", tally([batched]), clients=1.0),
        finding("network", "1 clients, batching never", tally([10.0]), clients=1.0),
    )

    assert found["4 ms network, one client: p99 / p99 unbatched"] is met


def test_half_of_a_comparison_is_not_claimed():
    found = verdicts(finding("network", "1 clients, batching auto", clients=1.0))

    assert list(found) == ["wrong answers, broken connections, other errors"]


@pytest.mark.parametrize(
    ("descriptors", "met"), [([9, 9, 20, 20, 20, 20, 20, 20], True), ([20] * 7 + [21], False)]
)
def test_a_soak_may_not_gain_descriptors_after_it_has_begun(descriptors, met):
    found = verdicts(finding("soak", held=watch(descriptors=descriptors), seconds=60.0))

    assert found["soak: descriptors gained"] is met


def test_a_slope_per_hour_is_claimed_of_long_soaks_alone():
    assert "soak: slope of memory" not in verdicts(finding("soak", seconds=1199.0))
    assert verdicts(finding("soak", seconds=1200.0))["soak: slope of memory"] is True


def test_a_wrong_answer_anywhere_is_said():
    found = verdicts(finding("calm", seen=tally(wrong=1), p99_over_p50=1.0))

    assert found["wrong answers, broken connections, other errors"] is False


def test_a_claim_that_must_be_reached_shows_its_direction():
    assert claim_cells([Claim("share", 0.8, 0.9, at_least=True)])[0][2:] == [">= 0.9 x", "NOT MET"]
    assert Claim("share", 0.9, 0.9, at_least=True).met


@pytest.mark.parametrize(("late_ms", "met"), [(100.0, True), (100.1, None)])
def test_a_generator_that_was_late_itself_judges_nothing(late_ms, met):
    seen = tally([900.0], send_lag_p99_ms=late_ms)
    found = verdicts(finding("overload", seen=seen, goodput_share=1.0, deadline_ms=1000.0))

    assert found["overload, gb: goodput / capacity"] is met
    assert found["overload, gb: p99 of what was accepted"] is met
    assert found["overload, gb: shed without Retry-After"] is True


@pytest.mark.parametrize(("late_ms", "met"), [(3.0, False), (3.1, None)])
def test_a_tail_is_judged_where_lateness_is_a_small_part_of_what_it_may_be(late_ms, met):
    """A median of 10 ms: the tail may be 30."""
    seen = tally([10.0], send_lag_p99_ms=late_ms)

    assert verdicts(finding("calm", seen=seen, p99_over_p50=9.0)) == {
        "p99 / p50 at 70 % load, gb": met,
        "wrong answers, broken connections, other errors": True,
    }


@pytest.mark.parametrize(
    ("facts", "is_judged"),
    [
        ({"busy_at_capacity": 0.85}, True),
        ({"busy_at_capacity": 0.84}, False),
    ],
)
def test_a_share_of_a_capacity_that_was_none_is_not_judged(facts, is_judged):
    found = verdicts(finding("overload", goodput_share=0.5, deadline_ms=1000.0, **facts))

    assert found["overload, gb: goodput / capacity"] is (False if is_judged else None)
    assert found["overload, gb: p99 of what was accepted"] is True


def test_what_peers_keep_of_the_model_alone_is_compared_with_what_bascule_keeps():
    found = verdicts(
        finding("network", "16 clients, batching auto", share_of_alone=0.9, clients=16.0),
        finding("network", "16 clients, slow", peer_share_of_alone=0.5, clients=16.0),
        finding("network", "16 clients, quick", peer_share_of_alone=0.95, clients=16.0),
    )

    assert found["4 ms network: the best peer that batches (16 clients, quick) / bascule"] is False


def test_without_peers_nothing_is_claimed_of_them():
    found = verdicts(finding("network", share_of_alone=0.9, clients=16.0))

    assert not any("peer" in name for name in found)


@pytest.mark.parametrize(("busy", "met"), [(0.63, True), (0.77, True), (0.61, None), (0.79, None)])
def test_a_tail_is_judged_where_the_core_was_as_busy_as_it_says(busy, met):
    found = verdicts(finding("calm", p99_over_p50=2.0, busy_share=busy))

    assert found["p99 / p50 at 70 % load, gb"] is met


def test_pieces_are_counted_as_one_run_and_the_generator_was_as_late_as_in_the_worst():
    whole = joined(
        [
            tally([1.0, 2.0], statuses={200: 2, 429: 1}, due=4, unsent=1, send_lag_p99_ms=0.5),
            tally([3.0], statuses={200: 1, 504: 1}, due=2, broken=1, send_lag_p99_ms=0.1),
        ]
    )

    assert whole.seconds == 2.0
    assert whole.accepted_ms == [1.0, 2.0, 3.0]
    assert whole.statuses == {200: 3, 429: 1, 504: 1}
    assert (whole.due, whole.unsent, whole.broken, whole.send_lag_p99_ms) == (6, 1, 1, 0.5)


def test_what_is_not_judged_says_why():
    (cell,) = claim_cells([Claim("share", 0.8, 0.9, at_least=True, void="it was dark")])

    assert cell[-1] == "not judged: it was dark"


def test_every_run_is_a_line_of_the_table_as_long_as_its_headings():
    found = [
        finding("calm", p99_over_p50=2.0, capacity_hz=100.0),
        finding("soak", seen=tally([], statuses={}, unanswered=3), seconds=60.0),
    ]
    facts = {
        "seconds": {"calm": 8.0},
        "load_average_before": 0.1,
        "machine": {"cores": "2"},
        "versions": {"numpy": "2"},
    }

    assert all(len(line) == len(heads) for _, heads, lines in cells(found) for line in lines)
    rows = table(found)
    assert "busy for 70 % of the time" in rows
    assert "3 unanswered" in rows
    assert "Load average before: 0.1" in markdown(claims_of(found), facts)
