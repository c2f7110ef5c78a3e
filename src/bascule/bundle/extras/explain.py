"""The extra output `explain`: what each input column adds to the answer.

Every answer is checked: base and attributions add up to the margin, and the link of the margin is
the model's own answer. An explanation that fails is an error, and no number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from bascule.bundle.disk import EXPLAINING, EXPLAINING_ARRAYS, Manifest
from bascule.bundle.explaining import (
    Explainer,
    Explanation,
    differences,
    measured_of,
    open_explainer,
    read_explanation,
)
from bascule.bundle.extras.extra import Extra, ExtraRequest, Parameter
from bascule.core import Columns, DType, Field, ModelFailed

ATTRIBUTIONS, BASE, REST = "attributions", "attributions_base", "attributions_rest"
_TOP = Annotated[str, msgspec.Meta(pattern="^(true|top[1-9][0-9]{0,4})$")]
_EXPLAIN = Parameter(
    "explain", bool | _TOP, "true, or a text such as top5",
    "Adds what each column adds to the answer; `top5` leaves all but the five largest at 0.",
    usual=True, hint="true gives the attributions of all columns, top5 those of five",
)  # fmt: skip


class Explain(Extra):
    """See `Extra`."""

    name = "explain"
    parameters = (_EXPLAIN,)
    outputs = MappingProxyType({ATTRIBUTIONS: (ATTRIBUTIONS, BASE, REST)})
    row_cost_s = math.inf  # until it was opened, by the first request, on a thread
    files = (EXPLAINING, EXPLAINING_ARRAYS)
    lack = (
        "the bundle holds no explanations",
        "pack the model again, with its training rows; packing says why there are none",
    )

    def __init__(self, path: Path, manifest: Manifest, explanation: Explanation | None) -> None:
        self._bundle = path, manifest
        self.explanation = explanation
        if explanation is None:
            super().__init__(())
            return
        count = len(explanation.outputs)
        shape = () if count == 1 else (count,)
        fields = (
            Field(ATTRIBUTIONS, DType.FP64, (len(explanation.columns), *shape)),
            Field(BASE, DType.FP64, shape),
            Field(REST, DType.FP64, shape),
        )
        super().__init__(fields, (explanation.answer,))

    @classmethod
    def open(cls, path: Path, manifest: Manifest, default: Any) -> Self:  # noqa: ARG003
        """See `Extra.open`: nothing is explained unasked."""
        return cls(path, manifest, read_explanation(path, manifest))

    def read(self, parameters: Mapping[str, Any]) -> ExtraRequest | None:
        """See `Extra.read`; false asks for nothing."""
        return None if parameters.get(self.name) is False else super().read(parameters)

    def add(self, inputs: Columns, outputs: Columns, settings: Any) -> Columns:
        """See `Extra.add`; `settings` are True or `topK`.

        Raises:
            ModelFailed: The attributions do not add up to the answer.
        """
        explanation = self.explanation
        assert explanation is not None
        explainer = self.explainer
        values = explainer.attributions(inputs)
        margins = explainer.base + values.sum(axis=1)
        apart = differences(explanation.link, margins, outputs[explanation.answer])
        if not (apart <= explanation.tolerance).all():
            raise ModelFailed(
                f"the attributions differ from the answer by {float(np.max(apart)):.2g}",
                hint="pack the model again",
            )
        (how,) = settings
        rest = np.zeros_like(margins)
        if how not in (True, "true"):
            values, rest = _largest(values, int(how.removeprefix("top")))
        parts = (values, np.broadcast_to(explainer.base, margins.shape), rest)
        return {
            field.name: np.ascontiguousarray(part).reshape(-1, *field.shape)  # of one: no axis
            for field, part in zip(self.fields, parts, strict=True)
        }

    @cached_property
    def explainer(self) -> Explainer:
        """Opened by the first request."""
        assert self.explanation is not None
        path, _ = self._bundle
        measured = measured_of(path)
        if measured is not None:
            self.row_cost_s = max(measured.row_cost_s, measured.one_row_s)
        return open_explainer(*self._bundle, self.explanation)

    def metadata(self) -> dict[str, Any]:
        """See `Extra.metadata`."""
        if self.explanation is None:
            return {}
        return super().metadata() | {
            "explain_columns": ",".join(self.explanation.columns),
            "explain_outputs": ",".join(self.explanation.outputs),
            "explain_about": self.explanation.about,
            "explain_link": self.explanation.link,
        }


def _largest(
    values: NDArray[np.float64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The attributions of the `count` columns with the largest, the others 0; and their sum."""
    if count >= values.shape[1]:
        return values, np.zeros((len(values), values.shape[2]))
    sizes = np.abs(values).max(axis=2)
    small = np.argpartition(-sizes, count - 1, axis=1)[:, count:, None]
    rest = np.take_along_axis(values, small, axis=1).sum(axis=1)
    kept = values.copy()
    np.put_along_axis(kept, small, 0.0, axis=1)
    return kept, rest
