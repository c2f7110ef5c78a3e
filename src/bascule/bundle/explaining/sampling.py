"""Shapley values of any compiled tabular model: the bundle's own program is asked.

The answer to explain is set against the mean answer to background rows, which are training rows
kept in the bundle: a column that is "not known" has the values of those rows (interventional, as
Lundberg and Lee 2017, with the background as the marginal distribution). `stats.coalitions` says
which coalitions are asked, and how exact that is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.tables import for_program, take
from bascule.core import Columns, Field, Program, Untrusted
from bascule.stats import Coalitions, ShapleyEstimate

if TYPE_CHECKING:
    from bascule.bundle.explaining.explainer import Arrays, Explanation, OpensProgram

Floats = NDArray[np.float64]

METHOD = "sampling"
MAX_PLAYERS = 500
_MAX_CELLS = 4_000_000
"""Values of composed rows in one run of the program: 32 MB of numbers."""


class Sampled:
    """See `Explainer`."""

    def __init__(self, explanation: Explanation, arrays: Arrays, program: OpensProgram) -> None:
        opened = program()
        background = read_rows(arrays, opened.inputs)
        coalitions = Coalitions(len(explanation.columns), pairs=explanation.settings["pairs"])
        self.columns, self.outputs = explanation.columns, explanation.outputs
        self._game = Game(opened, explanation.answer, background, coalitions)
        self.base: Floats = self._game.base

    def attributions(self, inputs: Columns) -> Floats:
        """See `Explainer.attributions`."""
        return self._game.shapley(inputs).values

    def standard_errors(self, inputs: Columns) -> Floats:
        """Of the attributions, in the same shape."""
        return self._game.shapley(inputs).standard_errors


class Game:
    """The columns of a row as the players of a game whose value is the mean answer of a program."""

    def __init__(
        self, program: Program, answer: str, background: Columns, coalitions: Coalitions
    ) -> None:
        self._program, self._answer, self._coalitions = program, answer, coalitions
        self._background = for_program(background, program.inputs)
        self._rows = len(next(iter(background.values())))
        self.base: Floats = self._asked(self._background).mean(axis=0)

    def shapley(self, inputs: Columns) -> ShapleyEstimate:
        """Of each row, in the shape (rows, players, outputs); all coalitions of a row at once."""
        known = for_program(inputs, self._program.inputs)
        rows = len(next(iter(known.values())))
        values = np.stack([self._values(take(known, slice(row, row + 1))) for row in range(rows)])
        return self._coalitions.shapley(values)

    def _values(self, row: Columns) -> Floats:
        """The value of each coalition for one row. Shape (coalitions, outputs)."""
        masks = self._coalitions.masks
        at_once = max(1, _MAX_CELLS // (self._rows * masks.shape[1]))
        parts = []
        for start in range(0, len(masks), at_once):
            part = masks[start : start + at_once]
            answers = self._asked(self._composed(row, part))
            parts.append(answers.reshape(len(part), self._rows, -1).mean(axis=1))
        return np.concatenate(parts)

    def _composed(self, row: Columns, masks: NDArray[np.bool_]) -> Columns:
        """Each background row with the columns of each coalition replaced by those of the row."""
        count = len(masks) * self._rows
        composed, player = {}, 0
        for name, background in self._background.items():
            if background.ndim == 2:
                chosen = masks[:, None, :]
            else:
                chosen, player = masks[:, None, player], player + 1
            both = np.where(chosen, row[name][None], background[None])
            composed[name] = both.reshape(count, *background.shape[1:])
        return composed

    def _asked(self, columns: Columns) -> Floats:
        answer = self._program.run(columns, [self._answer])[self._answer]
        return np.asarray(answer, np.float64).reshape(len(answer), -1)


def write_rows(columns: Columns, inputs: Sequence[Field]) -> dict[str, NDArray[Any]]:
    """Rows as arrays without objects; missing texts are marked beside the others."""
    arrays = {}
    for place, field in enumerate(inputs):
        values = columns[field.name]
        if values.dtype == object:
            arrays[f"missing_{place}"] = np.array([value is None for value in values], bool)
            values = np.array([value or "" for value in values], np.str_)
        arrays[f"rows_{place}"] = values
    return arrays


def read_rows(arrays: Mapping[str, NDArray[Any]], inputs: Sequence[Field]) -> Columns:
    """What `write_rows` wrote. Raises `Untrusted` where the rows do not fit the inputs."""
    return dict(_read(arrays, inputs))


def _read(
    arrays: Mapping[str, NDArray[Any]], inputs: Sequence[Field]
) -> Iterator[tuple[str, NDArray[Any]]]:
    for place, field in enumerate(inputs):
        values = arrays[f"rows_{place}"]
        if values.dtype.kind == "U":
            values = values.astype(object)
            values[arrays[f"missing_{place}"]] = None
        if values.dtype != field.dtype.numpy or values.shape[1:] != field.shape:
            raise Untrusted(f"the background rows do not fit the input {field.name}")
        yield field.name, values
