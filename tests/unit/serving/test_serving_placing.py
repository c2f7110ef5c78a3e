"""Where calls run, decided from what they cost; and how long those who wait will wait."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from bascule.serving.execution.placement import (
    INLINE_MAX_S,
    BatchWait,
    Pace,
    Placement,
    RunStatistics,
    expected_wait_s,
    goes_on_measuring,
    longest_wait_s,
    pace_of,
    revisited,
    worth_waiting_for,
)

QUICK = Pace(one_row_s=100e-6, inline_rows=41, batch_rows=64, row_s=10e-6)
"""41 rows take 500 us, which is what may run on the loop."""
START = Placement(41)


@pytest.mark.parametrize(
    ("allowed_s", "rows"), [(99e-6, 0), (100e-6, 1), (110.1e-6, 2), (500.1e-6, 41)]
)
def test_the_rows_within_a_time_are_the_most_whose_run_takes_no_longer(allowed_s, rows):
    assert QUICK.rows_within(allowed_s) == rows
    assert rows == 0 or QUICK.run_s(rows) <= allowed_s < QUICK.run_s(rows + 1)


@pytest.mark.parametrize(
    ("slowness", "rows"),
    [
        (1.0, 41),
        (1.9, 41),  # slower, and not by so much that it is worth a change
        (2.1, 14),  # 14 rows take 230 us when all is well, and 483 now
        (6.0, 0),
        (0.5, 41),  # never more than was measured at the start
    ],
)
def test_a_program_that_became_slow_leaves_the_loop_with_what_does_not_fit(slowness, rows):
    assert revisited(QUICK, START, RunStatistics(slowness)) == Placement(rows)


@pytest.mark.parametrize(("slowness", "rows"), [(1.0, 26), (2.1, 14), (0.69, 41)])
def test_it_comes_back_when_it_is_quick_with_room_to_spare(slowness, rows):
    assert revisited(QUICK, Placement(14), RunStatistics(slowness)) == Placement(rows)


@given(st.floats(0.05, 50), st.integers(0, 41))
def test_where_nothing_changes_a_second_look_changes_nothing(slowness, rows):
    once = revisited(QUICK, Placement(rows), RunStatistics(slowness))
    assert revisited(QUICK, once, RunStatistics(slowness)) == once
    assert 0 <= once.inline_rows <= QUICK.inline_rows
    assert QUICK.run_s(max(1, once.inline_rows)) * slowness <= 2.01 * INLINE_MAX_S or not once[0]


def test_too_few_runs_say_nothing():
    assert revisited(QUICK, Placement(14), RunStatistics(None)) == Placement(14)


def test_what_may_wait_for_others_never_gets_onto_the_loop():
    pace = Pace(1e-6, inline_rows=0, batch_rows=8)
    assert revisited(pace, Placement(0), RunStatistics(0.1)) == Placement(0)


@pytest.mark.parametrize(
    ("share", "mean_s", "others", "hot"),
    [
        (0.51, 100e-6, True, True),
        (0.50, 100e-6, True, False),
        (0.51, 99e-6, True, False),
        (0.51, 100e-6, False, False),
    ],
)
def test_a_model_that_takes_the_loop_from_others_goes_to_its_thread(share, mean_s, others, hot):
    seen = RunStatistics(1.0, mean_s, share, share, others)
    assert revisited(QUICK, START, seen) == Placement(41, is_hot=hot)


@pytest.mark.parametrize(("busy", "hot"), [(0.25, True), (0.24, False)])
def test_it_comes_back_when_it_has_cooled_down(busy, hot):
    seen = RunStatistics(None, busy_share=busy, others_called=True)
    assert revisited(QUICK, Placement(41, is_hot=True), seen) == Placement(41, is_hot=hot)


@pytest.mark.parametrize(
    ("runs", "sentence"),
    [
        (
            RunStatistics(17.6, 0.0088, 0.55, 0.6, others_called=True),
            "runs took 17.6 times the expected time, a run on the event loop took 8.800 ms on "
            "average, the model was busy for 60% of the time, for 55% on the event loop, and other "
            "models had calls",
        ),
        (
            RunStatistics(None, busy_share=0.2),
            "the model was busy for 20% of the time, for 0% on the event loop, and no other model "
            "had calls",
        ),
    ],
)
def test_the_log_gives_the_reason_of_a_placement_in_words_with_units(runs, sentence):
    assert str(runs) == sentence


# -- waiting --

BATCHED = Pace(one_row_s=1e-3, inline_rows=0, batch_rows=8, row_s=0.1e-3)


@pytest.mark.parametrize(
    ("rows", "calls", "running_s", "slowness", "expected_ms"),
    [
        (0, 0, 0, 1, 0),
        (0, 0, 2e-3, 1, 2),
        (1, 1, 0, 1, 1),
        (8, 8, 0, 1, 1.7),  # together
        (9, 9, 0, 1, 2.7),  # one more than fits
        (16, 1, 0, 1, 2.5),  # one call is one run
        (8, 8, 1e-3, 2, 4.4),
    ],
)
def test_those_who_wait_are_expected_to_run_together(rows, calls, running_s, slowness, expected_ms):
    found = expected_wait_s(BATCHED, slowness, rows=rows, calls=calls, running_s=running_s)
    assert found == pytest.approx(expected_ms / 1e3)


# -- how fast a program is --


@pytest.mark.parametrize(
    ("run_s", "spent_s", "goes_on"),
    [
        ({1: 1.0}, 1.9, True),  # a few sizes are measured beyond the budget
        ({1: 1.0, 2: 2.0, 4: 4.0}, 1.9, True),
        ({1: 1.0, 2: 2.0, 4: 4.0}, 2.0, False),  # but not beyond four of it
        ({1: 1.0, 2: 1.2, 4: 1.4, 8: 1.6}, 0.49, True),
        ({1: 1.0, 2: 1.2, 4: 1.4, 8: 1.6}, 0.5, False),
        ({1: 1.0, 2: 1.2, 4: 1.4, 8: 3.0}, 0.1, True),  # one flat step may be noise
        ({1: 1.0, 2: 1.2, 4: 2.4, 8: 4.8}, 0.1, False),
        ({1: 1.0, 2: 1.2, 4: 2.4, 8: 3.0}, 0.1, True),
    ],
)
def test_sizes_are_measured_until_the_rate_no_longer_grows(run_s, spent_s, goes_on):
    assert goes_on_measuring(run_s, spent_s, 0.5) == goes_on


def test_batches_are_no_larger_than_the_rate_asks_for():
    """16 rows have the best rate, 8 nearly: who runs with fewer has its answer sooner."""
    assert pace_of({1: 10.0, 2: 11.0, 4: 12.0, 8: 14.0, 16: 27.0}).batch_rows == 8
    assert pace_of({1: 10.0, 2: 11.0, 4: 12.0, 8: 14.0, 16: 26.0}).batch_rows == 16


def test_the_price_of_a_further_row_is_that_up_to_where_batches_end():
    assert pace_of({1: 10.0, 2: 11.0, 4: 16.0, 8: 40.0}) == Pace(10.0, 0, 4, pytest.approx(2.0))
    assert pace_of({1: 10.0, 2: 21.0}) == Pace(10.0, 0, 1, pytest.approx(11.0))
    assert pace_of({1: 10.0}) == Pace(10.0, 0, 1, 0.0)


def test_a_run_is_expected_to_take_what_was_measured_of_its_size():
    pace = pace_of({1: 10.0, 2: 11.0, 4: 16.0, 8: 40.0})
    assert [pace.run_s(rows) for rows in (1, 2, 3, 4, 6, 8, 16)] == [10, 11, 13.5, 16, 28, 40, 88]


def test_a_small_run_that_took_longer_than_a_larger_one_was_held_up():
    pace = pace_of({1: 13.0, 2: 12.0, 4: 14.0})
    assert [pace.run_s(rows) for rows in (1, 2, 3, 4)] == [12, 12, 13, 14]


@given(st.lists(st.floats(1e-6, 1e-2), min_size=1, max_size=12), st.integers(1, 1 << 14), st.data())
def test_more_rows_take_no_less_and_those_within_a_time_are_the_most(times_s, rows, data):
    pace = pace_of({1 << doubling: time_s for doubling, time_s in enumerate(times_s)})
    assert pace.run_s(rows) <= pace.run_s(rows + 1)
    allowed_s = data.draw(st.floats(0.5, 2.0)) * pace.run_s(rows)
    within = pace.rows_within(allowed_s)
    if within:
        assert pace.run_s(within) <= allowed_s * (1 + 1e-9)
    if within < 1 << 62:
        assert pace.run_s(within + 1) >= allowed_s * (1 - 1e-9)


def test_who_waits_is_told_a_time_of_runs_of_the_size_they_will_have():
    pace = pace_of({1: 10.0, 2: 11.0, 4: 16.0, 8: 40.0})
    assert expected_wait_s(pace, 1.0, rows=12, calls=12, running_s=5.0) == 5 + 3 * 16
    assert expected_wait_s(pace, 1.0, rows=6, calls=2, running_s=0.0) == 2 * 13.5


# -- for whom a run waits --

SLOW = Pace(one_row_s=21e-3, inline_rows=0, batch_rows=16, row_s=1e-3)
"""A run costs 20 ms, and 1 ms a row; it waits for 10 ms at most."""


@pytest.mark.parametrize(
    ("rows", "coming_rows", "company"),
    [
        (1, 0.0, BatchWait(0.0, 1)),  # one client alone, or many that come when they like
        (1, 0.9, BatchWait(0.0, 1)),  # 0.9 rows spared 11 ms, 1 made to wait for 10
        (1, 1.0, BatchWait(0.01, 2)),
        (1, 15.0, BatchWait(0.01, 16)),
        (1, 14.3, BatchWait(0.01, 16)),
        (1, 14.1, BatchWait(0.01, 15)),
        (12, 4.0, BatchWait(0.0, 12)),  # 4 spared 22 ms, 12 made to wait for 10
        (4, 12.0, BatchWait(0.01, 16)),
        (8, 40.0, BatchWait(0.01, 16)),
        (16, 40.0, BatchWait(0.0, 16)),
    ],
)
def test_a_run_waits_where_those_who_come_are_spared_more_than_is_lost(rows, coming_rows, company):
    found = worth_waiting_for(SLOW, 1.0, rows=rows, coming_rows=coming_rows)
    assert found == (pytest.approx(company.wait_s), company.rows)


def test_a_run_whose_rows_cost_what_they_do_alone_waits_for_nobody():
    by_row = Pace(one_row_s=1e-3, inline_rows=0, batch_rows=16, row_s=1e-3)
    assert longest_wait_s(by_row, 1.0) == 0
    assert worth_waiting_for(by_row, 1.0, rows=1, coming_rows=15) == BatchWait(0.0, 1)


def test_a_program_that_became_slow_waits_for_longer():
    assert longest_wait_s(SLOW, 2.0) == pytest.approx(2 * longest_wait_s(SLOW, 1.0))
