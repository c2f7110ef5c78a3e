"""What `Bundle.predict` adds to the program that it runs."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.pace import LOOP_US, loop_us

from bascule.bundle.tables import conform, for_program
from bascule.core.errors import Invalid

MOST_US = 15.0
CALLS = 1000


@pytest.fixture
def linear(pack, cancer):
    X, y = cancer
    return pack(make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y), X)


@pytest.fixture
def trees(pack, boosted, cancer):
    return pack(boosted, cancer[0])


@pytest.mark.serial
@pytest.mark.parametrize("name", ["linear", "trees"])
def test_one_row_costs_at_most_15_us_more_than_the_program(name, request, cancer):
    """Call by call in turn with the program alone, so that what else runs happens to both."""
    bundle, X = request.getfixturevalue(name), cancer[0]
    program = bundle.program(bundle.predict(X[:1]).program)
    added_us, loops_us = [], []
    for call in range(CALLS):
        row = X[call % len(X)][None]
        ready = for_program(conform(row, bundle.signature), program.inputs)
        started_ns = time.perf_counter_ns()
        program.run(ready)
        between_ns = time.perf_counter_ns()
        bundle.predict(row)
        ended_ns = time.perf_counter_ns()
        added_us.append((ended_ns - 2 * between_ns + started_ns) / 1e3)
        loops_us.append(loop_us())
    slowness = max(1.0, np.median(loops_us) / LOOP_US)
    assert np.median(added_us) <= MOST_US * slowness, f"{slowness:.2f} times as slow"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, np.uint8, bool])
def test_a_row_is_read_the_same_from_an_array_as_from_a_list(linear, cancer, dtype):
    rows = cancer[0][:3].astype(dtype)
    for some in (
        rows,
        rows[:, ::-1][:, ::-1],
        np.asfortranarray(rows),
        rows.astype(dtype, order="C"),
    ):
        found = linear.predict(some)["probabilities"]
        np.testing.assert_array_equal(found, linear.predict(rows.tolist())["probabilities"])


@pytest.mark.parametrize(
    "rows",
    [
        np.full((1, 30), np.nan),
        np.zeros((1, 29)),
        np.zeros((1, 31)),
        np.zeros((0, 30)),
        np.zeros(30),
        np.zeros((1, 1, 30)),
        np.zeros((1, 30), complex),
        np.full((1, 30), "1"),
        np.zeros((1, 30), "datetime64[s]"),
        np.float64(1.0),
    ],
    ids=lambda rows: f"{rows.dtype}{list(rows.shape)}",
)
def test_every_check_is_made_of_one_row_too(linear, cancer, rows):
    linear.predict(cancer[0][:1])
    with pytest.raises(Invalid):
        linear.predict(rows)


def test_the_fastest_program_is_remembered_for_many_sizes_and_not_without_bound(linear):
    chosen = [linear.fastest_program(rows) for rows in range(1, 3000)]
    assert chosen == [linear.fastest_program(rows) for rows in range(1, 3000)]
    assert len(linear._known().by_rows) <= 1024
