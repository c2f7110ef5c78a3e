"""Shapley values of a game from the values of some coalitions of its players. Pure.

Every coalition is asked where the players are few. Else antithetic permutations are (Mitchell,
Cooper, Frank and Holmes 2022, section 4.1): a permutation and its reverse each add the players one
after the other, and what a player adds is averaged. Efficiency is exact in either case, because
the steps of a permutation telescope. The permutations come from a fixed seed: the same row always
has the same values.
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
MIN_PAIRS = 8
"""The errors are estimated from how much pairs differ from one another."""


class ShapleyEstimate(NamedTuple):
    """Shapley values with their standard errors, both of shape (rows, players, outputs).

    The errors are 0 where every coalition was asked, and where no more than two players interact,
    which a pair of permutations gives exactly.
    """

    values: Floats
    standard_errors: Floats


@dataclass(frozen=True)
class Coalitions:
    """The coalitions that are asked: of `pairs` pairs of permutations, or all if that is 0."""

    players: int
    pairs: int

    @classmethod
    def usual(cls, players: int) -> Coalitions:
        """At most `MAX_COALITIONS`, unless `MIN_PAIRS` need more."""
        if 2**players <= MAX_COALITIONS:
            return cls(players, 0)
        return cls(players, max(MIN_PAIRS, MAX_COALITIONS // (2 * players - 2)))

    @cached_property
    def masks(self) -> NDArray[np.bool_]:
        """Whether a player is in a coalition. Shape (coalitions, players)."""
        if self.pairs:
            return self._walks[0]
        numbers = np.arange(2**self.players)[:, None]
        return (numbers >> np.arange(self.players) & 1).astype(bool)

    def shapley(self, values: Floats) -> ShapleyEstimate:
        """The Shapley values of games.

        Args:
            values: Of each coalition, in the order of `masks`. Shape (rows, coalitions, outputs).
        """
        if not self.pairs:
            exact = np.einsum("pc,rco->rpo", self._weights, values)
            return ShapleyEstimate(exact, np.zeros_like(exact))
        _, places, orders = self._walks
        steps = np.diff(values[:, places], axis=3)  # (rows, pairs, both ways, players, outputs)
        by_pair = np.empty((*steps.shape[:2], *steps.shape[3:]))
        for pair, order in enumerate(orders):
            by_pair[:, pair, order] = steps[:, pair, 0] / 2
            by_pair[:, pair, order[::-1]] += steps[:, pair, 1] / 2
        errors = by_pair.std(axis=1, ddof=1) / np.sqrt(self.pairs)
        return ShapleyEstimate(by_pair.mean(axis=1), errors)

    @cached_property
    def _weights(self) -> Floats:
        """Of each coalition for each player, by Shapley's formula. Shape (players, coalitions)."""
        size, last = self.masks.sum(axis=1), self.players - 1
        share = np.array([1.0 / comb(last, k) / self.players for k in range(self.players)])
        joined, left = share[np.maximum(size - 1, 0)], -share[np.minimum(size, last)]
        return np.asarray(np.where(self.masks.T, joined, left), np.float64)

    @cached_property
    def _walks(self) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
        """The distinct coalitions, their places in each walk, and the orders of the players.

        Shapes (coalitions, players), (pairs, 2, players + 1) and (pairs, players).
        """
        random = np.random.default_rng(0)
        orders = np.array([random.permutation(self.players) for _ in range(self.pairs)])
        ranks, taken = np.argsort(orders, axis=1)[:, None], np.arange(self.players + 1)[:, None]
        walks = np.stack([ranks < taken, self.players - 1 - ranks < taken], axis=1)
        flat = walks.reshape(-1, self.players)
        masks, places = np.unique(flat, axis=0, return_inverse=True)
        return masks, places.reshape(walks.shape[:3]), orders
