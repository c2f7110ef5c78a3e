"""Integrated gradients of a network (Sundararajan, Taly and Yan 2017), without its framework.

A column's attribution is its distance from the mean training row times the mean gradient on the
straight line to the row. The graph of the gradients is made when the model is packed. The line is
sampled by a composite Gauss-Legendre rule; completeness (attributions add up to the change of
the answer) tells its error, and rows that miss the tolerance are computed with more points.
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
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(4)
_POINTS = (64, 256, 1024)
_MAX_ROWS = 8_192
"""Of one run of the graph."""


class IntegratedGradients:
    """See `Explainer`."""

    def __init__(self, explanation: Explanation, arrays: Arrays, _program: OpensProgram) -> None:
        entry = explanation.features
        if entry is None or len(entry.inputs) != 1 or entry.kind != "onnx":
            raise Untrusted("the bundle lacks the graph of gradients", hint="pack the model again")
        self.columns, self.outputs = explanation.columns, explanation.outputs
        self._tolerance = explanation.tolerance
        (self._input,) = entry.inputs
        shapes = {GRADIENTS: (len(self.columns), len(self.outputs)), ANSWERS: (len(self.outputs),)}
        outputs = tuple(Field(name, self._input.dtype, shape) for name, shape in shapes.items())
        self._graph = open_kind(entry, arrays["features"].tobytes(), outputs=outputs)
        self._baseline = np.asarray(arrays["baseline"], np.float64)
        self.base: Floats = self._run(self._baseline[None], ANSWERS)[0]

    def attributions(self, inputs: Columns) -> Floats:
        """See `Explainer.attributions`."""
        rows = np.asarray(inputs[self._input.name], np.float64)
        answers = self._run(rows, ANSWERS)
        allowed = self._tolerance * np.maximum(1.0, np.abs(answers)) / 2
        result, left = np.empty((*rows.shape, len(self.base))), np.arange(len(rows))
        for points in _POINTS:
            at_once = max(1, _MAX_ROWS // points)
            for start in range(0, len(left), at_once):
                piece = left[start : start + at_once]
                result[piece] = self._integrated(rows[piece] - self._baseline, points)
            missed = np.abs(self.base + result[left].sum(axis=1) - answers[left]) > allowed[left]
            left = left[missed.any(axis=1)]
        return result

    def _integrated(self, away: Floats, points: int) -> Floats:
        """Attributions of rows so far away from the baseline, by a rule of so many points."""
        pieces = points // len(_NODES)
        places = ((np.arange(pieces)[:, None] + (_NODES + 1) / 2) / pieces).ravel()
        weights = np.tile(_WEIGHTS / 2 / pieces, pieces)
        line = self._baseline + places[:, None] * away[:, None]
        gradients = self._run(line.reshape(-1, away.shape[1]), GRADIENTS)
        mean = np.einsum("p,rpco->rco", weights, gradients.reshape(*line.shape, -1))
        return np.asarray(away[:, :, None] * mean)

    def _run(self, rows: Floats, output: str) -> Floats:
        columns = {self._input.name: rows.astype(self._input.dtype.numpy)}
        return np.asarray(self._graph.run(columns, [output])[output], np.float64)
