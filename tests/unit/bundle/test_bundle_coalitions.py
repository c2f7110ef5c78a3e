"""Shapley values from coalitions: exact for few players, and for many without interactions."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from bascule.bundle.explaining import Coalitions, usual_pairs


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
    every = Coalitions.every(players)
    found = every.weights @ values(every.masks)[0]
    np.testing.assert_allclose(found, expected / 24, atol=1e-12)


@pytest.mark.parametrize("players", [1, 2, 8, 9, 30])
def test_values_add_up_to_what_all_players_change(players):
    values = game(1, players)
    pairs = usual_pairs(players)
    asked = Coalitions.of_pairs(players, pairs) if pairs else Coalitions.every(players)
    found = (asked.weights @ values(asked.masks)[0]).sum(axis=0)
    whole = values(np.ones((1, players))) - values(np.zeros((1, players)))
    np.testing.assert_allclose(found, whole[0, 0], atol=1e-12)
    assert (pairs == 0) == (players <= 8)


def test_a_pair_of_permutations_is_exact_where_no_more_than_two_players_interact():
    random = np.random.default_rng(2)
    alone, together = random.normal(size=9), random.normal(size=(9, 9))
    asked, every = Coalitions.of_pairs(9, 8), Coalitions.every(9)
    found, exact = (
        own.weights @ (own.masks @ alone + ((own.masks @ together) * own.masks).sum(axis=1))
        for own in (asked, every)
    )
    np.testing.assert_allclose(found, exact, atol=1e-12)
