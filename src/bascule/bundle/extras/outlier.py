"""The extra output `outlier`: how unlike the training rows each row is; see `stats.outliers`.

The scorer is read from the bundle at the first request that asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from bascule.bundle.disk import OUTLIER_SCORER, Manifest, parse, read_file, reading
from bascule.bundle.extras.extra import Extra, ExtraRequest, Parameter
from bascule.core import Columns, DType, Field
from bascule.stats import OutlierScorer

OUTLIER_P, OUTLIER_SCORE = "outlier_p", "outlier_score"
_PROJECTED_ROW_S = 2e-3
_FIELDS = (Field(OUTLIER_P, DType.FP64), Field(OUTLIER_SCORE, DType.FP64))


class Outlier(Extra):
    """See `Extra`."""

    name = "outlier"
    parameters = (
        Parameter(
            "outlier", bool, "true or false",
            "Whether to add how unlike the training rows each row is, as a p-value and a score.",
            usual=True,
        ),
    )  # fmt: skip
    outputs = MappingProxyType({OUTLIER_P: (OUTLIER_P,), OUTLIER_SCORE: (OUTLIER_SCORE,)})
    row_cost_s = 1e-5
    files = (OUTLIER_SCORER,)
    lack = (
        "the model has no scorer of outliers",
        "pack it again with its training rows: train=X, and test=(X, y) where there are any",
    )

    def __init__(self, path: Path, manifest: Manifest, default: Any = None) -> None:
        """See `Extra`; nothing is read yet."""
        taken = {field.name for field in manifest.signature.outputs}
        is_there = self.is_supported(manifest) and taken.isdisjoint(self.outputs)
        super().__init__(_FIELDS if is_there else (), (), default)
        self._path, self._manifest = path, manifest

    @classmethod
    def open(cls, path: Path, manifest: Manifest, default: Any) -> Self:
        """See `Extra.open`."""
        return cls(path, manifest, default)

    @cached_property
    def scorer(self) -> OutlierScorer:
        """That of the bundle; raises `Untrusted` where the file is not the one that was sealed."""
        data = read_file(self._path, self._manifest, OUTLIER_SCORER)
        what = "a scorer of outliers"
        value = parse(data, f"{OUTLIER_SCORER} of bundle {self._path}", what=what)
        with reading(OUTLIER_SCORER, what=what):
            return OutlierScorer.from_json(value)

    def request(self, *values: Any) -> ExtraRequest:
        """See `Extra.request`: projections of texts and images take longer."""
        request = super().request(*values)
        if self.scorer.projected:
            self.row_cost_s = _PROJECTED_ROW_S
        return request

    def read(self, parameters: Mapping[str, Any]) -> ExtraRequest | None:
        """See `Extra.read`; `false` asks for nothing."""
        return None if parameters.get(self.name) is False else super().read(parameters)

    def add(self, inputs: Columns, outputs: Columns, settings: Any) -> Columns:  # noqa: ARG002
        """See `Extra.add`."""
        names = [field.name for field in self._manifest.signature.inputs if field.dates is None]
        scores = self.scorer.scores({name: inputs[name] for name in names})
        return {OUTLIER_P: self.scorer.p_values(scores), OUTLIER_SCORE: scores}

    def metadata(self) -> dict[str, Any]:
        """See `Extra.metadata`."""
        if not self.fields:
            return {}
        return super().metadata() | {"outlier_smallest_p": self.scorer.smallest_p}
