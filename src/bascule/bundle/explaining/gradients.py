"""Integrated gradients of a network (Sundararajan, Taly and Yan 2017), without its framework.

A column's attribution is its distance from a baseline times the mean gradient on the straight line
from the baseline to the row. The baseline is the mean training row. The graph of the gradients is
made when the model is packed. The line is sampled at the points of a Gauss-Legendre rule.
Completeness (the attributions add up to the change of the answer) holds for the integral and tells
the error of the rule: rows that miss the tolerance are computed again with four times the points.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.programs import open_kind
from bascule.core import Columns, Field, Untrusted

if TYPE_CHECKING:
    from bascule.bundle.explaining.explainer import Arrays, Explanation, OpensProgram

Floats = NDArray[np.float64]

GRADIENTS, ANSWERS = "gradients", "answers"
"""The outputs of the graph: shape (rows, columns, outputs), and (rows, outputs)."""
_POINTS = (16, 64, 256, 1024)
_MAX_ROWS = 8_192
"""Of one run of the graph."""


class IntegratedGradients:
    """See `Explainer`."""

    def __init__(self, explanation: Explanation, arrays: Arrays, _program: OpensProgram) -> None:
        entry = explanation.features
        if entry is None or len(entry.inputs) != 1 or entry.kind != "onnx":
            raise Untrusted("integrated gradients need the graph of the gradients of one input")
        self.columns, self.outputs = explanation.columns, explanation.outputs
        self._tolerance = explanation.tolerance
        (self._input,) = entry.inputs
        numbers, dtype = len(self.outputs), self._input.dtype
        outputs = (
            Field(GRADIENTS, dtype, (len(self.columns), numbers)),
            Field(ANSWERS, dtype, (numbers,)),
        )
        self._graph = open_kind(entry, arrays["features"].tobytes(), outputs=outputs)
        self._baseline = np.asarray(arrays["baseline"], np.float64)
        self.base: Floats = self._answers(self._baseline[None])[0]

    def attributions(self, inputs: Columns) -> Floats:
        """See `Explainer.attributions`."""
        rows = np.asarray(inputs[self._input.name], np.float64)
        change = self._answers(rows) - self.base
        allowed = self._tolerance * np.maximum(1.0, np.abs(change + self.base)) / 2
        result = np.empty((*rows.shape, len(self.base)))
        left = np.arange(len(rows))
        for points in _POINTS:
            result[left] = self._integrated(rows[left], points)
            missed = np.abs(result[left].sum(axis=1) - change[left]) > allowed[left]
            left = left[missed.any(axis=1)]
            if not len(left):
                break
        return result

    def _integrated(self, rows: Floats, points: int) -> Floats:
        """Attributions by a rule of so many points, a piece of the rows at a time."""
        places, weights = np.polynomial.legendre.leggauss(points)
        shares, weights = (places + 1) / 2, weights / 2
        made = np.empty((*rows.shape, len(self.base)))
        at_once = max(1, _MAX_ROWS // points)
        for start in range(0, len(rows), at_once):
            away = rows[start : start + at_once] - self._baseline
            line = self._baseline + shares[:, None] * away[:, None]
            gradients = self._run(line.reshape(-1, line.shape[2]), GRADIENTS)
            by_point = gradients.reshape(*line.shape, -1)
            mean = np.einsum("p,rpco->rco", weights, by_point)
            made[start : start + at_once] = away[:, :, None] * mean
        return made

    def _answers(self, rows: Floats) -> Floats:
        return self._run(rows, ANSWERS)

    def _run(self, rows: Floats, output: str) -> Floats:
        columns = {self._input.name: rows.astype(self._input.dtype.numpy)}
        return np.asarray(self._graph.run(columns, [output])[output], np.float64)
