"""Exact Shapley values of linear models.

The value of a feature is its coefficient times its distance from the mean of the training rows:
with these rows as background, that is its interventional Shapley value, also where features depend
on each other. Of a column that becomes several features (one-hot, words) it is the sum of
theirs. That sum is the column's own Shapley value, for the model is a sum of functions of the
single columns, and each contributes the same to every coalition.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.explaining.explainer import Arrays, Explanation, Features, OpensProgram
from bascule.core import Columns

_VALUES_AT_ONCE = 1 << 22


class LinearExplainer:
    """See `Explainer`. The arrays are those that `packing.explaining.linear` writes.

    Args:
        explanation: See `Features` for its settings.
        arrays: `coefficients`, shape (features, outputs); `means` and `players` (the column of
            each feature, -1 where it is constant), shape (features,); `base`; see `Features`.
    """

    def __init__(self, explanation: Explanation, arrays: Arrays, _program: OpensProgram) -> None:
        self.columns = explanation.columns
        self.outputs = explanation.outputs
        self.base: NDArray[np.float64] = arrays["base"].astype(np.float64)
        self._features = Features(explanation, arrays)
        players = arrays["players"]
        order = np.argsort(players, kind="stable")
        self._order = order[np.searchsorted(players[order], 0) :]
        self._players, self._starts = np.unique(players[self._order], return_index=True)
        self._coefficients = arrays["coefficients"].astype(np.float64)[self._order]
        self._means = arrays["means"].astype(np.float64)[self._order]
        expected = (len(self._order), len(self.outputs))
        if self._coefficients.shape != expected or self.base.shape != expected[1:]:
            raise ValueError("it has not as many coefficients as features and outputs")
        if self._players.size and self._players[-1] >= len(self.columns):
            raise ValueError("a feature is of a column that there is not")

    def attributions(self, inputs: Columns) -> NDArray[np.float64]:
        """See `Explainer.attributions`."""
        features = self._features(inputs)
        rows = len(features)
        added = np.zeros((rows, len(self.columns), len(self.outputs)))
        if not self._players.size:
            return added
        step = max(1, _VALUES_AT_ONCE // len(self._order))
        for start in range(0, rows, step):
            part = features[start : start + step, self._order].astype(np.float64) - self._means
            for place in range(len(self.outputs)):
                own = np.add.reduceat(part * self._coefficients[:, place], self._starts, axis=1)
                added[start : start + step, self._players, place] = own
        return added
