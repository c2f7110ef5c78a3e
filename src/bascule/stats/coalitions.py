"""Shapley values of a game from the values of some coalitions of its players. Pure.

Every coalition is asked where the players are few. Else antithetic permutations are (Mitchell,
Cooper, Frank and Holmes 2022, section 4.1): a permutation and its reverse each add the players one
after the other, and what a player adds is averaged. Efficiency is exact in either case, because
the steps of a permutation telescope. The permutations come from a fixed seed: the same row always
has the same values.
"""

from __future__ import annotations

from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_COALITIONS = 256
MIN_PAIRS = 8


class Coalitions(NamedTuple):
    """The coalitions that are asked, and the weights of their values in Shapley values.

    Attributes:
        masks: Whether a player is in a coalition. Shape (coalitions, players).
        weights: Shape (players, coalitions). The Shapley values are `weights @ values`.
    """

    masks: NDArray[np.bool_]
    weights: NDArray[np.float64]

    @classmethod
    def every(cls, players: int) -> Coalitions:
        """All, by Shapley's formula."""
        masks = (np.arange(2**players)[:, None] >> np.arange(players) & 1).astype(bool)
        sizes, last = masks.sum(axis=1), players - 1
        share = np.array([1 / comb(last, size) / players for size in range(players)])
        joined, left = share[np.maximum(sizes - 1, 0)], -share[np.minimum(sizes, last)]
        return cls(masks, np.where(masks.T, joined, left))

    @classmethod
    def of_pairs(cls, players: int, pairs: int) -> Coalitions:
        """Those of some permutations and their reverses."""
        random = np.random.default_rng(0)
        orders = [random.permutation(players) for _ in range(pairs)]
        orders += [order[::-1] for order in orders]
        joined = np.arange(players + 1)[:, None]
        walks = np.concatenate([np.argsort(order) < joined for order in orders])
        masks, places = np.unique(walks, axis=0, return_inverse=True)
        weights = np.zeros((players, len(masks)))
        for order, walk in zip(orders, places.reshape(len(orders), -1), strict=True):
            weights[order, walk[1:]] += 1 / len(orders)
            weights[order, walk[:-1]] -= 1 / len(orders)
        return cls(masks, weights)


def usual_pairs(players: int) -> int:
    """So many that `MAX_COALITIONS` are asked, unless `MIN_PAIRS` need more; 0 for all of them."""
    if 2**players <= MAX_COALITIONS:
        return 0
    return max(MIN_PAIRS, MAX_COALITIONS // (2 * players - 2))
