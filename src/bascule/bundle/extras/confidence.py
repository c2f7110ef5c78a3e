"""The extra output `confidence`: a prediction set, or an interval, by split conformal prediction.

A request that asks for nothing pays nothing: a threshold is looked up once per confidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

import msgspec

from bascule.bundle.disk import CALIBRATION, Manifest
from bascule.bundle.extras.extra import Extra, ExtraRequest, Parameter
from bascule.bundle.statements import read_calibration
from bascule.core import Columns, Field
from bascule.stats import LOWER, PREDICTION_SET, UPPER, Calibration

_CONFIDENCE = Parameter(
    "confidence", Annotated[float, msgspec.Meta(gt=0, lt=1)], "a number over 0 and under 1",
    "How often the truth is inside the prediction set or interval.", usual=0.9,
    hint="0.9 asks for answers that hold the truth nine times in ten",
)  # fmt: skip
_CONFORMAL = Parameter(
    "conformal", str, "a text", "The method: lac or aps for a classifier. If left out, the first."
)
_Literal: Any = Literal


class Confidence(Extra):
    """See `Extra`."""

    name = "confidence"
    parameters = (_CONFIDENCE, _CONFORMAL)
    outputs = MappingProxyType({PREDICTION_SET: (PREDICTION_SET,), "interval": (LOWER, UPPER)})
    row_cost_s = 0.5e-6  # of `aps` and ten classes; `lac` and intervals cost a tenth of it
    files = (CALIBRATION,)
    lack = (
        "the model has no calibration",
        "pack it with held-out rows and their truth: test=(X, y) or calibration=(X, y)",
    )

    def __init__(
        self, calibration: Calibration | None, outputs: Sequence[Field], default: float = 0.0
    ) -> None:
        """See `Limits.confidence` for `default`; raises `Invalid` if it cannot be supported."""
        self._calibration = calibration
        if calibration is None:
            super().__init__(())
            return
        methods = tuple(calibration.methods)
        conformal = _CONFORMAL._replace(
            type=_Literal[methods], expected=f"one of {', '.join(methods)}"
        )
        largest = {"maximum": calibration.largest_confidence}
        confidence = Annotated[float, msgspec.Meta(gt=0, lt=1, extra_json_schema=largest)]
        self.parameters = (_CONFIDENCE._replace(type=confidence), conformal)
        super().__init__(calibration.fields(outputs), tuple(calibration.needs), default)

    @classmethod
    def open(cls, path: Path, manifest: Manifest, default: float | None) -> Self:
        """See `Extra.open`."""
        calibration = read_calibration(path, manifest)
        return cls(calibration, manifest.signature.outputs, default or 0.0)

    def request(self, *values: Any) -> ExtraRequest:
        """See `Extra.request`: the rows may also be too few for the confidence."""
        request = super().request(*values)
        assert self._calibration is not None
        self._calibration.threshold(*request.settings)
        return request

    def add(self, inputs: Columns, outputs: Columns, settings: Any) -> Columns:  # noqa: ARG002
        """See `Extra.add`; `settings` are a confidence and a method."""
        assert self._calibration is not None
        return self._calibration.added(outputs, *settings)

    def metadata(self) -> dict[str, Any]:
        """See `Extra.metadata`."""
        if self._calibration is None:
            return {}
        return super().metadata() | {
            "confidence_methods": ",".join(self._calibration.methods),
            "confidence_largest": self._calibration.largest_confidence,
        }
