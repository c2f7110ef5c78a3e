"""Shapley values of any compiled tabular model: the bundle's own program is asked.

The columns of a row are the players of a game whose value is the mean answer. A column that is "not
known" has the values of background rows, which are training rows kept in the bundle
(interventional, as Lundberg and Lee 2017).

Every coalition is asked where the players are few. Else antithetic permutations are (Mitchell,
Cooper, Frank and Holmes 2022, section 4.1): a permutation and its reverse each add the players one
after the other, and what a player adds is averaged. Efficiency is exact in either case, because
the steps of a permutation telescope. The permutations come from a fixed seed: the same row always
has the same values.
"""

from __future__ import annotations

from math import comb
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.tables import for_program, take
from bascule.core import Columns, Untrusted

if TYPE_CHECKING:
    from bascule.bundle.explaining.explainer import Arrays, Explanation, OpensProgram

Floats = NDArray[np.float64]
_USUAL_COALITIONS, _LEAST_PAIRS = 256, 8
_MAX_PAIRS, _MAX_EXACT = 256, 12
_MAX_CELLS = 4_000_000
"""Values of composed rows in one run of the program: 32 MB of numbers."""


class Sampled:
    """See `Explainer`.

    Args:
        explanation: Its settings are `pairs` of permutations, 0 for all coalitions, and `rows`: of
            the background, the values of each input of the program.
        program: The compiled program of the bundle.
    """

    def __init__(self, explanation: Explanation, _arrays: Arrays, program: OpensProgram) -> None:
        self.columns, self.outputs = explanation.columns, explanation.outputs
        players, pairs = len(self.columns), int(explanation.settings["pairs"])
        if not (0 < pairs <= _MAX_PAIRS or (pairs == 0 and players <= _MAX_EXACT)):
            raise Untrusted("the bundle asks for too many coalitions", hint="pack the model again")
        self._masks, self._weights = (
            Coalitions.of_pairs(players, pairs) if pairs else Coalitions.every(players)
        )
        self._program, self._answer = program(), explanation.answer
        values = {
            field.name: np.array(listed, object).astype(field.dtype.numpy)  # None becomes NaN
            for field, listed in zip(
                self._program.inputs, explanation.settings["rows"], strict=True
            )
        }
        self._background = for_program(values, self._program.inputs)
        self._rows = len(next(iter(self._background.values())))
        self.base: Floats = self._asked(self._background).mean(axis=0)

    def attributions(self, inputs: Columns) -> Floats:
        """See `Explainer.attributions`. All coalitions of a row are asked in one run."""
        known = for_program(inputs, self._program.inputs)
        rows = len(next(iter(known.values())))
        by_row = np.empty((rows, len(self.columns), len(self.base)))
        for row in range(rows):
            by_row[row] = self._weights @ self._values(take(known, slice(row, row + 1)))
        return by_row

    def _values(self, row: Columns) -> Floats:
        """The value of each coalition for one row. Shape (coalitions, outputs)."""
        at_once = max(1, _MAX_CELLS // self._masks.shape[1] // self._rows)
        pieces = np.split(self._masks, range(at_once, len(self._masks), at_once))
        answers = np.concatenate([self._asked(self._composed(row, piece)) for piece in pieces])
        return np.asarray(answers.reshape(len(self._masks), self._rows, -1).mean(axis=1))

    def _composed(self, row: Columns, masks: NDArray[np.bool_]) -> Columns:
        """Each background row with the columns of each coalition replaced by those of the row."""
        composed, player = {}, 0
        for name, background in self._background.items():
            width = background.shape[1] if background.ndim == 2 else 1
            chosen = masks[:, None, player : player + width]
            both = np.where(chosen, row[name].reshape(1, 1, -1), background.reshape(1, -1, width))
            composed[name] = both.reshape(len(masks) * self._rows, *background.shape[1:])
            player += width
        return composed

    def _asked(self, columns: Columns) -> Floats:
        answer = self._program.run(columns, [self._answer])[self._answer]
        return np.asarray(answer, np.float64).reshape(len(answer), -1)


class Coalitions(NamedTuple):
    """The coalitions that are asked, and the weights of their values in Shapley values.

    Attributes:
        masks: Whether a player is in a coalition. Shape (coalitions, players).
        weights: Shape (players, coalitions). The Shapley values are `weights @ values`.
    """

    masks: NDArray[np.bool_]
    weights: Floats

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
    """So many that 256 coalitions are asked, unless eight pairs need more; 0 for all of them."""
    if 2**players <= _USUAL_COALITIONS:
        return 0
    return max(_LEAST_PAIRS, _USUAL_COALITIONS // (2 * players - 2))
