"""How much a model depends on each column, over many rows: what packing measures and cards show.

The importance of a column is its mean |attribution| over the rows and the outputs. Its partial
dependence (Friedman 2001, section 8.2) is the mean answer when the column has one value in all
rows. It asks the model about rows that may not exist, where columns depend on one another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.disk import shaped
from bascule.bundle.explaining.explainer import Explainer
from bascule.core import Columns

IMPORTANCE_KIND = "importance"
"""Of the statement that holds them."""


@dataclass(frozen=True, slots=True)
class Dependence:
    """The partial dependence on one column.

    Attributes:
        values: That the column was given, ascending numbers or texts.
        answers: The mean answer for each value, by what it is of: a class, or the output.
    """

    values: Sequence[float | str]
    answers: Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Importances:
    """The body of the statement.

    Attributes:
        rows: How many rows were explained.
        source: Which: `held-out` or `training`.
        method: How: the sentence of the explanation.
        unit: What attributions are in: `probabilities`, or `margin` where a link is between.
        importances: Mean |attribution| by column, the largest first.
        dependence: By column, of the first of them.
        dependence_rows: How many rows a mean answer is of.
    """

    rows: int
    source: str
    method: str
    unit: str
    importances: Sequence[tuple[str, float]]
    dependence: Mapping[str, Dependence]
    dependence_rows: int

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Importances:
        """Raises `Untrusted` where the body is none."""
        return shaped(dict(body), cls, f"the {IMPORTANCE_KIND} statement", what="importances")


def by_column(explainer: Explainer, inputs: Columns) -> dict[str, NDArray[np.float64]]:
    """One number a row and column: the attribution to the answer.

    Of two outputs it is to the second one, as in a report on two classes. Of more it is the mean
    |attribution|: what raises one class lowers others.
    """
    attributions = explainer.attributions(inputs)
    few = attributions.shape[2] <= 2
    numbers = attributions[:, :, -1] if few else np.abs(attributions).mean(axis=2)
    return dict(zip(explainer.columns, numbers.T, strict=True))
