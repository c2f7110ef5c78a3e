"""Shapley values of a game from the values of some coalitions of its players. Pure.

The players are the columns of a row, a coalition is the set of columns that keep the row's values,
and its value is the model's mean answer while the other columns come from background rows.

Few players: every coalition is asked, and the values are exact. Many: antithetic permutations
(Mitchell, Cooper, Frank and Holmes 2022, section 4.1): a permutation and its reverse each add the
players one after the other, and a player's value is the mean of what its steps add. Efficiency
holds exactly in either case, because the steps of a permutation telescope to the whole.
The permutations are drawn once from a fixed seed: the same row always has the same values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MAX_COALITIONS = 256
"""For one row, where so many are enough for `MIN_PAIRS`."""
MIN_PAIRS = 8
"""Pairs of permutations: the error is estimated from how much they differ from one another."""


class ShapleyEstimate(NamedTuple):
    """Shapley values with their errors, both of shape (rows, players, outputs).

    `standard_errors` are of the permutations alone, with `MIN_PAIRS` - 1 or more degrees of
    freedom: the background rows are part of the game. They are 0 where every coalition was asked,
    and for a game without interactions of three or more players, which a pair gives exactly.
    """

    values: Floats
    standard_errors: Floats


@dataclass(frozen=True)
class Coalitions:
    """Which coalitions are asked of a game with so many players, and what follows from them.

    Attributes:
        players: How many, at least 1.
        most: Coalitions that are asked, unless `MIN_PAIRS` need more.
        pairs: Of permutations; 0 where every coalition is asked, None to choose by `most`.
    """

    players: int
    most: int = MAX_COALITIONS
    pairs: int | None = None

    @cached_property
    def is_exact(self) -> bool:
        """Whether every coalition is asked."""
        return self.pairs == 0 or (self.pairs is None and 2**self.players <= self.most)

    @property
    def pairs_used(self) -> int:
        """Of permutations; 0 where every coalition is asked."""
        if self.is_exact:
            return 0
        return self.pairs or max(MIN_PAIRS, self.most // (2 * self.players - 2))

    @cached_property
    def masks(self) -> NDArray[np.bool_]:
        """Whether a player is in a coalition. Shape (coalitions, players); the first is empty."""
        if self.is_exact:
            numbers = np.arange(2**self.players)[:, None]
            return (numbers >> np.arange(self.players) & 1).astype(bool)
        return self._walks[0]

    def shapley(self, values: Floats) -> ShapleyEstimate:
        """The Shapley values of games.

        Args:
            values: Of each coalition, in the order of `masks`. Shape (rows, coalitions, outputs).
        """
        if self.is_exact:
            exact = np.einsum("pc,rco->rpo", self._weights, values)
            return ShapleyEstimate(exact, np.zeros_like(exact))
        _, places, orders = self._walks
        steps = np.diff(values[:, places], axis=3)  # (rows, pairs, both ways, players, outputs)
        by_pair = np.empty((*steps.shape[:2], *steps.shape[3:]))
        for pair, order in enumerate(orders):
            by_pair[:, pair, order] = steps[:, pair, 0]
            by_pair[:, pair, order[::-1]] += steps[:, pair, 1]
        by_pair /= 2
        errors = by_pair.std(axis=1, ddof=1) / np.sqrt(len(orders))
        return ShapleyEstimate(by_pair.mean(axis=1), errors)

    @cached_property
    def _weights(self) -> Floats:
        """Of each coalition for each player, by Shapley's formula. Shape (players, coalitions)."""
        size = self.masks.sum(axis=1)
        share = np.array([1.0 / comb(self.players - 1, k) for k in range(self.players)])
        share /= self.players
        joined, left = share[np.maximum(size - 1, 0)], -share[np.minimum(size, self.players - 1)]
        return np.asarray(np.where(self.masks.T, joined, left), np.float64)

    @cached_property
    def _walks(self) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
        """The distinct coalitions of the permutations, their places in each walk, and the orders.

        Shapes (coalitions, players), (pairs, 2, players + 1) and (pairs, players).
        """
        generator = np.random.default_rng(0)
        orders = np.array([generator.permutation(self.players) for _ in range(self.pairs_used)])
        ranks = np.argsort(orders, axis=1)
        taken = np.arange(self.players + 1)[:, None]
        forward, backward = ranks[:, None] < taken, (self.players - 1 - ranks)[:, None] < taken
        walks = np.stack([forward, backward], axis=1)
        masks, places = np.unique(walks.reshape(-1, self.players), axis=0, return_inverse=True)
        return masks, places.reshape(walks.shape[:3]), orders
