"""The extra output `confidence`: a prediction set, or an interval, by split conformal prediction.

A request that asks for nothing pays nothing: a threshold is looked up once per confidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from bascule.bundle.disk import Manifest
from bascule.bundle.extras.table import ExtraRequest
from bascule.bundle.statements import read_calibration
from bascule.core import Columns, Field, Invalid
from bascule.stats import Calibration, check_confidence

_UNSAID = object()
_ROW_COST_S = 0.5e-6
"""Of `aps` and ten classes; sets of `lac`, and intervals, cost a tenth of it."""


class Confidence:
    """See `bundle.extras.Extra`. Reads the parameters `confidence` and `conformal`."""

    name = "confidence"
    row_cost_s = _ROW_COST_S

    def __init__(
        self, calibration: Calibration | None, outputs: Sequence[Field], default: float = 0.0
    ) -> None:
        """See `Limits.confidence` for `default`; raises `Invalid` if it cannot be supported."""
        self._calibration = calibration
        self.fields = () if calibration is None else calibration.fields(outputs)
        self.needs = () if calibration is None else tuple(calibration.needs)
        self._check: Callable[..., ExtraRequest] = lru_cache(256)(self._checked)
        self.by_default: ExtraRequest | None = None
        if default and self._calibration is not None:
            self.by_default = self._check(default, None, always=False)

    def read(self, parameters: Mapping[str, Any]) -> ExtraRequest | None:
        """See `Extra.read`; raises `Invalid` for a confidence over what the model can support."""
        method: Any = parameters.get("conformal")
        confidence: Any = parameters.get("confidence", _UNSAID)
        if confidence is None:
            return None
        if confidence is _UNSAID:
            if self.by_default is None or method is None:
                return self.by_default
            confidence, _ = self.by_default.settings
        # Only what can be a key is looked up; the rest is refused in full words.
        plain = isinstance(confidence, int | float) and isinstance(method, str | None)
        if plain:
            return self._check(confidence, method)
        return self._checked(confidence, method)

    def add(self, inputs: Columns, outputs: Columns, settings: Any) -> Columns:  # noqa: ARG002 -- the protocol's
        """See `Extra.add`; `settings` are a confidence and a method."""
        assert self._calibration is not None
        return self._calibration.added(outputs, *settings)

    def metadata(self) -> dict[str, Any]:
        """See `Extra.metadata`."""
        if self._calibration is None:
            return {}
        made: dict[str, Any] = {
            "confidence_adds": ",".join(field.name for field in self.fields),
            "confidence_methods": ",".join(self._calibration.methods),
            "confidence_largest": self._calibration.largest_confidence,
        }
        if self.by_default is not None:
            made["confidence"], _ = self.by_default.settings
        return made

    def _checked(self, confidence: Any, method: Any, *, always: bool = True) -> ExtraRequest:
        checked = check_confidence(confidence)
        if self._calibration is None:
            raise Invalid(
                "parameters.confidence: the model has no calibration",
                hint="pack it with held-out rows and their truth: test=(X, y)",
            )
        named = self._calibration.method(method)
        self._calibration.threshold(checked, named)
        return ExtraRequest(self, (checked, named), always)


def open_confidence(path: Path, manifest: Manifest, default: float | None) -> Confidence:
    """The extra of a bundle; `default` is `Limits.confidence`, 0 or None for none."""
    calibration = read_calibration(path, manifest)
    return Confidence(calibration, manifest.signature.outputs, default or 0.0)
