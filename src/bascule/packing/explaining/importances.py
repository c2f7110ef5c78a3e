"""Measures global importances and partial dependence while a model is packed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import for_program, take
from bascule.bundle.disk import Manifest
from bascule.bundle.explaining import (
    ColumnPlace,
    Dependence,
    Explanation,
    Importances,
    column_places,
    open_explainer,
    read_explanation,
)
from bascule.core import Columns, Program
from bascule.packing.explaining.sampling import names_of
from bascule.packing.imported import ImportedModel

_MOST_ROWS, _LEAST_ROWS = 1_000, 20
_BUDGET_S = 2.0
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
    explanation = read_explanation(draft, manifest)
    assert explanation is not None
    explainer = open_explainer(draft, manifest, explanation)
    known = subject.test or subject.train
    assert known is not None
    affordable = int(_BUDGET_S / max(row_cost_s, 1e-9))
    count = min(len(known), max(_LEAST_ROWS, min(_MOST_ROWS, affordable)))
    rows = for_program(_sample(known.columns, count), program.inputs)
    mean = np.abs(explainer.attributions(rows)).mean(axis=(0, 2))
    ranked = np.argsort(-mean, kind="stable")
    few = take(rows, slice(_DEPENDENCE_ROWS))
    dependence = _dependence(subject, program, explanation, few, ranked[:_SHOWN].tolist())
    importances = Importances(
        rows=count,
        source="held-out" if subject.test is not None else "training",
        method=explanation.about,
        unit=explanation.answer if explanation.link == "identity" else "margin",
        importances=[(explainer.columns[k], float(mean[k])) for k in ranked],
        dependence=dict(dependence),
        dependence_rows=len(next(iter(few.values()))),
    )
    return asdict(importances)


def _sample(columns: Columns, count: int) -> Columns:
    rows = len(next(iter(columns.values())))
    return take(columns, np.sort(np.random.default_rng(0).choice(rows, count, replace=False)))


def _dependence(
    subject: ImportedModel, program: Program, explanation: Explanation, rows: Columns,
    chosen: Sequence[int],
) -> Iterator[tuple[str, Dependence]]:  # fmt: skip
    source = subject.train or subject.test
    places = column_places(subject.signature)
    answer = next(field for field in program.outputs if field.name == explanation.answer)
    names = names_of(answer, subject.classes)
    shown = range(len(names))[-1:] if len(names) == 2 else range(min(len(names), _SHOWN))
    for place in (places[k] for k in chosen if k < len(places)):
        assert source is not None
        values = _values(place, source.columns)
        answers = [_mean_answer(program, answer.name, place.replaced(rows, v)) for v in values]
        by_name = {names[k]: [float(one[k]) for one in answers] for k in shown}
        if values:
            plain = [value if isinstance(value, str) else float(value) for value in values]
            yield place.name, Dependence(plain, by_name)


def _values(place: ColumnPlace, columns: Columns) -> list[Any]:
    """Quantiles of numbers from 5 % to 95 %; the most frequent texts or truths."""
    values = place.values(columns)
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    elif values.dtype == object:
        values = np.array([value for value in values if value is not None], object)
    if not len(values):
        return []
    distinct, counts = np.unique(values, return_counts=True)
    if values.dtype.kind in "fiu" and len(distinct) > _VALUES:
        shares = np.linspace(0.05, 0.95, _VALUES)
        distinct = np.unique(np.quantile(values, shares, method="nearest"))
    elif len(distinct) > _VALUES:
        distinct = np.sort(distinct[np.argsort(-counts, kind="stable")[:_VALUES]])
    listed: list[Any] = distinct.tolist()
    return listed


def _mean_answer(program: Program, answer: str, rows: Columns) -> NDArray[np.float64]:
    answers = np.asarray(program.run(rows, [answer])[answer], np.float64)
    return np.asarray(answers.reshape(len(answers), -1).mean(axis=0))
