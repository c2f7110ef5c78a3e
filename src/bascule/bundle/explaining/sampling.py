"""Shapley values of any compiled tabular model: the bundle's own program is asked.

A column that is "not known" has the values of background rows, which are training rows kept in the
bundle (interventional, as Lundberg and Lee 2017). `stats.coalitions` says how exact that is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.tables import for_program, take
from bascule.core import Columns, Program, Untrusted
from bascule.stats import Coalitions, ShapleyEstimate

if TYPE_CHECKING:
    from bascule.bundle.explaining.explainer import Arrays, Explanation, OpensProgram

Floats = NDArray[np.float64]
_MAX_PAIRS, _MAX_EXACT = 256, 12
_MAX_CELLS = 4_000_000
"""Values of composed rows in one run of the program: 32 MB of numbers."""


class Sampled:
    """See `Explainer`."""

    def __init__(self, explanation: Explanation, _arrays: Arrays, program: OpensProgram) -> None:
        opened = program()
        columns, pairs = explanation.columns, int(explanation.settings["pairs"])
        if not (0 < pairs <= _MAX_PAIRS or (pairs == 0 and len(columns) <= _MAX_EXACT)):
            raise Untrusted("the bundle asks for too many coalitions", hint="pack the model again")
        background = {
            field.name: np.array(values, object).astype(field.dtype.numpy)  # None becomes NaN
            for field, values in zip(opened.inputs, explanation.settings["rows"], strict=True)
        }
        self.columns, self.outputs = columns, explanation.outputs
        self._game = Game(opened, explanation.answer, background, Coalitions(len(columns), pairs))
        self.base: Floats = self._game.base

    def attributions(self, inputs: Columns) -> Floats:
        """See `Explainer.attributions`."""
        return self._game.shapley(inputs).values


class Game:
    """The columns of a row as players of a game whose value is the mean answer of a program."""

    def __init__(
        self, program: Program, answer: str, background: Columns, coalitions: Coalitions
    ) -> None:
        self._program, self._answer, self._coalitions = program, answer, coalitions
        self._background = for_program(background, program.inputs)
        self._rows = len(next(iter(background.values())))
        self.base: Floats = self._asked(self._background).mean(axis=0)

    def shapley(self, inputs: Columns) -> ShapleyEstimate:
        """Of each row. The program is asked about all coalitions of a row in one run."""
        known = for_program(inputs, self._program.inputs)
        rows = range(len(next(iter(known.values()))))
        values = np.stack([self._values(take(known, slice(row, row + 1))) for row in rows])
        return self._coalitions.shapley(values)

    def _values(self, row: Columns) -> Floats:
        """The value of each coalition for one row. Shape (coalitions, outputs)."""
        masks = self._coalitions.masks
        at_once = max(1, _MAX_CELLS // (self._rows * masks.shape[1]))
        pieces = [masks[start : start + at_once] for start in range(0, len(masks), at_once)]
        answers = np.concatenate([self._asked(self._composed(row, piece)) for piece in pieces])
        return np.asarray(answers.reshape(len(masks), self._rows, -1).mean(axis=1))

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
