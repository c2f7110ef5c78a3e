"""The size of batches follows what runs take."""

from __future__ import annotations

import pytest

from bascule.serving.execution.batch_sizing import Sizing


def after(sizing, runs, run_s, waiting=1_000):
    """The sizing after so many runs of a program that takes `run_s(rows)`; and their sizes."""
    sizes = []
    for _ in range(runs):
        limit = sizing.next_rows(waiting)
        rows = min(limit, waiting)
        sizes.append(rows)
        sizing = sizing.noted(limit, rows, run_s(rows))
    return sizing, sizes


def costly_run(rows):
    """Gains until 32 rows, and nothing from there on."""
    return max(40 + rows, 2.25 * rows) * 1e-3


@pytest.mark.parametrize("start", [1, 2, 8, 32])
def test_batches_grow_to_the_size_from_which_on_more_do_not_raise_the_rate(start):
    sizing, _ = after(Sizing(start, 256), 1_000, costly_run)
    assert sizing.rows == 32


@pytest.mark.parametrize("start", [64, 256])
def test_batches_shrink_where_fewer_rows_have_the_same_rate(start):
    sizing, _ = after(Sizing(start, 256), 1_000, costly_run)
    assert sizing.rows == 32


def test_where_nothing_is_gained_every_row_runs_by_itself():
    sizing, _ = after(Sizing(8, 256), 1_000, lambda rows: rows * 1e-3)
    assert sizing.rows == 1


def test_batches_never_grow_over_the_limit():
    sizing, sizes = after(Sizing(8, 16), 1_000, lambda rows: 1.0)
    assert sizing.rows == max(sizes) == 16


def test_other_sizes_are_tried_in_few_runs_alone():
    sizing, sizes = after(Sizing(32, 256), 160, costly_run)
    assert sizing.rows == 32
    assert sizes.count(32) >= 130


def test_the_longer_nothing_changes_the_fewer_runs_are_trials():
    _, sizes = after(Sizing(32, 256), 2_000, costly_run)
    assert sizes[:200].count(32) <= 190
    assert 985 <= sizes[-1_000:].count(32) < 1_000


def test_a_trial_for_which_too_few_came_is_over_and_says_nothing():
    sizing, sizes = after(Sizing(8, 256), 500, costly_run, waiting=9)
    assert sizing.rows == 8
    assert sizes.count(9) <= 30


def test_where_few_wait_nothing_is_tried():
    sizing, sizes = after(Sizing(8, 256), 100, costly_run, waiting=7)
    assert (sizing.rows, set(sizes)) == (8, {7})


@pytest.mark.parametrize("held_up", range(45))
def test_a_run_that_was_held_up_once_changes_nothing(held_up):
    sizing, _ = after(Sizing(32, 256), held_up, costly_run)
    limit = sizing.next_rows(1_000)
    sizing = sizing.noted(limit, limit, 10 * costly_run(limit))
    for _ in range(45):
        sizing, _ = after(sizing, 1, costly_run)
        assert sizing.rows == 32
