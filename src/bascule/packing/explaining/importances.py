"""Measures global importances and partial dependence while a model is packed.

The importance of a column is its mean |attribution| over rows and outputs. Its partial dependence
(Friedman 2001, section 8.2) is the mean answer when the column has one value in all rows; it asks
the model about rows that may not exist, where columns depend on one another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bascule.bundle import for_program, is_missing, take
from bascule.bundle.disk import Manifest
from bascule.bundle.explaining import (
    ColumnPlace,
    affordable_rows,
    column_places,
    open_explainer,
    read_explanation,
)
from bascule.core import Columns, Program
from bascule.packing.explaining.sampling import names_of
from bascule.packing.imported import ImportedModel

_MOST_ROWS, _LEAST_ROWS, _BUDGET_S = 1_000, 20, 2.0
_DEPENDENCE_ROWS = 200
_SHOWN = 8
_VALUES = 12
"""Of a column that partial dependence is computed for: quantiles, or frequent texts."""


def measure_importances(
    draft: Path, manifest: Manifest, subject: ImportedModel, program: Program, row_cost_s: float
) -> dict[str, Any]:
    """The body of the `importance` statement of a bundle that explains its answers.

    Args:
        draft: The bundle's folder, with its files.
        manifest: Of it.
        subject: The model, with its rows.
        program: What answers.
        row_cost_s: To explain one row; as many are explained as take about two seconds.
    """
    explanation, known = read_explanation(draft, manifest), subject.test or subject.train
    assert explanation is not None
    assert known is not None
    explainer = open_explainer(draft, manifest, explanation)
    affordable = affordable_rows(row_cost_s, _BUDGET_S, least=_LEAST_ROWS, most=_MOST_ROWS)
    order = np.random.default_rng(0).permutation(len(known))[:affordable]
    rows = for_program(take(known.columns, order), program.inputs)
    mean = np.abs(explainer.attributions(rows)).mean(axis=(0, 2))
    ranked = np.argsort(-mean, kind="stable").tolist()
    answer = next(field for field in program.outputs if field.name == explanation.answer)
    few, names = take(rows, slice(_DEPENDENCE_ROWS)), names_of(answer, subject.classes)
    places = column_places(subject.signature)
    return {
        "rows": len(order),
        "source": "held-out" if subject.test is not None else "training",
        "method": explanation.about,
        "unit": explanation.answer if explanation.link == "identity" else "margins",
        "importances": [[explainer.columns[k], float(mean[k])] for k in ranked],
        "dependence_rows": len(order[:_DEPENDENCE_ROWS]),
        "dependence": {
            places[k].name: _dependence(places[k], program, answer.name, few, names)
            for k in ranked[:_SHOWN]
            if k < len(places)
        },
    }


def _dependence(
    place: ColumnPlace, program: Program, answer: str, rows: Columns, names: tuple[str, ...]
) -> dict[str, Any]:
    """The values that the column is given, and by what the answer is of, the mean for each."""
    values, means = _values(place, rows), list[Any]()
    for value in values:
        answers = np.asarray(program.run(place.replaced(rows, value), [answer])[answer], float)
        means.append(answers.reshape(len(answers), -1).mean(axis=0))
    shown = range(len(names))[-1:] if len(names) == 2 else range(len(names))[:_SHOWN]
    values = [value if isinstance(value, str) else float(value) for value in values]
    return {"values": values, "answers": {names[k]: [float(m[k]) for m in means] for k in shown}}


def _values(place: ColumnPlace, rows: Columns) -> list[Any]:
    """Quantiles of numbers from 5 % to 95 %, or the most frequent values."""
    values = place.values(rows)
    known = values[np.isfinite(values) if values.dtype.kind == "f" else ~is_missing(values)]
    distinct, counts = np.unique(known, return_counts=True)
    if len(distinct) <= _VALUES:
        return list(distinct.tolist())
    if distinct.dtype.kind in "fiu":
        shares = np.linspace(0.05, 0.95, _VALUES)
        return list(np.unique(np.quantile(known, shares, method="nearest")).tolist())
    return list(np.sort(distinct[np.argsort(-counts, kind="stable")[:_VALUES]]).tolist())
