"""Shapley values from coalitions: exact for few players, with honest errors for many."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from bascule.stats import Coalitions


def game(seed, players):
    """A game with interactions of all orders, of two outputs: from coalitions to their values."""
    random = np.random.default_rng(seed)
    ways, weights = random.normal(size=(5, players)), random.normal(size=5)

    def values(masks):
        sums = masks @ ways.T
        return np.stack([np.tanh(sums) @ weights, (sums > 0.3) @ weights], axis=1)[None]

    return values


def test_all_coalitions_give_the_mean_over_all_permutations():
    values, players = game(0, 4), 4
    expected = np.zeros((players, 2))
    for order in permutations(range(players)):
        mask = np.zeros((1, players))
        for player in order:
            before, mask = values(mask)[0, 0], mask.copy()
            mask[0, player] = 1
            expected[player] += values(mask)[0, 0] - before
    every = Coalitions.usual(players)
    estimate = every.shapley(values(every.masks))
    np.testing.assert_allclose(estimate.values[0], expected / 24, atol=1e-12)
    assert not estimate.standard_errors.any()


@pytest.mark.parametrize("players", [1, 2, 8, 9, 30])
def test_values_add_up_to_what_all_players_change(players):
    values = game(1, players)
    asked = Coalitions.usual(players)
    found = asked.shapley(values(asked.masks)).values[0].sum(axis=0)
    whole = values(np.ones((1, players))) - values(np.zeros((1, players)))
    np.testing.assert_allclose(found, whole[0, 0], atol=1e-12)
    assert (asked.pairs == 0) == (players <= 8)


def test_a_pair_of_permutations_is_exact_where_no_more_than_two_players_interact():
    random = np.random.default_rng(2)
    alone, together = random.normal(size=9), random.normal(size=(9, 9))
    asked, every = Coalitions(9, 8), Coalitions(9, 0)
    found, exact = (
        one.shapley(
            (one.masks @ alone + ((one.masks @ together) * one.masks).sum(1))[None, :, None]
        )
        for one in (asked, every)
    )
    np.testing.assert_allclose(found.values, exact.values, atol=1e-12)
    assert found.standard_errors.max() < 1e-12


def test_the_standard_error_is_the_size_of_the_error():
    """Over 100 games: 19 in 20 errors are within two and a half standard errors."""
    asked, every = Coalitions(10, 14), Coalitions(10, 0)
    errors, told = [], []
    for seed in range(100):
        values = game(seed, 10)
        found = asked.shapley(values(asked.masks))
        errors.append(found.values - every.shapley(values(every.masks)).values)
        told.append(found.standard_errors)
    ratio = np.mean(np.square(errors)) / np.mean(np.square(told))
    assert 0.6 < ratio < 1.3
    assert np.mean(np.abs(errors) <= 2.5 * np.array(told)) > 0.95
