"""An extra output for tests: the sum of each row to a power. One file, and a line for it."""

from __future__ import annotations

from types import MappingProxyType
from typing import Annotated

import numpy as np
from msgspec import Meta

from bascule.bundle.extras import Extra, Parameter
from bascule.core import DType, Field

PLACE = "tests.row_sum_extra:RowSum"
"""Its line in the table of extra outputs."""


class RowSum(Extra):
    """Asked for by `row_sum`, over all protocols but Azure ML."""

    name = "row_sum"
    parameters = (
        Parameter("row_sum", bool, "true or false", "Whether to add the sum of each row.", True),
        Parameter("power", Annotated[int, Meta(ge=1, le=3)], "a number from 1 to 3", "Of a value."),
    )
    outputs = MappingProxyType({"row_sum": ("row_sum",)})
    places = ("oip", "grpc", "invocations", "vertex", "batch")
    row_cost_s = 1e-7

    @classmethod
    def open(cls, *_bundle):
        return cls((Field("row_sum", DType.FP64),))

    def add(self, inputs, outputs, settings):
        _, power = settings
        return {
            "row_sum": sum(np.atleast_2d(at.T ** (power or 1)).sum(0) for at in inputs.values())
        }
