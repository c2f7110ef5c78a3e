"""What an exact method reads of the inputs: the features that the model sums up."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.explaining.explainer import Arrays, Explanation
from bascule.bundle.programs import FEATURES, open_kind
from bascule.bundle.tables import as_dtype, for_program
from bascule.core import Columns, DType, Field


class Features:
    """Makes the features, shape (rows, features), from the inputs.

    Args:
        explanation: Its settings are `width` (how many features there are; -1 while packing finds
            out) and `rounds` (whether they are floats).
        arrays: The graph `features`, where the features are not the inputs side by side.
    """

    def __init__(self, explanation: Explanation, arrays: Arrays) -> None:
        self.width = int(explanation.settings["width"])
        self._type = DType.FP32 if explanation.settings["rounds"] else DType.FP64
        self._columns = explanation.columns
        self._program = None
        if explanation.features is not None:
            outputs = (Field(FEATURES, self._type, (self.width,)),)
            data = arrays["features"].tobytes()
            self._program = open_kind(explanation.features, data, outputs=outputs)

    def __call__(self, inputs: Columns) -> NDArray[Any]:
        if self._program is not None:
            read = for_program(inputs, self._program.inputs)
            made = self._program.run(read)[FEATURES]
        else:
            own = inputs if len(inputs) == 1 else self._columns  # as a request orders them
            made = np.column_stack([inputs[name] for name in own])
        if self.width >= 0 and made.shape[1:] != (self.width,):
            raise ValueError(f"{made.shape[1:]} features, not {self.width}")
        return as_dtype(made, self._type)
