from __future__ import annotations

import numpy as np
import pytest
from bench.against import interval, ratios
from bench.report import Sample


def sample(number: int, side: str, cost: float) -> Sample:
    return Sample(number, f"bascule-grpc-{side}", "1 row", cost, 1.0, 1.0, 1.0, 0)


@pytest.mark.parametrize(
    ("rounds", "low", "high"), [(6, 0, 5), (8, 0, 7), (9, 1, 7), (10, 1, 8), (20, 5, 14)]
)
def test_the_interval_ends_at_the_order_statistics_of_the_sign_test(rounds, low, high):
    """Of 10 values the 2nd and 9th (97.9 %), of 20 the 6th and 15th (95.9 %)."""
    assert interval(list(range(rounds))) == (low, high)


def test_the_interval_holds_the_median_as_often_as_it_says():
    random = np.random.default_rng(0)
    drawn = random.lognormal(size=(4000, 10))
    held = np.mean([low <= 1.0 <= high for low, high in map(interval, drawn.tolist())])
    assert 0.97 < held < 0.99  # exactly 0.9785


def test_each_round_is_divided_by_its_own_neighbour():
    samples = [
        *(sample(1, "now", 2.0), sample(1, "before", 1.0)),
        *(sample(2, "before", 10.0), sample(2, "now", 11.0)),
    ]
    assert ratios(samples, "1 row") == [2.0, 1.1]
