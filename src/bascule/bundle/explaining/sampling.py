"""Shapley values of any compiled tabular model: the bundle's own program is asked.

The columns of a row are the players of a game whose value is the mean answer. A column that is "not
known" has the values of background rows, which are training rows kept in the bundle
(interventional, as Lundberg and Lee 2017). `stats.coalitions` says how exact that is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.tables import for_program, take
from bascule.core import Columns, Untrusted
from bascule.stats import Coalitions

if TYPE_CHECKING:
    from bascule.bundle.explaining.explainer import Arrays, Explanation, OpensProgram

Floats = NDArray[np.float64]
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
