"""Where calls run, decided from what they cost; and how long those who wait will wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bascule.serving.placing import (
    INLINE_MAX_S,
    Pace,
    Placement,
    Seen,
    expected_wait_s,
    revisited,
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
    assert revisited(QUICK, START, Seen(slowness)) == Placement(rows)


@pytest.mark.parametrize(("slowness", "rows"), [(1.0, 26), (2.1, 14), (0.69, 41)])
def test_it_comes_back_when_it_is_quick_with_room_to_spare(slowness, rows):
    assert revisited(QUICK, Placement(14), Seen(slowness)) == Placement(rows)


@given(st.floats(0.05, 50), st.integers(0, 41))
def test_where_nothing_changes_a_second_look_changes_nothing(slowness, rows):
    once = revisited(QUICK, Placement(rows), Seen(slowness))
    assert revisited(QUICK, once, Seen(slowness)) == once
    assert 0 <= once.inline_rows <= QUICK.inline_rows
    assert QUICK.run_s(max(1, once.inline_rows)) * slowness <= 2.01 * INLINE_MAX_S or not once[0]


def test_too_few_runs_say_nothing():
    assert revisited(QUICK, Placement(14), Seen(None)) == Placement(14)


def test_what_may_wait_for_others_never_gets_onto_the_loop():
    pace = Pace(1e-6, inline_rows=0, batch_rows=8)
    assert revisited(pace, Placement(0), Seen(0.1)) == Placement(0)


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
    seen = Seen(1.0, mean_s, share, share, others)
    assert revisited(QUICK, START, seen) == Placement(41, is_hot=hot)


@pytest.mark.parametrize(("busy", "hot"), [(0.25, True), (0.24, False)])
def test_it_comes_back_when_it_has_cooled_down(busy, hot):
    seen = Seen(None, busy_share=busy, others_called=True)
    assert revisited(QUICK, Placement(41, is_hot=True), seen) == Placement(41, is_hot=hot)


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
